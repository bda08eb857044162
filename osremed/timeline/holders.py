"""Who computes on a GPU: pid -> command and container, from /proc. Pids are the host's."""

from __future__ import annotations

import re
from typing import Any

from osremed.core.reading import Missing
from osremed.sensors import procfs

_UNIT = re.compile(r"/([A-Za-z0-9:_.\\@-]{1,200}\.service)(?:/|$)", re.MULTILINE)
_CONTAINER = re.compile(r"([0-9a-f]{64})")
_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")


def holder(pid: int, root: str = procfs.PROC) -> dict[str, Any]:
    """`container` is the runtime's 64-digit id, `pod` the Kubernetes uid, `unit` the innermost systemd service; empty
    when the process is in none. `start_time_ticks` makes the pid an identity (Missing when it ended)."""
    stat = procfs.stat(pid, root)
    try:
        groups = procfs.read_file(f"{root}/{pid}/cgroup").decode("utf-8", "backslashreplace")
    except (OSError, ValueError):
        groups = ""
    container, pod, units = _CONTAINER.search(groups), _POD.search(groups), _UNIT.findall(groups)
    return {
        "pid": pid,
        "name": stat.as_json() if isinstance(stat, Missing) else stat.value.comm,
        "start_time_ticks": stat.as_json() if isinstance(stat, Missing) else stat.value.start_time_ticks,
        "unit": units[-1] if units else "",
        "container": container.group(1) if container else "",
        "pod": pod.group(1).replace("_", "-") if pod else "",
    }
