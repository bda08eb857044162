"""Control groups as wholes: which ones a glob means, whether the kernel ends them together, and ending them."""

from __future__ import annotations

import fnmatch
import os

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.sensors.cgroup import Group, Hierarchy
from osremed.sensors.procfs import read_parsed

_MAX_FOUND = 1000


def matching(hierarchy: Hierarchy, glob: str) -> list[str]:
    """Paths of the groups the glob means now, sorted, at most 1,000. Each part of the glob matches one part of a path;
    directories that cannot be listed have none."""
    paths = [""]
    for part in glob.strip("/").split("/"):
        paths = [f"{path}/{name}" for path in paths for name in _children(hierarchy.mount + path, part)]
    return sorted(paths)[:_MAX_FOUND]


def _children(directory: str, glob: str) -> list[str]:
    try:
        if not any(sign in glob for sign in "*?["):
            return [glob] if os.path.isdir(f"{directory}/{glob}") else []
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if fnmatch.fnmatchcase(entry.name, glob) and entry.is_dir()]
    except OSError:
        return []


def dies_together(target: Group) -> Reading[bool]:
    """memory.oom.group (Linux 4.19): the owner wants all of the group ended or none. UNSUPPORTED on version 1."""
    return read_parsed(f"{target.directory}/memory.oom.group", _flag, once=True, absent=Reason.UNSUPPORTED)


def _flag(data: bytes) -> bool:
    word = data.strip()
    if word not in (b"0", b"1"):
        raise ValueError(f"not a flag: {word[:20]!r}")
    return word == b"1"


def kill(target: Group) -> Missing | None:
    """SIGKILL to all of the group and of those below, also to what forks meanwhile; None when it was told. UNSUPPORTED
    before Linux 5.14 and on version 1."""
    path = f"{target.directory}/cgroup.kill"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
    except OSError as error:
        return missing_from_oserror(error, path, absent=Reason.UNSUPPORTED)
    return None


def on_behalf_of(hierarchy: Hierarchy, path: str) -> Reading[Group]:
    """The group to end for a process in `path`: the highest one at or above it that dies together; else NO_DATA."""
    found: Group | None = None
    while path not in ("", "/"):
        target = Group(hierarchy, path)
        together = dies_together(target)
        if isinstance(together, Value) and together.value:
            found = target
        path = path.rpartition("/")[0]
    return Value(found) if found else Missing(Reason.NO_DATA, path, "nothing dies together here")
