"""Readings -> the guard's model. Reads only; what it could not read it names."""

from __future__ import annotations

from collections.abc import Collection

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.fastoom.model import Process, Scan, Scope, Signals
from osremed.sensors import cgroup, procfs

_MAX_CHAIN = 64


@record
class Source:
    """Where to read: the live host, or a captured tree. `hierarchy` is looked up once; it does not change in a boot."""

    proc: str
    hierarchy: Reading[cgroup.Hierarchy]


def open_source(proc: str = procfs.PROC, *, prefix: str = "") -> Source:
    return Source(proc, cgroup.memory_hierarchy(proc, prefix=prefix))


def signals(scope: Scope, source: Source) -> Reading[Signals]:
    """One measurement. Missing when the scope vanished, has no limit, or the host does not tell MemAvailable."""
    return _group_signals(scope, source) if scope.cgroup else _node_signals(source)


def _node_signals(source: Source) -> Reading[Signals]:
    """available = MemAvailable + pages in per-CPU free lists; limit = that + AnonPages."""
    reading = procfs.meminfo(source.proc)
    if isinstance(reading, Missing):
        return reading
    host, path = reading.value, f"{source.proc}/meminfo"
    lacking = [key for key in ("MemAvailable", "AnonPages") if key not in host]
    if lacking:
        return Missing(Reason.UNSUPPORTED, path, f"no {lacking[0]}")  # MemAvailable: Linux 3.14
    if host["MemAvailable"] > host["MemTotal"] or host["AnonPages"] > host["MemTotal"]:
        return Missing(Reason.MALFORMED, path, "a part is larger than MemTotal")
    missing = []
    available = host["MemAvailable"]
    parked = procfs.pcp_pages(source.proc)
    if isinstance(parked, Missing):
        missing.append(f"per-CPU free pages: {parked}")
    else:
        available = min(host["MemTotal"], available + parked.value * procfs.PAGE_BYTES)
    limit = available + host["AnonPages"]
    if not limit:
        return Missing(Reason.MALFORMED, path, "neither available nor anonymous memory")
    swap_total, swap_free = _swap(host, missing)
    return Value(Signals(limit, available, swap_total, swap_free, tuple(missing)))


def _group_signals(scope: Scope, source: Source) -> Reading[Signals]:
    if isinstance(source.hierarchy, Missing):
        return source.hierarchy
    memory = cgroup.memory(cgroup.group(source.hierarchy.value, scope.cgroup))
    if isinstance(memory, Missing):
        return memory
    if not memory.value.limit_bytes:
        return Missing(Reason.NO_DATA, scope.cgroup, "its limit is 0")
    limit, available, room = memory.value.limit_bytes, memory.value.available_bytes, memory.value.swap_room_bytes
    if room == 0:  # a group that may not swap (any more) has memory alone
        return Value(Signals(limit, available))
    host = procfs.meminfo(source.proc)
    if isinstance(host, Missing):
        return host
    missing: list[str] = []
    swap_total, swap_free = _swap(host.value, missing)
    if room is not None:
        swap_free = min(swap_free, room)
    return Value(Signals(limit, available, swap_total, swap_free, tuple(missing)))


def _swap(host: dict[str, int], missing: list[str]) -> tuple[int, int]:
    """(total, free); a total of 0, no swap, when the host does not tell, and that is named."""
    if "SwapTotal" not in host or "SwapFree" not in host:
        missing.append("swap: not in meminfo, counted as none")
        return 0, 0
    return host["SwapTotal"], min(host["SwapFree"], host["SwapTotal"])


def members(scope: Scope, source: Source) -> Reading[frozenset[int]]:
    """Pids of the scope's processes now."""
    if not scope.cgroup:
        reading: Reading[list[int]] = procfs.pids(source.proc)
        return reading if isinstance(reading, Missing) else Value(frozenset(reading.value))
    if isinstance(source.hierarchy, Missing):
        return source.hierarchy
    inside = cgroup.pids(cgroup.group(source.hierarchy.value, scope.cgroup))
    return inside if isinstance(inside, Missing) else Value(frozenset(inside.value))


def own_chain(pid: int, source: Source) -> frozenset[int]:
    """The process and its ancestors, up to where they are visible."""
    chain = {pid}
    while len(chain) < _MAX_CHAIN:
        reading = procfs.stat(pid, source.proc)
        if isinstance(reading, Missing) or reading.value.ppid in chain or not reading.value.ppid:
            break
        pid = reading.value.ppid
        chain.add(pid)
    return frozenset(chain)


def scan(pids: Collection[int], floor_bytes: int, source: Source) -> Scan:
    """Two stages: `statm` of every process, then all details of those with at least `floor_bytes` of anonymous memory.

    statm does not tell swap, so with swap in use everything passes the first stage. Processes that end meanwhile are
    left out; others that cannot be read are named in `missing`."""
    swapping = _swap_in_use(source)
    found, missing, small = [], [], 0
    for pid in sorted(pids):
        size = procfs.statm(pid, source.proc)
        if isinstance(size, Value) and size.value.private_bytes < floor_bytes and not swapping:
            small += 1
            continue
        process = size if isinstance(size, Missing) else _details(pid, source)
        if isinstance(process, Value):
            if process.value.heap_bytes >= floor_bytes:
                found.append(process.value)
            else:
                small += 1
        elif process.reason is not Reason.GONE:
            missing.append(f"process {pid}: {process}")
    return Scan(tuple(found), small, tuple(missing))


def _swap_in_use(source: Source) -> bool:
    host = procfs.meminfo(source.proc)
    if isinstance(host, Missing):
        return True
    return host.value.get("SwapTotal", 0) > host.value.get("SwapFree", 0)


def _details(pid: int, source: Source) -> Reading[Process]:
    """start time is read first and last: a pid that changed hands in between is GONE, not a mixture of two."""
    stat, status = procfs.stat(pid, source.proc), procfs.status(pid, source.proc)
    adj, argv = procfs.oom_score_adj(pid, source.proc), procfs.cmdline(pid, source.proc)
    for reading in (stat, status, adj):
        if isinstance(reading, Missing):
            return reading
    again = procfs.stat(pid, source.proc)
    assert isinstance(stat, Value)
    assert isinstance(status, Value)
    assert isinstance(adj, Value)
    if isinstance(again, Missing) or again.value.start_time_ticks != stat.value.start_time_ticks:
        return Missing(Reason.GONE, f"{source.proc}/{pid}", "ended while being read")
    heap = (status.value.rss_anon_bytes or 0) + (status.value.swap_bytes or 0)
    return Value(
        Process(
            pid=pid,
            start_time_ticks=stat.value.start_time_ticks,
            name=stat.value.comm,
            argv=argv,
            oom_score_adj=adj.value,
            heap_bytes=heap,
            kernel_thread=stat.value.kernel_thread,
        )
    )
