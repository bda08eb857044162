"""What is looked at: the whole host, or one control group. Its figures, and which processes belong to it."""

from __future__ import annotations

from osremed.core.errors import BadInput, NotFound, Unavailable
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.panorama.balance import group_balance, kernel_bytes_v2, node_balance
from osremed.panorama.kernel import kernel_figures, roots_of
from osremed.panorama.model import NODE, Balance, BalanceLine
from osremed.sensors import cgroup as groups
from osremed.sensors import procfs
from osremed.sensors.cgroup import Group


@record
class ScopeFigures:
    """`page_cache_bytes` counts shared memory and tmpfs too: their files can be open and mapped like others."""

    total_bytes: Reading[int]
    available_bytes: Reading[int]
    swap_total_bytes: Reading[int]
    swap_used_bytes: Reading[int]
    balance: Reading[Balance]
    page_cache_bytes: Reading[int]


def find_group(path: str, root: str) -> Group:
    """The group that exists at `path` below the memory hierarchy. BadInput, NotFound, or Unavailable without one."""
    hierarchy = groups.memory_hierarchy(root, prefix=roots_of(root).files)
    if isinstance(hierarchy, Missing):
        raise Unavailable(f"no memory control groups here: {hierarchy}", hint="leave the group out to look at the host")
    try:
        target = groups.group(hierarchy.value, path)
    except ValueError as error:
        raise BadInput(str(error), hint="write the path as in /proc/PID/cgroup, such as /system.slice") from error
    if target.path == "/" and target.hierarchy.version == 2:
        raise BadInput("the top control group has no figures of its own", hint="leave the group out: that is the host")
    if isinstance(usage := groups.usage(target), Missing) and usage.reason is Reason.GONE:
        raise NotFound("no such control group", where=target.directory)
    return target


def root_group(root: str) -> Group | Missing:
    """The top of the memory hierarchy, or why there is none."""
    hierarchy = groups.memory_hierarchy(root, prefix=roots_of(root).files)
    return hierarchy if isinstance(hierarchy, Missing) else groups.group(hierarchy.value, "/")


def pids_of(target: Group | None, root: str) -> Reading[tuple[int, ...]]:
    if target is not None:
        return groups.pids(target)
    visible = procfs.pids(root)
    return visible if isinstance(visible, Missing) else Value(tuple(visible.value))


def used_bytes(target: Group | None, root: str) -> Reading[int]:
    """What is in use now; two of these tell how far the scope moved meanwhile."""
    if target is not None:
        return groups.usage(target)
    meminfo, parked = procfs.meminfo(root), procfs.pcp_pages(root)
    if isinstance(meminfo, Missing):
        return meminfo
    if isinstance(parked, Missing):
        return parked
    if "MemFree" not in meminfo.value:
        return Missing(Reason.MALFORMED, f"{root}/meminfo", "no MemFree")
    return Value(meminfo.value["MemTotal"] - meminfo.value["MemFree"] - parked.value * procfs.PAGE_BYTES)


def figures(target: Group | None, root: str) -> ScopeFigures:
    return _node_figures(root) if target is None else _group_figures(target, root)


# --- host --------------------------------------------------------------------------------------------------------


def _node_figures(root: str) -> ScopeFigures:
    """The per-CPU lists are read before and after meminfo and the mean is taken: they move by the millisecond."""
    before = procfs.pcp_pages(root)
    meminfo = procfs.meminfo(root)
    after = procfs.pcp_pages(root)
    parked: Reading[int]
    if isinstance(before, Missing):
        parked = before
    elif isinstance(after, Missing):
        parked = after
    else:
        parked = Value((before.value + after.value) * procfs.PAGE_BYTES // 2)
    if isinstance(meminfo, Missing):
        return ScopeFigures(meminfo, meminfo, meminfo, meminfo, meminfo, meminfo)
    fields = meminfo.value

    def total(*keys: str) -> Reading[int]:
        absent = [key for key in keys if key not in fields]
        if absent:
            return Missing(Reason.UNSUPPORTED, f"{root}/meminfo", f"no {absent[0]}")
        return Value(sum(fields[key] for key in keys))

    available, swap, swap_free = total("MemAvailable"), total("SwapTotal"), total("SwapFree")
    if isinstance(available, Value) and isinstance(parked, Value):
        available = Value(min(fields["MemTotal"], available.value + parked.value))
    return ScopeFigures(
        total_bytes=total("MemTotal"),
        available_bytes=available,
        swap_total_bytes=swap,
        swap_used_bytes=_difference(swap, swap_free),
        balance=node_balance(meminfo, parked, kernel_figures(roots_of(root))),
        page_cache_bytes=total("Cached"),
    )


def _difference(whole: Reading[int], part: Reading[int]) -> Reading[int]:
    if isinstance(whole, Missing):
        return whole
    return part if isinstance(part, Missing) else Value(whole.value - part.value)


# --- control group -----------------------------------------------------------------------------------------------


def _group_figures(target: Group, root: str) -> ScopeFigures:
    """A group without a limit is measured against the host's memory, and has no available figure of its own. One with
    a limit has no more than what the groups around it and the host have left."""
    limits, stat, usage = groups.memory(target), groups.stat(target), groups.usage(target)
    available: Reading[int]
    if isinstance(limits, Value):
        # One reading for usage and availability, so that the parts belong together.
        total: Reading[int] = Value(limits.value.limit_bytes)
        usage, available = Value(limits.value.usage_bytes), _available(target, limits.value.available_bytes, root)
        free_name, free_source = "free below the limit", "limit - usage"
    else:
        available, total = limits, _host_total(limits, root)
        free_name, free_source = "not used by this group", "MemTotal - usage; the group has no limit"
    swap_used = _swap_used(target, stat)
    room = limits.value.swap_room_bytes if isinstance(limits, Value) else None
    no_swap_limit = Missing(Reason.NO_DATA, target.directory, "the group has no swap limit")
    swap_total: Reading[int] = no_swap_limit
    if room is not None and isinstance(swap_used, Value):
        swap_total = Value(room + swap_used.value)
    return ScopeFigures(
        total_bytes=total,
        available_bytes=available,
        swap_total_bytes=swap_total,
        swap_used_bytes=swap_used,
        balance=_group_parts(target, total, usage, stat, (free_name, free_source)),
        page_cache_bytes=stat if isinstance(stat, Missing) else _stat_field(target, stat.value, "file"),
    )


def _available(target: Group, own_bytes: int, root: str) -> Reading[int]:
    """What the group may still take: no more than the groups around it and the host have left."""
    least, path = own_bytes, target.path.rpartition("/")[0]
    while path:
        around = groups.memory(groups.group(target.hierarchy, path))
        if isinstance(around, Value):
            least = min(least, around.value.available_bytes)
        elif around.reason is not Reason.NO_DATA:
            return around
        path = path.rpartition("/")[0]
    meminfo = procfs.meminfo(root)
    if isinstance(meminfo, Missing):
        return meminfo
    host = meminfo.value.get("MemAvailable")
    if host is None:
        return Missing(Reason.UNSUPPORTED, f"{root}/meminfo", "no MemAvailable")
    return Value(min(least, host))


def _host_total(limits: Missing, root: str) -> Reading[int]:
    """MemTotal, if the only thing wrong is that there is no limit."""
    if limits.reason is not Reason.NO_DATA:
        return limits
    meminfo = procfs.meminfo(root)
    return meminfo if isinstance(meminfo, Missing) else Value(meminfo.value["MemTotal"])


def _group_parts(
    target: Group, total: Reading[int], usage: Reading[int], stat: Reading[dict[str, int]], free: tuple[str, str]
) -> Reading[Balance]:
    if isinstance(total, Missing):
        return total
    if isinstance(usage, Missing):
        return usage
    if isinstance(stat, Missing):
        return stat
    source = f"{target.directory}/memory.stat"
    if target.hierarchy.version == 1:
        kernel = procfs.read_parsed(
            f"{target.directory}/memory.kmem.usage_in_bytes", _counter, absent=Reason.UNSUPPORTED
        )
    else:
        kernel = kernel_bytes_v2(stat.value, source)
    left = BalanceLine(free[0], "free", Value(total.value - usage.value), free[1])
    return Value(group_balance(left, usage.value, stat.value, kernel, source))


def _swap_used(target: Group, stat: Reading[dict[str, int]]) -> Reading[int]:
    if target.hierarchy.version == 2:
        return procfs.read_parsed(f"{target.directory}/memory.swap.current", _counter, absent=Reason.UNSUPPORTED)
    return stat if isinstance(stat, Missing) else _stat_field(target, stat.value, "swap")


def _stat_field(target: Group, stat: dict[str, int], key: str) -> Reading[int]:
    if key in stat:
        return Value(stat[key])
    return Missing(Reason.UNSUPPORTED, f"{target.directory}/memory.stat", f"no {key}")


def _counter(data: bytes) -> int:
    return procfs.number(data.strip())


def scope_name(target: Group | None) -> str:
    return NODE if target is None else target.shown
