"""Whose work comes to this host: the scheduler whose daemon runs here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.reading import Missing
from osremed.sensors import procfs

#: Daemon -> (scheduler, its option that names the node, the command that takes the node out).
_DAEMONS: Mapping[str, tuple[str, str, str]] = {
    "kubelet": ("kubernetes", "--hostname-override", "kubectl"),
    "slurmd": ("slurm", "-N", "scontrol"),
}


def scheduler(root: str = procfs.PROC) -> dict[str, Any]:
    """{kind, node, command}: `node` as the scheduler knows it; `command` is "" where this host cannot take itself out.
    `kind` is "" without a scheduler. A Missing, as JSON, when the processes cannot be listed."""
    found = procfs.pids(root)
    if isinstance(found, Missing):
        return found.as_json()
    for pid in found.value:
        stat = procfs.stat(pid, root)
        if not isinstance(stat, Missing) and stat.value.comm in _DAEMONS:
            kind, option, command = _DAEMONS[stat.value.comm]
            argv = procfs.cmdline(pid, root)
            named = "" if isinstance(argv, Missing) else _value_of(argv.value, option)
            return {"kind": kind, "node": named or _own_name(kind), "command": shutil.which(command) or ""}
    return {"kind": "", "node": "", "command": ""}


def _value_of(argv: Sequence[str], option: str) -> str:
    for word, after in zip(argv, [*argv[1:], ""]):
        if word == option:
            return after
        if word.startswith(option + "="):
            return word[len(option) + 1 :]
    return ""


def _own_name(kind: str) -> str:
    name = os.uname().nodename
    return name.lower() if kind == "kubernetes" else name.split(".", 1)[0]
