"""English words with their gaps filled in, for rooms that load no catalogue: the guard, and documents. Whoever speaks
to a person hands them `core.language.filled` instead."""

from __future__ import annotations


def plain(phrase: str, *values: str) -> str:
    """The phrase with `{1}` and so on filled in."""
    return phrase.format("", *values) if values else phrase
