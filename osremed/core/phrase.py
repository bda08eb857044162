"""English words with their gaps filled in, for rooms that load no catalogue: the guard, and documents. Whoever speaks
to a person hands them `core.language.filled` instead."""

from __future__ import annotations

from collections.abc import Callable

#: A phrase and what fills its gaps -> words: `plain`, or `core.language.filled`.
Fill = Callable[..., str]


def plain(phrase: str, *values: str) -> str:
    """The phrase with `{1}` and so on filled in."""
    return phrase.format("", *values) if values else phrase
