"""Where runbooks came from, when GitOps brought them: a set lies in `<home>/sets/<name>` and `<home>/history` is a
journal that tells for each set the commit it was made of, before it goes live."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from osremed.core.journal import read_journal

_SETS = "sets"
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def history_of(home: str) -> list[Mapping[str, Any]]:
    """Every swap, oldest first; [] before the first."""
    directory = os.path.join(home, "history")
    return [entry.record for entry in read_journal(directory).entries] if os.path.isdir(directory) else []


def commit_of_set(home: str, name: str) -> str:
    """The commit the set came from when it last went live; "" if the history has none, as of one put there by hand."""
    entries = [entry for entry in history_of(home) if entry.get("set") == name]
    return str(entries[-1].get("commit", "")) if entries else ""


def commit_of(runbooks: str) -> str:
    """The Git commit of a folder of runbooks, through any link to it; "" for rules that are not of GitOps, and where
    its history cannot be read: nobody waits for a label."""
    found = os.path.dirname(os.path.realpath(runbooks))
    home, sets = os.path.split(os.path.dirname(found))
    if sets != _SETS:
        return ""
    try:
        commit = commit_of_set(home, os.path.basename(found))
    except OSError:
        return ""
    return commit if _COMMIT.fullmatch(commit) else ""
