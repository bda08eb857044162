"""The table of verbs as an argparse parser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from osremed.cli.output import told
from osremed.core.errors import BadInput, ExitCode
from osremed.verbs.model import Arg, Verb


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.BAD_INPUT, told(BadInput(message, hint=f"{self.prog} --help", code="input.usage")))


def _words(text: str) -> str:
    """As argparse wants it: it fills in what follows a percent sign."""
    return text.replace("%", "%%")


def _options(arg: Arg) -> dict[str, Any]:
    options: dict[str, Any] = {"help": _words(arg.help)}
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
            options["help"] = _words(f"{arg.help} (default {arg.default})")
    return options


def _add(parser: argparse.ArgumentParser, verb: Verb) -> None:
    for arg in verb.all_args:
        options = _options(arg)
        if arg.name.startswith("-"):
            options["dest"] = arg.dest
        parser.add_argument(arg.name, **options)
    words = ", ".join(verb.outputs)
    parser.add_argument("-o", "--output", choices=verb.outputs, default="text", metavar="AS", help=words)
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from"
    )
    parser.set_defaults(verb=verb)


def build_parser(verbs: Sequence[Verb], version: str) -> argparse.ArgumentParser:
    """One sub-parser a word; the chosen Verb arrives as `verb`."""
    root = _Parser(prog="osremed", description="Near-OOM protection, evidence, and verified, reversible remediation.")
    root.add_argument("--version", action="version", version=f"osremed {version}")
    root.set_defaults(verb=None, output="text")
    groups: dict[tuple[str, ...], Any] = {(): root.add_subparsers(title="verbs", metavar="VERB")}
    leaves: dict[tuple[str, ...], Any] = {}
    for verb in verbs:
        for depth in range(1, len(verb.words)):
            prefix = verb.words[:depth]
            if prefix in leaves and prefix not in groups:  # a verb of its own that has others below it
                groups[prefix] = leaves[prefix].add_subparsers(title="verbs", metavar="VERB")
            elif prefix not in groups:
                parser = groups[prefix[:-1]].add_parser(prefix[-1], help=f"{prefix[-1]} ...")
                groups[prefix] = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
        leaf = leaves[verb.words] = groups[verb.words[:-1]].add_parser(
            verb.words[-1], help=_words(verb.help), description=_words(verb.help)
        )
        _add(leaf, verb)
    return root
