"""/proc/PID/cgroup -> the container or pod, as run times name their groups. A guess from names, never a lookup."""

from __future__ import annotations

import re

_ID = re.compile(r"(?:^|[-/:])([0-9a-f]{64}|[0-9a-f]{32})(?:\.scope)?(?=$|[/:])")
_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
_UNIT = re.compile(r"/([^/]{1,128}\.service)(?=$|/)")


def container_of(cgroup: str) -> str:
    """`pod <uid> <id>`, a container's first 12 digits, a systemd service, or "" for none of them. `cgroup` is the text
    of the file: one `n:controllers:path` a line, the longest path speaks."""
    paths = [line.split(":", 2)[2] for line in cgroup.splitlines() if line.count(":") >= 2]
    path = max(paths, key=len, default="")
    identity, pod, unit = _ID.search(path), _POD.search(path), _UNIT.search(path)
    if pod:
        uid = pod[1].replace("_", "-")
        return f"pod {uid} {identity[1][:12]}" if identity else f"pod {uid}"
    if identity:
        return identity[1][:12]
    return unit[1] if unit else ""
