"""The table of verbs as an argparse parser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from osremed.cli.output import told
from osremed.core.columns import width, wrapped
from osremed.core.errors import BadInput, ExitCode
from osremed.core.language import filled, said
from osremed.verbs.model import Arg, Verb
from osremed.verbs.table import GROUPS

SUMMARY = "Near-OOM protection, evidence, and verified, reversible remediation."


class _Formatter(argparse.HelpFormatter):
    """Breaks lines by the columns they take, and says `usage:` in the language that is spoken."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(f"{indent}{line}" for line in wrapped(text, width - len(indent)))

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None) -> str:
        if prefix is not None:
            return super()._format_usage(usage, actions, groups, prefix)
        word = said("usage: ")
        stand_in = "u" * width(word)  # argparse indents the lines below by characters
        return super()._format_usage(usage, actions, groups, stand_in).replace(stand_in, word, 1)


class _Parser(argparse.ArgumentParser):
    """With headings and help of ours: those of argparse speak English alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(add_help=False, formatter_class=_Formatter, **options)
        self.plain = self.add_argument_group(said("positional arguments"))
        self.dashed = self.add_argument_group(said("options"))
        self.dashed.add_argument("-h", "--help", action="help", help=said("show this help message and exit"))

    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.BAD_INPUT, told(BadInput(message, hint=f"{self.prog} --help", code="input.usage")))


def _words(text: str) -> str:
    """As argparse wants it: it fills in what follows a percent sign."""
    return text.replace("%", "%%")


def _options(arg: Arg) -> dict[str, Any]:
    options: dict[str, Any] = {"help": _words(said(arg.help))}
    if arg.kind == "flag":
        return {**options, "action": "store_true"}
    if arg.kind == "list":
        return {**options, "nargs": "+"}
    if arg.kind == "optional":
        return {**options, "nargs": "?", "default": arg.default}
    if arg.kind == "int":
        options["type"] = int
    if arg.name.startswith("-"):
        options.update(default=arg.default, required=arg.required)
        if arg.default not in (None, ""):
            options["help"] = _words(filled("{1} (default {2})", said(arg.help), str(arg.default)))
    return options


def _add(parser: _Parser, verb: Verb) -> None:
    for arg in verb.all_args:
        if arg.name.startswith("-"):
            parser.dashed.add_argument(arg.name, dest=arg.dest, **_options(arg))
        else:
            parser.plain.add_argument(arg.name, **_options(arg))
    words = ", ".join(verb.outputs)
    parser.dashed.add_argument("-o", "--output", choices=verb.outputs, default="text", metavar="AS", help=words)
    debug = said("show where an error comes from")
    parser.dashed.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug)
    parser.set_defaults(verb=verb)


def build_parser(verbs: Sequence[Verb], version: str) -> argparse.ArgumentParser:
    """One sub-parser a word; the chosen Verb arrives as `verb`."""
    root = _Parser(prog="osremed", description=said(SUMMARY))
    shown = said("show program's version number and exit")
    root.dashed.add_argument("--version", action="version", version=f"osremed {version}", help=shown)
    root.set_defaults(verb=None, output="text")
    below: dict[str, Any] = {"title": said("verbs"), "metavar": "VERB"}
    groups: dict[tuple[str, ...], Any] = {(): root.add_subparsers(**below)}
    leaves: dict[tuple[str, ...], Any] = {}
    for verb in verbs:
        for depth in range(1, len(verb.words)):
            prefix = verb.words[:depth]
            if prefix in leaves and prefix not in groups:  # a verb of its own that has others below it
                groups[prefix] = leaves[prefix].add_subparsers(**below)
            elif prefix not in groups:
                parser = groups[prefix[:-1]].add_parser(prefix[-1], help=_words(said(GROUPS[prefix])))
                groups[prefix] = parser.add_subparsers(**below, required=True)
        leaf = leaves[verb.words] = groups[verb.words[:-1]].add_parser(
            verb.words[-1], help=_words(said(verb.help)), description=_words(said(verb.help))
        )
        _add(leaf, verb)
    return root
