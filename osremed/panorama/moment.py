"""The light balance of one moment, and the largest holders: what the history is made of."""

from __future__ import annotations

import time
from collections.abc import Mapping

from osremed.core.reading import Missing, Reading, Value
from osremed.panorama.balance import node_balance
from osremed.panorama.containers import group_table
from osremed.panorama.growth import unreclaimable
from osremed.panorama.history import ROWS
from osremed.panorama.kernel import roots_of
from osremed.panorama.layers import Progress
from osremed.panorama.model import Balance
from osremed.panorama.processes import process_table
from osremed.panorama.scope import root_group
from osremed.sensors import kernelmem, procfs

_LIMIT_S = 2.0


def light_balance(root: str) -> Reading[Balance]:
    """meminfo and the per-CPU lists alone: under 1 ms. Lines that need more are left in the residual."""
    return node_balance(procfs.meminfo(root), _parked(root))


def _parked(root: str) -> Reading[int]:
    pages = procfs.pcp_pages(root)
    return pages if isinstance(pages, Missing) else Value(pages.value * procfs.PAGE_BYTES)


def widest(root: str) -> dict[str, Mapping[str, tuple[str, int]]]:
    """kind -> key -> (name, bytes) of the largest processes, groups and kernel owners; 0.2 ms a process. What cannot be
    read is not in it."""
    progress = Progress("history", time.monotonic() + _LIMIT_S)
    pids = procfs.pids(root)
    members = pids.value if isinstance(pids, Value) else []
    table = process_table(members, ROWS["process"], progress, root)
    top = root_group(root)
    groups = () if isinstance(top, Missing) else group_table(top, 1000, progress, roots_of(root)).rows
    caches = kernelmem.slab_caches(root)
    kernel = caches.value if isinstance(caches, Value) else ()
    found: dict[str, dict[str, tuple[str, int]]] = {
        "process": {
            f"{row.pid}/{row.start_time_ticks}": (f"{row.name} ({row.pid})", row.heap_bytes) for row in table.rows
        },
        "group": {row.cgroup: (row.name, unreclaimable(row)) for row in groups},
        "kernel": {cache.name: (cache.name, cache.bytes) for cache in kernel},
    }
    return {kind: _largest(sizes, ROWS[kind]) for kind, sizes in found.items()}


def _largest(sizes: Mapping[str, tuple[str, int]], count: int) -> Mapping[str, tuple[str, int]]:
    return dict(sorted(sizes.items(), key=lambda row: -row[1][1])[:count])
