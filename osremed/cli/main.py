"""`osremed VERB ...`: data on stdout, talk on stderr, one line and a hint for an error, exit codes of core.errors."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from osremed.core.errors import BadInput, ExitCode, OsremedError
from osremed.verbs.load import find, load
from osremed.verbs.table import VERBS, Arg, Verb

if TYPE_CHECKING:
    import argparse


def _light(verb: Verb, words: list[str]) -> dict[str, Any]:
    """Arguments of a daemon, parsed by hand: argparse would stay in its memory."""
    values: dict[str, Any] = {arg.dest: (False if arg.kind == "flag" else arg.default) for arg in verb.args}
    known = {arg.name: arg for arg in verb.args}
    rest = iter(words)
    for word in rest:
        name, _, inline = word.partition("=")
        arg = known.get(name)
        if arg is None:
            raise BadInput(f"unknown argument {word!r}", hint=f"arguments are {', '.join(known) or 'none'}")
        if arg.kind == "flag":
            values[arg.dest] = True
            continue
        value = inline or next(rest, None)
        if value is None:
            raise BadInput(f"{name} needs a value")
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
    from osremed.cli.parser import build_parser  # noqa: PLC0415

    return build_parser(VERBS, __version__)


def _run(words: list[str]) -> int:
    found = find(words)
    if found and found[0].light and "-h" not in words and "--help" not in words:
        verb, rest = found
        sys.modules.setdefault("inspect", _Later("inspect"))
        answer = load(verb)(**_light(verb, rest))
        _print(answer.text, "text")
        return int(answer.exit_code)
    arguments = vars(_parser().parse_args(words))
    output, verb = arguments.pop("output"), arguments.pop("verb", None)
    if verb is None:
        _parser().print_help(sys.stderr)
        return ExitCode.BAD_INPUT
    elsewhere = bool(verb.elsewhere and arguments["host"])
    wanted = verb.all_args if elsewhere else verb.args
    answer = load(verb, elsewhere=elsewhere)(**{arg.dest: arguments[arg.dest] for arg in wanted})
    if output == "html" and answer.html is not None:
        _print(answer.html(), output)
        return int(answer.exit_code)
    _print(answer.document if output == "json" else answer.text, output)
    return int(answer.exit_code)


def _print(what: Any, output: str) -> None:
    import json  # noqa: PLC0415

    text = json.dumps(what, indent=2, ensure_ascii=False) if output == "json" else str(what)
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def main(words: list[str] | None = None) -> int:
    """Runs one command; the exit code."""
    try:
        return _run(sys.argv[1:] if words is None else words)
    except OsremedError as error:
        sys.stderr.write(f"osremed: {error}\n")
        return int(error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone; nothing more can be said
            return ExitCode.OK
        sys.stderr.write(f"osremed: {error.filename or 'system'}: {error.strerror or error}\n")
        if isinstance(error, PermissionError):
            sys.stderr.write("  hint: this needs root here\n")
            return ExitCode.UNAVAILABLE
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


__all__ = ["Arg", "main"]
