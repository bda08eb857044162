"""Two collectors of load: `cpu_limits` (groups that a CPU limit stops) and `io` (disks, who waits for them, who
writes). Each reads counters twice, `window_s` apart."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reading, Value, reading_as_json
from osremed.sensors import cgroup, cpugroup, disks, procfs, psi
from osremed.sensors.containers import unit_of

_LONGEST_S = 60
_ROWS = 20
_VM = "/proc/sys/vm"

_Counters = Callable[[], Mapping[Any, Any]]


def cpu_limits(*, window_s: int = 5) -> Any:
    """Groups with a CPU limit, the most throttled first: limit, use, and the share of its periods in which each was
    stopped."""
    mounted = cpugroup.hierarchy()
    if isinstance(mounted, Missing):
        return mounted.as_json()
    limited = {}
    found = cgroup.below(cgroup.group(mounted.value, "/"))
    for target in found.groups:
        told = cpugroup.quota(target)
        if isinstance(told, Value) and told.value.quota_us is not None:
            limited[target] = told.value
    before, after, seconds = _twice(lambda: _groups(limited), window_s)
    rows = []
    for target, quota in limited.items():
        then, now = before.get(target), after.get(target)
        if then is not None and now is not None:
            rows.append(_group_row(target.shown, quota, then, now, seconds))
    rows.sort(key=lambda row: -row["throttled_s_per_s"])
    return {
        "cpus": os.cpu_count(),
        "window_s": round(seconds, 3),
        "cpu_stall_ratio": _stall(before, after, "cpu", seconds),
        "groups": rows[:_ROWS],
        "groups_with_a_limit": len(limited),
        "groups_not_listed_below": len(found.unlisted),
    }


def _groups(targets: Mapping[cgroup.Group, Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {"cpu": psi.node("cpu")}
    for target in targets:
        stopped, used = cpugroup.throttling(target), cpugroup.used_s(target.path)
        if isinstance(stopped, Value):
            found[target] = (stopped.value, used)
    return found


def _group_row(path: str, quota: cpugroup.Quota, then: Any, now: Any, seconds: float) -> dict[str, Any]:
    (before, used_before), (after, used_after) = then, now
    periods = after.periods - before.periods
    used: Any = used_after if isinstance(used_after, Missing) else used_before
    if isinstance(used_before, Value) and isinstance(used_after, Value):
        used = Value(round((used_after.value - used_before.value) / seconds, 4))
    return {
        "cgroup": path,
        "unit": unit_of(path),
        "quota_us": quota.quota_us,
        "period_us": quota.period_us,
        "limit_cpus": quota.cpus,
        "used_cpus": reading_as_json(used),
        "throttled_ratio": round((after.throttled_periods - before.throttled_periods) / periods, 4) if periods else 0.0,
        "throttled_s_per_s": round((after.throttled_s - before.throttled_s) / seconds, 4),
    }


def io(*, window_s: int = 5) -> Any:
    """Disks with requests and waits, what is not written back yet, how long tasks waited, who reads and writes most."""
    before, after, seconds = _twice(_io_counters, window_s)
    memory = procfs.meminfo()
    return {
        "window_s": round(seconds, 3),
        "io_stall_ratio": _stall(before, after, "io", seconds),
        "disks": _disk_rows(before["disks"], after["disks"], seconds),
        "dirty_bytes": memory.as_json() if isinstance(memory, Missing) else memory.value.get("Dirty"),
        "writeback_bytes": memory.as_json() if isinstance(memory, Missing) else memory.value.get("Writeback"),
        **_background(memory),
        "processes": _writers(before["processes"], after["processes"], seconds),
    }


def _io_counters() -> dict[str, Any]:
    pids = procfs.pids()
    members = pids.value if isinstance(pids, Value) else []
    return {
        "io": psi.node("io"),
        "disks": disks.disks(),
        "processes": {pid: told.value for pid in members if isinstance(told := disks.process_io(pid), Value)},
    }


def _disk_rows(before: Reading[Any], after: Reading[Any], seconds: float) -> Any:
    for reading in (before, after):
        if isinstance(reading, Missing):
            return reading.as_json()
    assert isinstance(before, Value)
    assert isinstance(after, Value)
    rows, between = [], disks.seconds_between
    for name, now in after.value.items():
        then = before.value.get(name)
        if then is None:
            continue
        reads, writes = now.reads - then.reads, now.writes - then.writes
        flushes = None if now.flushes is None or then.flushes is None else now.flushes - then.flushes
        flush_s = None if now.flush_s is None or then.flush_s is None else between(then.flush_s, now.flush_s)
        rows.append(
            {
                "disk": name,
                "busy_ratio": round(between(then.busy_s, now.busy_s) / seconds, 4),
                "reads_per_s": round(reads / seconds, 2),
                "read_wait_s": round(between(then.read_s, now.read_s) / reads, 6) if reads else 0.0,
                "writes_per_s": round(writes / seconds, 2),
                "write_wait_s": round(between(then.write_s, now.write_s) / writes, 6) if writes else 0.0,
                "written_bytes_per_s": round((now.written_bytes - then.written_bytes) / seconds),
                "flushes_per_s": None if flushes is None else round(flushes / seconds, 2),
                "flush_wait_s": flush_s if not flushes or flush_s is None else round(flush_s / flushes, 6),
            }
        )
    return sorted(rows, key=lambda row: -row["busy_ratio"])


def _background(memory: Reading[dict[str, int]]) -> dict[str, Any]:
    """From how many dirty bytes on the kernel writes back by itself: vm.dirty_background_bytes, or the ratio's share of
    what is available where that is 0."""
    told = {
        name: procfs.read_parsed(f"{_VM}/dirty_background_{name}", lambda data: procfs.number(data.strip()))
        for name in ("bytes", "ratio")
    }
    fixed, ratio = told["bytes"], told["ratio"]
    found: Reading[int] = fixed
    if isinstance(fixed, Value) and not fixed.value:
        found = ratio
        if isinstance(ratio, Value):
            found = memory if isinstance(memory, Missing) else Value(memory.value["MemAvailable"] * ratio.value // 100)
    return {"background_bytes": reading_as_json(found), "background_ratio": reading_as_json(ratio)}


def _writers(
    before: Mapping[int, disks.ProcessIo], after: Mapping[int, disks.ProcessIo], seconds: float
) -> list[dict[str, Any]]:
    moved = []
    for pid, now in after.items():
        then = before.get(pid)
        if then is not None and (now.read_bytes > then.read_bytes or now.write_bytes > then.write_bytes):
            moved.append((now.read_bytes - then.read_bytes, now.write_bytes - then.write_bytes, pid))
    moved.sort(key=lambda row: -(row[0] + row[1]))
    return [
        {
            "pid": pid,
            "name": stat.value.comm if isinstance(stat := procfs.stat(pid), Value) else "?",
            "read_bytes_per_s": round(read / seconds),
            "written_bytes_per_s": round(written / seconds),
        }
        for read, written, pid in moved[:_ROWS]
    ]


def _stall(before: Mapping[Any, Any], after: Mapping[Any, Any], resource: str, seconds: float) -> Any:
    then, now = before[resource], after[resource]
    for reading in (then, now):
        if isinstance(reading, Missing):
            return reading.as_json()
    return round((now.value.some_total_us - then.value.some_total_us) / 1e6 / seconds, 4)


def _twice(read: _Counters, window_s: int) -> tuple[Mapping[Any, Any], Mapping[Any, Any], float]:
    if not 1 <= window_s <= _LONGEST_S:
        raise BadInput(f"a window of {window_s} s is out of range", hint=f"1 to {_LONGEST_S}")
    first, begin_s = read(), time.monotonic()
    time.sleep(window_s)
    return first, read(), time.monotonic() - begin_s
