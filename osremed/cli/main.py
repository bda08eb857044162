"""`osremed VERB ...`: data on stdout, talk on stderr, one line and a hint for an error, exit codes of core.errors."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from osremed.cli.table import ELSEWHERE, VERBS, Arg, Verb
from osremed.core.errors import BadInput, ExitCode, OsremedError, Unavailable

if TYPE_CHECKING:
    import argparse

_CONTROL_ONLY = frozenset({"ansible_runner", "httpx", "jinja2", "prefect", "pydantic", "starlette", "uvicorn", "yaml"})


def _dest(name: str) -> str:
    """The keyword of an argument: `--for` is a word of Python, so it arrives as `hold`."""
    return {"--for": "hold"}.get(name, name.lstrip("-").replace("-", "_"))


def _load(verb: Verb, *, elsewhere: bool = False) -> Any:
    """The verb's function, or the one that asks another host. Unavailable if its room is not installed here."""
    import importlib  # noqa: PLC0415 each command loads only what it needs

    module, _, name = (verb.elsewhere if elsewhere else verb.function).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")
        if missing[0] not in _CONTROL_ONLY and missing[0] != "osremed":
            raise
        words = " ".join(verb.words)
        hint = "pip install 'osremed[control]' with Python 3.11-3.13"
        raise Unavailable(
            f"`osremed {words}` belongs to the control plane, {error.name} is not here", hint=hint
        ) from error


def _light(verb: Verb, words: list[str]) -> dict[str, Any]:
    """Arguments of a daemon, parsed by hand: argparse would stay in its memory."""
    values: dict[str, Any] = {_dest(arg.name): (False if arg.kind == "flag" else arg.default) for arg in verb.args}
    known = {arg.name: arg for arg in verb.args}
    rest = iter(words)
    for word in rest:
        name, _, inline = word.partition("=")
        arg = known.get(name)
        if arg is None:
            raise BadInput(f"unknown argument {word!r}", hint=f"arguments are {', '.join(known) or 'none'}")
        if arg.kind == "flag":
            values[_dest(name)] = True
            continue
        value = inline or next(rest, None)
        if value is None:
            raise BadInput(f"{name} needs a value")
        values[_dest(name)] = value
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


def _find(words: list[str]) -> tuple[Verb, list[str]] | None:
    for verb in VERBS:
        if tuple(words[: len(verb.words)]) == verb.words:
            return verb, words[len(verb.words) :]
    return None


def _parser() -> argparse.ArgumentParser:
    from osremed import __version__  # noqa: PLC0415
    from osremed.cli.parser import build_parser  # noqa: PLC0415

    return build_parser(VERBS, __version__, _dest)


def _run(words: list[str]) -> int:
    found = _find(words)
    if found and found[0].light and "-h" not in words and "--help" not in words:
        verb, rest = found
        sys.modules.setdefault("inspect", _Later("inspect"))
        answer = _load(verb)(**_light(verb, rest))
        _print(answer.text, "text")
        return int(answer.exit_code)
    arguments = vars(_parser().parse_args(words))
    output, verb = arguments.pop("output"), arguments.pop("verb", None)
    if verb is None:
        _parser().print_help(sys.stderr)
        return ExitCode.BAD_INPUT
    elsewhere = bool(verb.elsewhere and arguments["host"])
    wanted = (*verb.args, *(ELSEWHERE if elsewhere else ()))
    answer = _load(verb, elsewhere=elsewhere)(**{_dest(arg.name): arguments[_dest(arg.name)] for arg in wanted})
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
