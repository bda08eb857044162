"""`osremed VERB ...`: data on stdout, talk on stderr, one line and a hint for an error, exit codes of core.errors."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from osremed.core.errors import BadInput, ExitCode, OsremedError, Unavailable
from osremed.verbs.load import find, load
from osremed.verbs.model import BESIDE, Arg, Verb
from osremed.verbs.table import VERBS

if TYPE_CHECKING:
    import argparse
    from types import TracebackType


def _light(verb: Verb, words: list[str]) -> dict[str, Any]:
    """Arguments of a daemon, parsed by hand: argparse would stay in its memory."""
    values: dict[str, Any] = {arg.dest: (False if arg.kind == "flag" else arg.default) for arg in verb.args}
    known = {arg.name: arg for arg in verb.args}
    rest = iter(words)
    for word in rest:
        name, _, inline = word.partition("=")
        arg = known.get(name)
        if arg is None:
            hint = f"arguments are {', '.join(known) or 'none'}"
            raise BadInput(f"unknown argument {word!r}", hint=hint, code="input.usage")
        if arg.kind == "flag":
            values[arg.dest] = True
            continue
        value = inline or next(rest, None)
        if value is None:
            raise BadInput(f"{name} needs a value", code="input.usage")
        values[arg.dest] = value
    return values


class _Later(ModuleType):
    """Stands for a module until something of it is used. dataclasses imports `inspect`, 2 MB resident, for classes
    without a docstring alone."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        import importlib  # noqa: PLC0415

        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _parser() -> argparse.ArgumentParser:
    from osremed import __version__  # noqa: PLC0415
    from osremed.cli.language import speak_as_asked  # noqa: PLC0415
    from osremed.cli.parser import build_parser  # noqa: PLC0415

    speak_as_asked()
    return build_parser(VERBS, __version__)


def _run(words: list[str]) -> int:
    found = find(words)
    if found and found[0].light and "-h" not in words and "--help" not in words:
        verb, rest = found
        sys.modules.setdefault("inspect", _Later("inspect"))
        sys.excepthook = sys.__excepthook__  # of what serves, the journal wants the whole trace
        answer = load(verb)(**_light(verb, rest))
        _print(answer.text)
        return int(answer.exit_code)
    arguments = vars(_parser().parse_args(words))
    output, verb = arguments.pop("output"), arguments.pop("verb", None)
    if verb is None:
        _parser().print_help(sys.stderr)
        return ExitCode.BAD_INPUT
    elsewhere = bool(verb.elsewhere and arguments["host"])
    wanted = verb.all_args if elsewhere else verb.args
    asks = bool(verb.evidence and arguments["opinion"])
    beside = load(verb._replace(function=BESIDE, words=(*verb.words, "--opinion"))) if asks else None
    answer = load(verb, elsewhere=elsewhere)(**{arg.dest: arguments[arg.dest] for arg in wanted})
    if beside:
        answer = beside(answer, kind=verb.evidence, state=arguments["state"], opinion=arguments["settings"])
    from osremed.cli.output import shown  # noqa: PLC0415  not in the memory of a daemon

    if sys.stdout is not None:  # it is not when the caller closed it
        _print(shown(answer, output))
    return int(answer.exit_code)


def _print(text: str) -> None:
    """A reader who has gone, as `head` does, changes nothing about how the command ended."""
    if not text:
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")  # paths are bytes
        sys.stdout.flush()
    except BrokenPipeError:
        _turn_away()


def _turn_away() -> None:
    """Nobody reads the output any more: what Python still has to write is for nobody."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _reader_has_gone() -> bool:
    import select  # noqa: PLC0415

    output = select.poll()
    output.register(1, 0)
    return any(state & (select.POLLERR | select.POLLHUP) for _, state in output.poll(0))


def _bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What no verb foresaw, in one line: as `sys.excepthook`, after which Python ends with 1."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "osremed"
    bug = OsremedError(f"{kind.__name__}: {error}", where=at, hint="--debug shows the trace: report it", code="bug")
    _say(bug, debug=False)


def _of_system(error: OSError) -> OsremedError:
    what, where = str(error.strerror or error), str(error.filename or "system")
    if isinstance(error, PermissionError):
        return Unavailable(what, where=where, hint="this needs root here", code="unavailable.privilege")
    return OsremedError(what, where=where, code="failed.system")


def _say(error: OsremedError, *, debug: bool) -> int:
    from osremed.cli.language import speak_as_asked  # noqa: PLC0415
    from osremed.cli.output import told  # noqa: PLC0415

    speak_as_asked()
    if debug:
        import traceback  # noqa: PLC0415

        traceback.print_exc()
    if sys.stderr is not None:
        sys.stderr.write(told(error))
    return int(error.exit_code)


def main(words: list[str] | None = None) -> int:
    """Runs one command; the exit code. `--debug`, anywhere, shows where an error comes from."""
    given = sys.argv[1:] if words is None else words
    debug = "--debug" in given
    if words is None and not debug:
        sys.excepthook = _bug
    try:
        return _run([word for word in given if word != "--debug"])
    except OsremedError as error:
        return _say(error, debug=debug)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():  # of a verb that tells as it goes
            _turn_away()
            return ExitCode.OK
        return _say(_of_system(error), debug=debug)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


__all__ = ["Arg", "main"]
