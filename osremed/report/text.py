"""How a value looks: the one place where strings from hosts are made safe to show and a Missing becomes words."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

from osremed.core.clock import rfc3339
from osremed.core.language import filled
from osremed.core.reading import Missing
from osremed.core.units import format_bytes, format_duration

#: Longer strings are cut, with their true length printed.
LIMIT_CHARACTERS = 240
LIMIT_DIFF_CHARACTERS = 20_000

# Controls, bidirectional overrides, lone surrogates, unassigned and private characters, line and paragraph separators:
# shown as escapes, since they can hide or reorder what the reader sees.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKDOWN = {ord(character): f"&#{ord(character)};" for character in "&<>`*_[](){}|~#!@\\$^"}
_WWW = re.compile(r"(?i)(?<=www)\.")


def clean(text: str, *, limit: int = LIMIT_CHARACTERS, newlines: bool = False) -> str:
    """`text` with every invisible character spelled out (`\\u202e`), cut at `limit` characters."""
    cut = text[:limit]
    shown = "".join(
        character
        if unicodedata.category(character) not in _HIDDEN or (newlines and character == "\n")
        else character.encode("unicode_escape").decode("ascii")
        for character in cut
    )
    return shown if len(text) <= limit else f"{shown} … ({filled('{1} characters', f'{len(text):,}')})"


def show(value: Any) -> Any:
    """What a template prints for any value: a gap for Missing and None, clean text for the rest, Markup as it is."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, Missing):
        return clean(filled("not collected: {1}", str(value)))
    if value is None:
        return filled("not collected")
    if isinstance(value, bool):
        return filled("yes") if value else filled("no")
    return clean(str(value))


def show_markdown(value: Any) -> Any:
    """`show`, with everything that Markdown or HTML could act on written as character references."""
    if isinstance(value, Markup):
        return value
    text = str(show(value)).translate(_MARKDOWN).replace("://", "&#58;//")
    return Markup(_WWW.sub("&#46;", text))  # noqa: S704 - every active character was replaced above


def fenced_diff(diff: str) -> Markup:
    """A fenced code block; the fence is longer than any run of backticks inside."""
    body = clean(diff, limit=LIMIT_DIFF_CHARACTERS, newlines=True).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return Markup(f"{fence}diff\n{body}\n{fence}")  # noqa: S704 - nothing inside a fence is interpreted


def diff_lines(diff: str) -> list[tuple[str, Markup]]:
    """(kind, escaped line) for each line; kind is `add`, `del`, `hunk` or `same`."""
    kinds = {"+": "add", "-": "del", "@": "hunk"}
    text = clean(diff, limit=LIMIT_DIFF_CHARACTERS, newlines=True).rstrip("\n")
    return [(kinds.get(line[:1], "same"), escape(line)) for line in text.split("\n")]


def as_bytes(count: Any) -> Any:
    """`37.4 MiB`; a Missing stays one."""
    return format_bytes(count) if _is_number(count) else count


def as_share(ratio: Any) -> Any:
    return f"{ratio * 100:.1f} %" if _is_number(ratio) else ratio


def as_time(wall_ns: Any) -> Any:
    return rfc3339(wall_ns) if isinstance(wall_ns, int) and 0 < wall_ns < 2**63 else wall_ns


def brief(text: Any) -> Any:
    """At most 110 characters of a string, without its length: for the column that matters least."""
    return text if not isinstance(text, str) or len(text) <= 110 else f"{text[:109]}…"


def as_json(value: Any) -> Any:
    """JSON of a list, object or number; strings as they are."""
    return value if isinstance(value, (str, Missing)) else json.dumps(value, ensure_ascii=False, default=str)


def as_seconds(seconds: Any) -> Any:
    return format_duration(seconds) if _is_number(seconds) else seconds


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
