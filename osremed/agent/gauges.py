"""Probes of one control group, and of pressure: each function checks its arguments and returns what is called for each
sample. A rate is that of the last two seconds; until there were so many there is none."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from osremed.agent.arguments import cgroup_of
from osremed.core.errors import BadInput, Unavailable
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.units import parse_bytes
from osremed.panorama.balance import kernel_bytes_v2
from osremed.panorama.containers import group_table
from osremed.panorama.kernel import roots_of
from osremed.panorama.layers import Progress
from osremed.panorama.scope import root_group
from osremed.sensors import cgroup, cpugroup, procfs, psi
from osremed.sensors.procfs import PROC

Probe = Callable[[], Reading[float]]
_RATE_S = 2.0
_LOOK_S = 5.0


def free_ratio(*, scope: str = "node") -> Probe:
    """What is used by nobody, page cache neither, over the limit (of the host: over all memory)."""
    path = cgroup_of(scope)
    if path is None:
        return lambda: _map(procfs.meminfo(), lambda told: told["MemFree"] / told["MemTotal"])
    target = _memory_group(path)
    return lambda: _map(cgroup.memory(target), lambda told: 1 - told.usage_bytes / told.limit_bytes)


def held_ratio(*, scope: str, of: str) -> Probe:
    """What the group holds that cannot be reclaimed, over `of` bytes: what it held before."""
    target, before = _memory_group(_group_path(scope)), _positive_bytes(of)

    def held() -> Reading[float]:
        stat = cgroup.stat(target)
        if isinstance(stat, Missing):
            return stat
        kernel = (
            cgroup.kernel_usage(target)
            if target.hierarchy.version == 1
            else kernel_bytes_v2(stat.value, f"{target.directory}/memory.stat")
        )
        if isinstance(kernel, Missing):
            return kernel
        return Value((stat.value.get("anon", 0) + stat.value.get("shmem", 0) + kernel.value) / before)

    return held


def dying_ratio(*, scope: str, of: str) -> Probe:
    """What removed groups below the scope still hold, over `of` bytes; 0 where it is too little to be told."""
    before = _positive_bytes(of)
    path = scope if scope == "/" else _group_path(scope)

    def held() -> Reading[float]:
        rows = _table(path)
        if isinstance(rows, Missing):
            return rows
        return Value(sum(row.held_bytes for row in rows.value.dying if row.parent == path) / before)

    return held


def throttled_ratio(*, scope: str) -> Probe:
    """The share of its periods in which its CPU limit stopped the group; 0 when it did not run, or has no limit."""
    target = _cpu_group(scope)

    def read() -> Reading[Any]:
        return _map(cpugroup.throttling(target), lambda told: (told.throttled_periods, told.periods))

    return _recent(read, lambda then, now, _: (now[0] - then[0]) / max(now[1] - then[1], 1))


def used_cpus(*, scope: str) -> Probe:
    """CPUs that the group and those below it use."""
    path = _cpu_group(scope).path
    return _recent(lambda: cpugroup.used_s(path), lambda then, now, seconds: (now - then) / seconds)


def cpu_stall_ratio() -> Probe:
    """The share of the time in which some task of the host waited for a CPU."""
    return _stall("cpu")


def io_stall_ratio() -> Probe:
    """The share of the time in which some task of the host waited for I/O."""
    return _stall("io")


def _stall(resource: str) -> Probe:
    def read() -> Reading[Any]:
        return _map(psi.node(resource), lambda told: told.some_total_us)

    return _recent(read, lambda then, now, seconds: (now - then) / 1e6 / seconds)


def _recent(read: Callable[[], Reading[Any]], rate: Callable[[Any, Any, float], float]) -> Probe:
    """`rate` of the counters now and those of two seconds ago. A counter that cannot be read begins anew."""
    seen: deque[tuple[float, Any]] = deque()

    def probe() -> Reading[float]:
        reading, now_s = read(), time.monotonic()
        if isinstance(reading, Missing):
            seen.clear()
            return reading
        seen.append((now_s, reading.value))
        while len(seen) > 1 and now_s - seen[1][0] >= _RATE_S:
            seen.popleft()
        then_s, then = seen[0]
        if now_s - then_s < _RATE_S:
            return Missing(Reason.NO_DATA, "probe", f"a rate needs {_RATE_S:g} s")
        return Value(rate(then, reading.value, now_s - then_s))

    return probe


def _map(reading: Reading[Any], change: Callable[[Any], Any]) -> Reading[Any]:
    return reading if isinstance(reading, Missing) else Value(change(reading.value))


def _positive_bytes(of: str) -> int:
    count = parse_bytes(of)
    if count <= 0:
        raise BadInput(f"`of` is {of}", hint="what was held before, such as 512MiB")
    return count


def _group_path(scope: str) -> str:
    path = cgroup_of(scope)
    if path in (None, "/"):
        raise BadInput(f"{scope!r} is no group of its own", hint="the path of a control group")
    assert path is not None
    return path


def _memory_group(path: str) -> cgroup.Group:
    mounted = cgroup.memory_hierarchy()
    if isinstance(mounted, Missing):
        raise Unavailable(f"{mounted}", where=path)
    return cgroup.group(mounted.value, path)


def _cpu_group(scope: str) -> cgroup.Group:
    mounted = cpugroup.hierarchy()
    if isinstance(mounted, Missing):
        raise Unavailable(f"{mounted}", where=scope)
    return cgroup.group(mounted.value, _group_path(scope))


def _table(path: str) -> Reading[Any]:
    """The group and those below it, as the panorama reads them."""
    top = root_group(PROC)
    if isinstance(top, Missing):
        return top
    progress = Progress("probe", time.monotonic() + _LOOK_S)
    found = group_table(cgroup.group(top.hierarchy, path), 10_000, progress, roots_of(PROC))
    if progress.out_of_time:
        return Missing(Reason.TIMED_OUT, path, f"more groups than can be read in {_LOOK_S:g} s")
    return Value(found) if found.seen else Missing(Reason.GONE, path)
