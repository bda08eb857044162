"""Foreign text as a terminal may show it."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with control characters, escapes and bidirectional marks spelled out."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
