"""CPU control groups, v1 and v2: the limit, how often it was hit, and what was used.

Counters only grow; two readings make a rate. Readers return a Reading: GONE when the group vanished, UNSUPPORTED
without a CPU controller.
"""

from __future__ import annotations

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors.cgroup import Group, Hierarchy, parse_flat, parse_mountinfo
from osremed.sensors.procfs import LONG_BYTES, PROC, number, read_parsed


@record
class Quota:
    """`quota_us` of CPU in each `period_us`; None: no limit."""

    quota_us: int | None
    period_us: int

    @property
    def cpus(self) -> float | None:
        return None if self.quota_us is None else self.quota_us / self.period_us


@record
class Throttling:
    """Since the group was made: periods in which it ran, periods in which it was stopped, and for how long. v1 sums the
    time over CPUs, v2 does so from Linux 5.18 on."""

    periods: int
    throttled_periods: int
    throttled_s: float


def parse_throttling(data: bytes) -> Throttling:
    """cpu.stat: `throttled_usec` (v2) or `throttled_time` in ns (v1). ValueError where it tells no throttling."""
    told = parse_flat(data)
    try:
        seconds = told["throttled_usec"] / 1e6 if "throttled_usec" in told else told["throttled_time"] / 1e9
        return Throttling(told["nr_periods"], told["nr_throttled"], seconds)
    except KeyError as error:
        raise ValueError(f"no throttled time: {error.args[0]} is missing") from None


def parse_cpu_max(data: bytes) -> Quota:
    """v2's cpu.max: `max 100000` or `50000 100000`."""
    words = data.split()
    if len(words) != 2:
        raise ValueError(f"not a CPU limit: {data[:40]!r}")
    return Quota(None if words[0] == b"max" else number(words[0]), number(words[1]))


def hierarchy(controller: str = "cpu", root: str = PROC) -> Reading[Hierarchy]:
    """Where `cpu` or `cpuacct` is mounted; v2 has both in one."""
    mounts = read_parsed(f"{root}/self/mountinfo", parse_mountinfo, limit_bytes=LONG_BYTES)
    if isinstance(mounts, Missing):
        return mounts
    for kind, mount, options in mounts.value:
        if kind == "cgroup" and controller in options:
            return Value(Hierarchy(1, mount))
    for kind, mount, _options in mounts.value:
        controllers = read_parsed(f"{mount}/cgroup.controllers", bytes.split)
        if kind == "cgroup2" and isinstance(controllers, Value) and b"cpu" in controllers.value:
            return Value(Hierarchy(2, mount))
    return Missing(Reason.UNSUPPORTED, f"{root}/self/mountinfo", f"no {controller} controller is mounted")


def quota(target: Group) -> Reading[Quota]:
    """The group's own limit; its ancestors' count too and are not asked here."""
    if target.hierarchy.version == 2:
        return read_parsed(f"{target.directory}/cpu.max", parse_cpu_max)
    allowed = read_parsed(f"{target.directory}/cpu.cfs_quota_us", int, once=True)
    period = read_parsed(f"{target.directory}/cpu.cfs_period_us", lambda data: number(data.strip()), once=True)
    if isinstance(allowed, Missing):
        return allowed
    if isinstance(period, Missing):
        return period
    return Value(Quota(allowed.value if allowed.value >= 0 else None, period.value))


def throttling(target: Group) -> Reading[Throttling]:
    return throttling_at(target.directory)


def throttling_at(directory: str) -> Reading[Throttling]:
    return read_parsed(f"{directory}/cpu.stat", parse_throttling)


def used_s(path: str, root: str = PROC) -> Reading[float]:
    """CPU seconds of the group at `path` and those below it."""
    mounted = hierarchy("cpuacct", root)
    if isinstance(mounted, Missing):
        return mounted
    directory = Group(mounted.value, path).directory
    if mounted.value.version == 1:
        reading = read_parsed(f"{directory}/cpuacct.usage", lambda data: number(data.strip()), once=True)
        return reading if isinstance(reading, Missing) else Value(reading.value / 1e9)
    figures = read_parsed(f"{directory}/cpu.stat", parse_flat)
    return figures if isinstance(figures, Missing) else Value(figures.value["usage_usec"] / 1e6)
