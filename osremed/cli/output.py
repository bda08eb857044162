"""An answer as the caller wants it: one way for every verb, from the answer's document."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from osremed.cli.rows import names_of, rows_of, table
from osremed.cli.yamlish import yaml
from osremed.core.answer import Answer
from osremed.core.errors import OsremedError
from osremed.core.language import filled, said
from osremed.core.shown import printable

_BOLD, _RED, _PLAIN = "\x1b[1m", "\x1b[1;31m", "\x1b[0m"


def has_colour(stream: TextIO) -> bool:
    """Whether colour is wanted there: a terminal, and not NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _table(document: Any) -> str:
    tty = sys.stdout.isatty()
    lines, hidden = table(rows_of(document), shutil.get_terminal_size().columns if tty else 0)
    if hidden:
        sys.stderr.write(filled("not wide enough for: {1} (-o yaml has all)", ", ".join(hidden)) + "\n")
    if lines and has_colour(sys.stdout):
        lines[0] = f"{_BOLD}{lines[0]}{_PLAIN}"
    return "\n".join(lines)


_AS: Mapping[str, Callable[[Any], str]] = {
    "table": _table,
    "json": lambda document: json.dumps(document, indent=2, ensure_ascii=False),
    "jsonl": lambda document: "\n".join(json.dumps(row, ensure_ascii=False) for row in rows_of(document)),
    "yaml": yaml,
    "name": lambda document: "\n".join(names_of(document)),
}


def shown(answer: Answer, output: str) -> str:
    """The answer's text in that output, without a newline at the end."""
    if output == "html" and answer.html is not None:
        return answer.html()
    return _AS[output](answer.document) if output in _AS else answer.text


def told(error: OsremedError) -> str:
    """An error for stderr: one line with its code, and its hint."""
    prefix = f"{_RED}osremed:{_PLAIN}" if has_colour(sys.stderr) else "osremed:"
    what = f"{error.where}: {said(error.what)}" if error.where else said(error.what)
    head = "\n".join(map(printable, what.split("\n")))  # it may quote what others wrote
    hint = "\n".join(map(printable, said(error.hint).split("\n")))
    return f"{prefix} {head} [{error.code}]\n" + (f"  {said('hint: ')}{hint}\n" if hint else "")
