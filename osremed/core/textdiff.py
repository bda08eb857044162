"""What changed between two texts, as `diff -u` says it. Pure."""

from __future__ import annotations

import difflib


def unified(before: str, after: str, name: str) -> list[str]:
    """Lines without ends; none when nothing changed."""
    names = f"a/{name}", f"b/{name}"
    return list(difflib.unified_diff(before.splitlines(), after.splitlines(), *names, n=2, lineterm=""))
