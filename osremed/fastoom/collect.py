"""Readings -> the guard's model. Reads only; what it could not read it names."""

from __future__ import annotations

import os
from collections.abc import Collection

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.fastoom import stall
from osremed.fastoom.growth import Growth
from osremed.fastoom.model import NOT_ASKED, UNREAD, Process, Scan, Scope, Signals, Stall
from osremed.sensors import cgroup, groups, procfs, psi
from osremed.sensors.nodefiles import NodeFiles

_MAX_CHAIN = 64
PLENTY_RATIO = 0.55  # above this nothing can be near: per-CPU lists and pressure are not worth their reads


class Source:
    """Where to read: the live host, or a captured tree. `hierarchy` is looked up once; it does not change in a boot.
    `asked` are the facts of processes that the policy's rules look at."""

    def __init__(self, proc: str, hierarchy: Reading[cgroup.Hierarchy], *, asked: frozenset[str] = frozenset()) -> None:
        self.proc, self.hierarchy, self.asked = proc, hierarchy, asked
        self.files = NodeFiles(proc)
        self.windows: dict[str, stall.Window] = {}
        self.growth = Growth()
        self._zram: Reading[bool] | None = None

    def swap_is_zram(self) -> bool:
        """Looked up once: false when it cannot be told."""
        if self._zram is None:
            self._zram = self.files.swap_is_zram()
        return isinstance(self._zram, Value) and self._zram.value


def open_source(proc: str = procfs.PROC, *, prefix: str = "", asked: frozenset[str] = frozenset()) -> Source:
    return Source(proc, cgroup.memory_hierarchy(proc, prefix=prefix), asked=asked)


def signals(scope: Scope, source: Source, now_ns: int | None = None) -> Reading[Signals]:
    """One measurement. Missing when the scope vanished, has no limit, or the host does not tell MemAvailable. With
    `now_ns` (monotonic) stalls are measured over the calls; without, they are Missing."""
    return _group_signals(scope, source, now_ns) if scope.cgroup else _node_signals(source, now_ns)


def _node_signals(source: Source, now_ns: int | None) -> Reading[Signals]:
    """available = MemAvailable + pages in per-CPU free lists + what ZFS's cache gives back; limit = that + AnonPages.
    Half of the swap on zram counts as available: a page in it still takes about half its size."""
    reading = source.files.memory()
    if isinstance(reading, Missing):
        return reading
    host, path = reading.value, f"{source.proc}/meminfo"
    lacking = [key for key in ("MemAvailable", "AnonPages") if key not in host]
    if lacking:
        return Missing(Reason.UNSUPPORTED, path, f"no {lacking[0]}")  # MemAvailable: Linux 3.14
    if host["MemAvailable"] > host["MemTotal"] or host["AnonPages"] > host["MemTotal"]:
        return Missing(Reason.MALFORMED, path, "a part is larger than MemTotal")
    missing: list[str] = []
    available, anon = host["MemAvailable"], host["AnonPages"]
    near = available <= (available + anon) * PLENTY_RATIO
    if near:
        available = min(host["MemTotal"], available + _hidden_bytes(source, missing))
    limit = available + anon
    if not limit:
        return Missing(Reason.MALFORMED, path, "neither available nor anonymous memory")
    swap_total, swap_free = _swap(host, missing)
    if swap_total and source.swap_is_zram():
        available, limit, swap_total, swap_free = available + swap_free // 2, limit + swap_total // 2, 0, 0
    lost = _stall(Scope(), source, now_ns, host.get("FileLru", 0)) if near and now_ns is not None else NOT_ASKED
    grown, crept = None, 0
    if near and now_ns is not None:
        grown = source.growth.note(now_ns, anon + host.get("SwapTotal", 0) - host.get("SwapFree", 0))
        crept = source.growth.crept_bytes(now_ns)
    return Value(Signals(limit, available, swap_total, swap_free, tuple(missing), lost, anon, grown, crept))


def _hidden_bytes(source: Source, missing: list[str]) -> int:
    """Free memory that MemAvailable does not tell."""
    hidden = 0
    parked = source.files.pcp_pages()
    if isinstance(parked, Missing):
        missing.append(f"per-CPU free pages: {parked}")
    else:
        hidden = parked.value * procfs.PAGE_BYTES
    arc = source.files.arc_reclaimable_bytes()
    if isinstance(arc, Value):
        hidden += arc.value
    elif arc.reason is not Reason.UNSUPPORTED:
        missing.append(f"ZFS cache: {arc}")
    return hidden


def _stall(scope: Scope, source: Source, now_ns: int, file_lru_bytes: int) -> Stall | Missing:
    window = source.windows.setdefault(scope.cgroup, stall.Window())
    if window.due(now_ns):
        window.add(_stall_sample(scope, source, now_ns))
    return window.stall(file_lru_bytes)


def _stall_sample(scope: Scope, source: Source, now_ns: int) -> Reading[stall.Sample]:
    """A kernel without PSI still tells refaults; a version 1 group tells neither."""
    if not scope.cgroup:
        return _host_stall_sample(source, now_ns)
    assert isinstance(source.hierarchy, Value)
    target = cgroup.group(source.hierarchy.value, scope.cgroup)
    pressure, refaulted = psi.group(target.directory, "memory"), _group_refaults(target)
    if isinstance(refaulted, Missing):
        return refaulted
    if isinstance(pressure, Missing):
        return pressure
    return Value(stall.Sample(now_ns, pressure.value.full_total_us, refaulted.value))


def _host_stall_sample(source: Source, now_ns: int) -> Reading[stall.Sample]:
    pressure, reading = source.files.pressure(), source.files.reclaim()
    if isinstance(reading, Missing):
        return reading
    full_us = None if isinstance(pressure, Missing) else pressure.value.full_total_us
    seen = reading.value
    return Value(stall.Sample(now_ns, full_us, seen.refaulted_pages, seen.scanned_pages, seen.reclaimed_pages))


def _group_refaults(target: cgroup.Group) -> Reading[int]:
    figures = cgroup.stat(target)
    if isinstance(figures, Missing):
        return figures
    found = [value for key, value in figures.value.items() if key.startswith("workingset_refault")]
    return Value(sum(found)) if found else Missing(Reason.UNSUPPORTED, target.directory, "no refault counters")


def _group_signals(scope: Scope, source: Source, now_ns: int | None) -> Reading[Signals]:
    if isinstance(source.hierarchy, Missing):
        return source.hierarchy
    memory = cgroup.memory(cgroup.group(source.hierarchy.value, scope.cgroup))
    if isinstance(memory, Missing):
        return memory
    if not memory.value.limit_bytes:
        return Missing(Reason.NO_DATA, scope.cgroup, "its limit is 0")
    limit, available, room = memory.value.limit_bytes, memory.value.available_bytes, memory.value.swap_room_bytes
    near = available <= limit * PLENTY_RATIO and now_ns is not None and source.hierarchy.value.version == 2
    lost = _stall(scope, source, now_ns or 0, memory.value.file_lru_bytes) if near else NOT_ASKED
    if room == 0:  # a group that may not swap (any more) has memory alone
        return Value(Signals(limit, available, stall=lost))
    host = source.files.memory()
    if isinstance(host, Missing):
        return host
    missing: list[str] = []
    swap_total, swap_free = _swap(host.value, missing)
    if room is not None:
        swap_free = min(swap_free, room)
    return Value(Signals(limit, available, swap_total, swap_free, tuple(missing), lost))


def _swap(host: dict[str, int], missing: list[str]) -> tuple[int, int]:
    """(total, free); a total of 0, no swap, when the host does not tell, and that is named."""
    if "SwapTotal" not in host or "SwapFree" not in host:
        missing.append("swap: not in meminfo, counted as none")
        return 0, 0
    return host["SwapTotal"], min(host["SwapFree"], host["SwapTotal"])


def kernel_kills(scope: Scope, source: Source) -> Reading[int]:
    """How many the kernel's own OOM handling ended: on the host since boot, in a group since it was made."""
    if not scope.cgroup:
        return source.files.oom_kills()
    if isinstance(source.hierarchy, Missing):
        return source.hierarchy
    return cgroup.oom_kills(cgroup.group(source.hierarchy.value, scope.cgroup))


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


def expand(scope: Scope, source: Source) -> tuple[Scope, ...]:
    """The groups that a scope with a glob means now; itself without one."""
    if not any(sign in scope.cgroup for sign in "*?[") or isinstance(source.hierarchy, Missing):
        return (scope,)
    return tuple(Scope(path) for path in groups.matching(source.hierarchy.value, scope.cgroup))


class Roster:
    """What was learned of processes on an earlier look: facts that cost much to read and seldom change. Decisions
    re-read everything of those they choose."""

    def __init__(self) -> None:
        self.known: dict[int, Process] = {}
        self.small: frozenset[int] = frozenset()
        self.anon_bytes = 0

    def keep(self, pids: Collection[int], found: Collection[Process], anon_bytes: int) -> None:
        """`pids` were all looked at; those not found with a heap worth the name are small, or could not be read."""
        self.known = {one.pid: one for one in found}
        self.small, self.anon_bytes = frozenset(pids).difference(self.known), anon_bytes

    def unexplained_bytes(self, found: Collection[Process], anon_bytes: int) -> int:
        """Anonymous memory that appeared since, and that none of the processes looked at again holds."""
        then = {pid: one.heap_bytes for pid, one in self.known.items()}
        held = sum(one.heap_bytes - then.get(one.pid, 0) for one in found)
        return anon_bytes - self.anon_bytes - held


def scan(pids: Collection[int], floor_bytes: int, source: Source, roster: Roster | None = None) -> Scan:
    """Two stages: `statm` of every process, then all details of those with at least `floor_bytes` of anonymous memory.

    statm does not tell swap, so with swap in use `status` takes its place. Processes that end meanwhile are left out;
    others that cannot be read are named in `missing`. With a roster, those that were small are passed over and command
    lines are not read again."""
    swapping = _swap_in_use(source)
    found, missing, small_bytes = [], [], 0
    passed = roster.small.intersection(pids) if roster else frozenset()
    for pid in sorted(passed.symmetric_difference(pids)):
        size = _heap_bytes(pid, source, swapping=swapping)
        if isinstance(size, Value) and size.value < floor_bytes:
            small_bytes += size.value
            continue
        known = roster.known.get(pid) if roster else None
        process = size if isinstance(size, Missing) else details(pid, source, known)
        if isinstance(process, Value):
            if process.value.heap_bytes >= floor_bytes:
                found.append(process.value)
            else:
                small_bytes += process.value.heap_bytes
        elif process.reason is not Reason.GONE:
            missing.append(f"process {pid}: {process}")
    return Scan(tuple(found), small_bytes, tuple(missing), tuple(passed))


def _swap_in_use(source: Source) -> bool:
    host = source.files.memory()
    if isinstance(host, Missing):
        return True
    return host.value.get("SwapTotal", 0) > host.value.get("SwapFree", 0)


def _heap_bytes(pid: int, source: Source, *, swapping: bool) -> Reading[int]:
    if swapping:
        status = procfs.status(pid, source.proc)
        return status if isinstance(status, Missing) else Value(_heap_of(status.value))
    size = procfs.statm(pid, source.proc)
    return size if isinstance(size, Missing) else Value(size.value.private_bytes)


def _heap_of(status: procfs.Status) -> int:
    return (status.rss_anon_bytes or 0) + (status.swap_bytes or 0)


def details(pid: int, source: Source, known: Process | None = None) -> Reading[Process]:
    """start time is read first and last: a pid that changed hands in between is GONE, not a mixture of two. The command
    line of a `known` process is taken over if it is still the same one by pid, start time and name."""
    stat, status = procfs.stat(pid, source.proc), procfs.status(pid, source.proc)
    adj = procfs.oom_score_adj(pid, source.proc)
    for reading in (stat, status, adj):
        if isinstance(reading, Missing):
            return reading
    assert isinstance(stat, Value)
    assert isinstance(status, Value)
    assert isinstance(adj, Value)
    start = stat.value.start_time_ticks
    same = known is not None and (known.start_time_ticks, known.name) == (start, stat.value.comm)
    argv = known.argv if known and same else procfs.cmdline(pid, source.proc)
    exe = _exe(pid, source.proc) if "exe" in source.asked else UNREAD
    inside = cgroup_of(pid, source) if "cgroup" in source.asked else UNREAD
    again = procfs.stat(pid, source.proc)
    if isinstance(again, Missing) or again.value.start_time_ticks != start:
        return Missing(Reason.GONE, f"{source.proc}/{pid}", "ended while being read")
    return Value(
        Process(
            pid=pid,
            start_time_ticks=start,
            name=stat.value.comm,
            argv=argv,
            oom_score_adj=adj.value,
            heap_bytes=_heap_of(status.value),
            kernel_thread=stat.value.kernel_thread,
            uid=status.value.uid,
            exe=exe,
            cgroup=inside,
        )
    )


def _exe(pid: int, root: str) -> Reading[str]:
    """Where /proc/<pid>/exe points to; DENIED without the right to look, GONE for kernel threads and zombies."""
    try:
        return Value(procfs.text(os.fsencode(os.readlink(f"{root}/{pid}/exe"))))
    except OSError as error:
        return missing_from_oserror(error, f"{root}/{pid}/exe")


def cgroup_of(pid: int, source: Source) -> Reading[str]:
    """The path in the hierarchy that has the memory controller; in the unified one without any."""
    paths = procfs.cgroup(pid, source.proc)
    if isinstance(paths, Missing):
        return paths
    unified = isinstance(source.hierarchy, Missing) or source.hierarchy.value.version == 2
    controller = "" if unified else "memory"
    if controller not in paths.value:
        return Missing(Reason.NO_DATA, f"{source.proc}/{pid}/cgroup", "not in the hierarchy")
    return Value(paths.value[controller])
