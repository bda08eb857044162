"""The runbooks and parts among the files of a set of rules."""

from __future__ import annotations

from osremed.core.errors import BadInput
from osremed.gitops.tree import Files
from osremed.runbook.parts import Checked, Shelf, check
from osremed.runbook.rulefile import FOLDER

PARTS = f"runbooks/{FOLDER}/"


def is_runbook(path: str) -> bool:
    """Whether a path of the rules is a runbook's own file."""
    inside = path.startswith("runbooks/") and not path.startswith(PARTS)
    return inside and path.count("/") == 2 and path.endswith("/runbook.yaml")


def is_part_file(path: str) -> bool:
    """Whether a path of the rules is a part."""
    return path.startswith(PARTS) and path.count("/") == 2 and path.endswith(".yaml")


def shelf_of(files: Files) -> Shelf:
    """The parts of a set of rules."""
    parts = {path[len(PARTS) :].removesuffix(".yaml"): files[path] for path in sorted(files) if is_part_file(path)}
    return Shelf(PARTS.rstrip("/"), parts)


def checked(files: Files, path: str) -> Checked:
    """A runbook of the rules with its parts in it; no runbook but a fault if it is no strict YAML."""
    try:
        return check(files[path], path, shelf_of(files))
    except BadInput as error:
        return Checked(None, b"", (error,))
