#!/usr/bin/env python3
"""Which phrases of the command line are translated: all of them are listed here and nowhere else.

Prints, for each language, the entries its catalogue lacks, ready to be filled in; 1 if there are any.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from osremed.cli.language import LANGUAGES, catalogue  # noqa: E402
from osremed.cli.parser import SUMMARY  # noqa: E402
from osremed.cli.verbs import all_codes  # noqa: E402
from osremed.core.language import said, speak  # noqa: E402
from osremed.verbs.table import GROUPS, VERBS  # noqa: E402

_ERRORS = frozenset({"OsremedError", "BadInput", "NotFound", "Unavailable"})
_CHECKS = frozenset({"Check", "_read", "_try"})
#: Whose errors and words are the command line's own.
_OWN = ("osremed/cli", "osremed/verbs", "osremed/agent/doctor.py")
#: What argparse says (Lib/argparse.py, 3.9 to 3.13). {1}, {2} stand for what is filled in.
ARGPARSE = (
    *("the following arguments are required: {1}", "unrecognized arguments: {1}", "argument {1}: {2}"),
    *("expected one argument", "expected at least one argument", "expected at most one argument"),
    *("expected {1} arguments", "invalid choice: {1} (choose from {2})", "invalid {1} value: {2}"),
    *("ignored explicit argument {1}", "ambiguous option: {1} could match {2}"),
)


def _texts(node: ast.expr) -> Iterator[str]:
    """The text of a literal, {1}, {2} where values are put in; nothing for what is not a literal, or has no words."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    text, gaps = "", 0
    for part in parts:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            text += part.value
        elif isinstance(part, ast.FormattedValue):
            gaps += 1
            text += f"{{{gaps}}}"
        else:
            return
    if any(word.isalpha() for word in text.replace("{", " {").split()):
        yield text


def _spoken(call: ast.Call) -> Iterator[str]:
    """What is said by a call of said() or filled(), an error's constructor, or a check of the doctor (name, hint)."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name in _ERRORS or name in ("said", "filled"):
        yield from (text for each in call.args[:1] for text in _texts(each))
    if name in _ERRORS:
        hints = (each.value for each in call.keywords if each.arg == "hint")
        yield from (text for each in hints for text in _texts(each))
    if name in _CHECKS:
        yield from (text for each in (*call.args[:1], *call.args[4:5]) for text in _texts(each))


def _own_sources() -> Iterator[str]:
    for place in (os.path.join(ROOT, each) for each in _OWN):
        if place.endswith(".py"):
            yield place
            continue
        yield from (os.path.join(place, name) for name in sorted(os.listdir(place)) if name.endswith(".py"))


def phrases() -> Iterator[tuple[str, str]]:
    """(phrase, where it is said)."""
    yield SUMMARY, "osremed --help"
    yield from ((text, f"osremed {' '.join(words)} --help") for words, text in GROUPS.items())
    for verb in VERBS:
        where = f"osremed {' '.join(verb.words)} --help"
        yield verb.help, where
        yield from ((arg.help, where) for arg in verb.all_args)
    for name, code in all_codes().items():
        yield from ((text, f"osremed explain {name}") for text in (code.means, code.do) if text)
    yield from ((text, "argparse") for text in ARGPARSE)
    for path in _own_sources():
        with open(path, encoding="utf-8") as file:
            calls = [node for node in ast.walk(ast.parse(file.read())) if isinstance(node, ast.Call)]
        yield from ((text, os.path.relpath(path, ROOT)) for call in calls for text in _spoken(call))


def missing(language: str) -> dict[str, str]:
    """Phrase -> where it is said, of those the language has no words for."""
    found = catalogue(language)
    speak(found)
    try:
        return {text: where for text, where in phrases() if text not in found and said(text) == text}
    finally:
        speak({})


def main() -> int:
    gone = {language: missing(language) for language in LANGUAGES}
    for language, entries in gone.items():
        for phrase, where in entries.items():
            quoted = phrase.replace("\\", "\\\\").replace('"', '\\"')
            print(f'#. osremed/cli/locale/{language}.po: {where}\nmsgid "{quoted}"\nmsgstr ""\n')
    return 1 if any(gone.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
