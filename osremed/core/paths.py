"""Where things lie on a host. `OSREMED_PREFIX` moves all of it, for tests, demos and captured hosts."""

from __future__ import annotations

import os
from typing import NamedTuple


class HostPaths(NamedTuple):
    fastoom_policy: str
    events: str  #: journals of events, one directory per writer
    undo: str  #: undo records registered by modules before they act
    run: str  #: pid and status files


def host_paths(prefix: str | None = None) -> HostPaths:
    root = os.environ.get("OSREMED_PREFIX", "") if prefix is None else prefix
    return HostPaths(
        fastoom_policy=f"{root}/etc/osremed/fastoom.json",
        events=f"{root}/var/lib/osremed/events",
        undo=f"{root}/var/lib/osremed/undo",
        run=f"{root}/run/osremed",
    )
