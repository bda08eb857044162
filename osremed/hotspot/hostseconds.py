"""Host counters, once a second: what the jitter detector and a look back read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value, reading_as_json
from osremed.hotspot.model import Second
from osremed.sensors import cpugroup, psi
from osremed.sensors.procfs import PROC, number, read_parsed

_VMSTAT = {b"allocstall": "reclaim_stalls", b"pgmajfault": "major_faults"}
_LOOK_AGAIN_CALLS = 60
_LEAST_THROTTLED_S = 0.005
_MOST_LIMITED = 200  #: groups with a limit that are read each second
_MOST_GROUPS = 5  #: of a second, by name
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


class HostSeconds:
    """Counters as differences between calls of `second`."""

    def __init__(self, proc_root: str = PROC) -> None:
        self._root = proc_root
        self._before: dict[str, Reading[float]] = {}
        self._groups: Mapping[str, float] = {}

    def second(
        self, at_ns: int, run_delay_s: Reading[float], throttled: Reading[Mapping[str, float]]
    ) -> dict[str, Any]:
        """A row for a segment. The first call has nothing to compare with: its figures are Missing. `run_delay_s` is of
        this second already; `throttled` are totals by control group."""
        now: dict[str, Reading[float]] = {
            f"{name}_stall_s": _map(psi.node(name, self._root), lambda found: found.some_total_us / 1e6)
            for name in ("cpu", "io", "memory")
        }
        vmstat = read_parsed(f"{self._root}/vmstat", parse_vmstat)
        for key in _VMSTAT.values():
            now[key] = _map(vmstat, lambda found, key=key: found.get(key, 0))
        row = {name: reading_as_json(self._difference(name, reading)) for name, reading in now.items()}
        self._before = now
        return {"at_ns": at_ns, "run_delay_s": reading_as_json(run_delay_s), **row, **self._throttled(throttled)}

    def _throttled(self, now: Reading[Mapping[str, float]]) -> dict[str, Any]:
        """By group and in sum. A group that is read for the first time has nothing to compare with."""
        if isinstance(now, Missing):
            return {"throttled_s": now.as_json()}
        before, self._groups = self._groups, now.value
        known = {path: total - before[path] for path, total in now.value.items() if path in before}
        if not known:
            return {"throttled_s": Missing(Reason.NO_DATA, "cpu.stat", "the first second").as_json()}
        worst = sorted(
            ((seconds, path) for path, seconds in known.items() if seconds > _LEAST_THROTTLED_S), reverse=True
        )
        groups = {path: round(seconds, 6) for seconds, path in worst[:_MOST_GROUPS]}
        return {"throttled_s": round(max(0.0, sum(known.values())), 6), **({"throttled": groups} if groups else {})}

    def _difference(self, name: str, now: Reading[float]) -> Reading[float]:
        before = self._before.get(name, Missing(Reason.NO_DATA, name, "the first second"))
        if isinstance(now, Missing):
            return now
        return before if isinstance(before, Missing) else Value(round(max(0.0, now.value - before.value), 6))


class Throttling:
    """Seconds of throttling over the control groups of what ran lately and those above them (a slice, a pod), as far as
    they have a limit. Whether one has is looked up when it is first met and each minute."""

    def __init__(self) -> None:
        self._limited: dict[str, bool] = {}
        self._calls = self._unread = 0

    def gaps(self) -> tuple[str, ...]:
        """What the last call of `totals` left out."""
        if not self._unread:
            return ()
        return (f"{self._unread} control groups with a CPU limit were not read: their throttling is not known",)

    def totals(self, groups: Mapping[str, str]) -> Reading[Mapping[str, float]]:
        """By path since each was made, of `groups` (directory of the CPU controller -> path) and those above; NO_DATA
        when none has a limit."""
        self._calls += 1
        if self._calls % _LOOK_AGAIN_CALLS == 0:
            self._limited.clear()
        limited = sorted(each for each in _with_those_above(groups).items() if self._has_limit(each[0]))
        self._unread = max(0, len(limited) - _MOST_LIMITED)
        found: dict[str, float] = {}
        gap = Missing(Reason.NO_DATA, "cpu.stat", "no group with a CPU limit ran")
        for directory, path in limited[:_MOST_LIMITED]:
            reading = cpugroup.throttling_at(directory)
            if isinstance(reading, Missing):
                gap = reading
            else:
                found[path] = reading.value.throttled_s
        return Value(found) if found else gap

    def _has_limit(self, directory: str) -> bool:
        known = self._limited.get(directory)
        if known is None:
            known = self._limited[directory] = _has_limit(directory)
        return known


def _with_those_above(groups: Mapping[str, str]) -> dict[str, str]:
    found = dict(groups)
    for directory, path in groups.items():
        root = directory[: -len(path)]
        above = path.rpartition("/")[0]
        while above and f"{root}{above}" not in found:
            found[f"{root}{above}"] = above
            above = above.rpartition("/")[0]
    return found


def _has_limit(directory: str) -> bool:
    """Of itself: a group below one with a limit is throttled with it, and that one is read too. cpu.max (v2) begins
    with `max`, cpu.cfs_quota_us (v1) is -1 without one."""
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
    figures: dict[str, Any] = {name: _reading(row.get(name), name) for name in _SECOND_FIGURES}
    return Second(int(row["at_ns"]), throttled=row.get("throttled", {}), **figures)


def _reading(value: Any, name: str) -> Reading[Any]:
    if isinstance(value, dict):
        return Missing(Reason(value["missing"]), str(value["source"]), str(value.get("detail", "")))
    return Missing(Reason.NO_DATA, name) if value is None else Value(value)
