"""Where things lie on a host. `OSREMED_PREFIX` moves all of it, for tests, demos and captured hosts."""

from __future__ import annotations

import os
import re
from typing import NamedTuple


class HostPaths(NamedTuple):
    fastoom_policy: str
    events: str  #: journals of events, one directory per writer
    undo: str  #: undo records registered by modules before they act
    run: str  #: pid and status files
    host_name: str  #: one line: the name of this host in the inventory


def host_paths(prefix: str | None = None) -> HostPaths:
    root = os.environ.get("OSREMED_PREFIX", "") if prefix is None else prefix
    return HostPaths(
        fastoom_policy=f"{root}/etc/osremed/fastoom.json",
        events=f"{root}/var/lib/osremed/events",
        undo=f"{root}/var/lib/osremed/undo",
        run=f"{root}/run/osremed",
        host_name=f"{root}/etc/osremed/host_name",
    )


def host_name(paths: HostPaths | None = None) -> str:
    """The name events carry: the inventory's, if /etc/osremed/host_name tells it, else the kernel's node name;
    reduced to what an event allows."""
    try:
        with open((paths or host_paths()).host_name, encoding="utf-8") as stream:
            told = stream.readline(256).strip()
    except FileNotFoundError:
        told = ""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", told or os.uname().nodename)[:253].strip("._-")
    return name or "localhost"
