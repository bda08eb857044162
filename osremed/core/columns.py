"""Columns of a terminal: Chinese characters take two. Pure."""

from __future__ import annotations

import re
import unicodedata

#: Wide marks that may not begin a line: comma, stop, semicolon, colon, question and exclamation mark, brackets.
_CLOSING = r"[\uff0c\u3001\u3002\uff1b\uff1a\uff1f\uff01\uff09\u3011\u300b\u300d\u300f]"
_OPENING = r"[\uff08\u3010\u300a\u300c\u300e]"  #: and those that may not end one
#: A word or a wide character, with such marks around it, or blanks.
_PIECES = re.compile(rf"{_OPENING}*(?:[^\s\u2e80-\uffef]+|[\u2e80-\uffef]){_CLOSING}*|\s+")


def width(text: str) -> int:
    """Columns on a terminal."""
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def padded(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def at_right(text: str, columns: int) -> str:
    return " " * (columns - width(text)) + text


def cut(text: str, columns: int) -> str:
    """The text, or as much of it as fits and an ellipsis."""
    if width(text) <= columns:
        return text
    kept = text[:columns]
    while width(kept) > columns - 1:
        kept = kept[:-1]
    return f"{kept}…"


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most so many columns, broken at blanks and between wide characters; a longer word has its own."""
    lines, line = [], ""
    for piece in _PIECES.findall(text):
        if line and width(line) + width(piece.rstrip()) > columns:
            lines.append(line.rstrip())
            line = ""
        line += " " if piece.isspace() and line else piece.strip()
    return [*lines, line.rstrip()] if line.strip() or not lines else lines
