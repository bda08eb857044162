"""Files of rules are read as what they are: no link leads out of their folder. Who checks rules is often root and not
who wrote them, and faults, diffs and mended files quote what was read."""

from __future__ import annotations

import os
import stat

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.runbook.faults import Fault

#: The folder of parts, beside the runbooks; no runbook has this name.
FOLDER = "parts"
CASES = "cases"


def read_rule(path: str) -> bytes:
    """The content of a runbook, a part or a case. BadInput, which quotes nothing, for a file that cannot be read, is
    not a regular one, or lies outside of where such a file belongs."""
    return read_inside(path, _tree_of(path))


def _tree_of(path: str) -> str:
    """Parts and cases lie in a folder that is one of the rules itself; it may be a link, too."""
    folder = os.path.dirname(os.path.abspath(path))
    above = os.path.dirname(folder)
    return above if os.path.basename(folder) in (FOLDER, CASES) and above != "/" else folder


def read_inside(path: str, tree: str) -> bytes:
    """The content of a regular file that lies below `tree`, wherever links lead. What is looked at is what is read, and
    only looked at before: a pipe would be waited for, a device may act."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            opened = f"/proc/self/fd/{fd}"
            _refuse_outside(os.readlink(opened), path, tree)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Fault("layout", "not a regular file", where=path, hint="move it away")
            return read_bytes(opened)
        finally:
            os.close(fd)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path) from error


def check_inside(path: str, tree: str) -> None:
    """BadInput for what is, by a link, not below `tree`."""
    _refuse_outside(os.path.realpath(path), path, tree)


def _refuse_outside(real: str, path: str, tree: str) -> None:
    root = os.path.realpath(tree)
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        hint = "put what it leads to in its place"
        raise Fault("layout", "a link leads out of the folder of the rules", where=path, hint=hint)
