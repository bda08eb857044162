"""Host counters, once a second: what the jitter detector and a look back read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value, reading_as_json
from osremed.hotspot.model import Second
from osremed.sensors import psi
from osremed.sensors.procfs import PROC, number, read_parsed

_VMSTAT = {b"allocstall": "reclaim_stalls", b"pgmajfault": "major_faults"}
_LOOK_AGAIN_CALLS = 60
_VMSTAT_LINE = re.compile(rb"^(allocstall|pgmajfault)[^ \n]* (.*)$", re.MULTILINE)


def parse_vmstat(data: bytes) -> dict[str, int]:
    """Direct reclaim stalls (summed over zones, however the kernel splits them) and major faults. ValueError when
    there is neither."""
    found: dict[str, int] = {}
    for prefix, value in _VMSTAT_LINE.findall(data):
        key = _VMSTAT[prefix]
        found[key] = found.get(key, 0) + number(value.strip())
    if not found:
        raise ValueError("neither allocstall nor pgmajfault")
    return found


def parse_throttled_s(data: bytes) -> float:
    """Seconds a control group was throttled: `throttled_usec` (v2), `throttled_time` in ns (v1); else ValueError."""
    for line in data.splitlines():
        name, _, value = line.partition(b" ")
        if name == b"throttled_usec":
            return number(value.strip()) / 1e6
        if name == b"throttled_time":
            return number(value.strip()) / 1e9
    raise ValueError("no throttled time")


class HostSeconds:
    """Counters as differences between calls of `second`."""

    def __init__(self, proc_root: str = PROC) -> None:
        self._root = proc_root
        self._before: dict[str, Reading[float]] = {}

    def second(self, at_ns: int, run_delay_s: Reading[float], throttled_s: Reading[float]) -> dict[str, Any]:
        """A row for a segment. The first call has nothing to compare with: its figures are Missing. `run_delay_s` is of
        this second already; `throttled_s` is a total since boot."""
        now: dict[str, Reading[float]] = {
            f"{name}_stall_s": _map(psi.node(name, self._root), lambda found: found.some_total_us / 1e6)
            for name in ("cpu", "io", "memory")
        }
        vmstat = read_parsed(f"{self._root}/vmstat", parse_vmstat)
        for key in _VMSTAT.values():
            now[key] = _map(vmstat, lambda found, key=key: found.get(key, 0))
        now["throttled_s"] = throttled_s
        row = {name: reading_as_json(self._difference(name, reading)) for name, reading in now.items()}
        self._before = now
        return {"at_ns": at_ns, "run_delay_s": reading_as_json(run_delay_s), **row}

    def _difference(self, name: str, now: Reading[float]) -> Reading[float]:
        before = self._before.get(name, Missing(Reason.NO_DATA, name, "the first second"))
        if isinstance(now, Missing):
            return now
        return before if isinstance(before, Missing) else Value(round(max(0.0, now.value - before.value), 6))


class Throttling:
    """Seconds of throttling over the control groups of what ran lately, those that have a limit. Whether one has is
    looked up when it is first met and each minute."""

    def __init__(self) -> None:
        self._limited: dict[str, bool] = {}
        self._calls = 0

    def total(self, directories: Iterable[str]) -> Reading[float]:
        """Since boot; NO_DATA when no group has a limit."""
        self._calls += 1
        if self._calls % _LOOK_AGAIN_CALLS == 0:
            self._limited.clear()
        total, found = 0.0, False
        for directory in directories:
            limited = self._limited.get(directory)
            if limited is None:
                limited = self._limited[directory] = _has_limit(directory)
            reading = read_parsed(f"{directory}/cpu.stat", parse_throttled_s) if limited else None
            if isinstance(reading, Value):
                total, found = total + reading.value, True
        return Value(total) if found else Missing(Reason.NO_DATA, "cpu.stat", "no group with a CPU limit ran")


def _has_limit(directory: str) -> bool:
    """Of itself: a group below one with a limit is throttled with it, and that one is counted where something runs in
    it. cpu.max (v2) begins with `max`, cpu.cfs_quota_us (v1) is -1 without one."""
    for name, without in (("cpu.max", b"max"), ("cpu.cfs_quota_us", b"-1")):
        reading = read_parsed(f"{directory}/{name}", bytes)
        if isinstance(reading, Value):
            return not reading.value.startswith(without)
    return False


def _map(reading: Reading[Any], change: Callable[..., float]) -> Reading[float]:
    return reading if isinstance(reading, Missing) else Value(change(reading.value))


_SECOND_FIGURES = (
    "run_delay_s", "cpu_stall_s", "io_stall_s", "memory_stall_s", "reclaim_stalls", "major_faults", "throttled_s",
)  # fmt: skip


def second_of(row: Mapping[str, Any]) -> Second:
    """A second as a segment holds it; a figure that is not there is Missing."""
    return Second(int(row["at_ns"]), *(_reading(row.get(name), name) for name in _SECOND_FIGURES))


def _reading(value: Any, name: str) -> Reading[Any]:
    if isinstance(value, dict):
        return Missing(Reason(value["missing"]), str(value["source"]), str(value.get("detail", "")))
    return Missing(Reason.NO_DATA, name) if value is None else Value(value)
