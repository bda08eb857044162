"""Memory control groups, v1 and v2, with one set of words (the names of v2's memory.stat).

All figures are hierarchical: a group's own and its children's. Readers return a Reading: GONE when the group vanished,
NO_DATA when it has no limit, UNSUPPORTED without a memory controller.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator, Mapping

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors.procfs import LONG_BYTES, PROC, number, read_parsed, text

_UNLIMITED_BYTES = 1 << 62  # v1 writes "no limit" as LONG_MAX rounded down to a page
_MAX_GROUPS = 10_000
_RETRY_S = 0.01
_FLAT_LINE = re.compile(rb"^([!-~]+) ([0-9]{1,20})$", re.MULTILINE)
_V2_NAMES = {  # v1's memory.stat -> v2's
    "rss": "anon",
    "cache": "file",
    "mapped_file": "file_mapped",
    "dirty": "file_dirty",
    "writeback": "file_writeback",
}


@record
class Hierarchy:
    """Where the memory controller is mounted: `version` 1 or 2, `mount` a directory."""

    version: int
    mount: str


@record
class Group:
    """`path` begins with / and lies below the hierarchy's mount point; `shown` is the same as text for others, where
    bytes that are not UTF-8 become \\xNN."""

    hierarchy: Hierarchy
    path: str

    @property
    def directory(self) -> str:
        return self.hierarchy.mount + self.path.rstrip("/")

    @property
    def shown(self) -> str:
        return text(os.fsencode(self.path))


@record
class Below:
    """`unlisted`: path of a group -> why not all of the groups right below it are in `groups`."""

    groups: tuple[Group, ...]
    unlisted: Mapping[str, Missing]


@record
class GroupMemory:
    """`limit_bytes` is the lowest limit of the group and its ancestors; usage is the group's own, so a sibling's
    appetite never counts against it. `swap_room_bytes` is None when no swap limit is set."""

    limit_bytes: int
    usage_bytes: int
    reclaimable_bytes: int
    swap_room_bytes: int | None
    file_lru_bytes: int = 0

    @property
    def available_bytes(self) -> int:
        return min(self.limit_bytes, max(0, self.limit_bytes - self.usage_bytes + self.reclaimable_bytes))


# --- parsers -----------------------------------------------------------------------------------------------------


def parse_mountinfo(data: bytes) -> list[tuple[str, str, frozenset[str]]]:
    """(filesystem type, mount point, super options) of each cgroup mount; proc_pid_mountinfo(5)."""
    found = []
    for line in data.split(b"\n"):
        left, dash, right = line.partition(b" - ")
        before, after = left.split(b" "), right.split(b" ")
        if not dash or len(before) < 6 or len(after) < 3 or after[0] not in (b"cgroup", b"cgroup2"):
            continue
        mount = before[4].replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\134", b"\\")
        found.append((text(after[0]), os.fsdecode(mount), frozenset(text(after[2]).split(","))))
    return found


def parse_flat(data: bytes) -> dict[str, int]:
    """`key value` lines (memory.stat, memory.events). ValueError for anything else, or for nothing."""
    lines = _FLAT_LINE.findall(data)
    if not lines or len(lines) != data.count(b"\n"):
        raise ValueError("empty, or a line is not `key count`")
    return {key.decode("ascii"): int(count) for key, count in lines}


def parse_limit(data: bytes) -> int | None:
    """Bytes, or None for no limit (`max`, or v1's LONG_MAX)."""
    word = data.strip()
    value = None if word == b"max" else number(word)
    return None if value is None or value >= _UNLIMITED_BYTES else value


def parse_pids(data: bytes) -> list[int]:
    """cgroup.procs; 0 stands for a process of another PID namespace and is left out: it cannot be addressed."""
    return [pid for pid in map(number, data.split()) if pid]


def _counter(data: bytes) -> int:
    return number(data.strip())


# --- where -------------------------------------------------------------------------------------------------------


def memory_hierarchy(root: str = PROC, *, prefix: str = "") -> Reading[Hierarchy]:
    """The hierarchy that has the memory controller. `prefix` is put before mount points (a captured host)."""
    mounts = read_parsed(f"{root}/self/mountinfo", parse_mountinfo, limit_bytes=LONG_BYTES)
    if isinstance(mounts, Missing):
        return mounts
    for kind, mount, options in mounts.value:
        if kind == "cgroup" and "memory" in options:
            return Value(Hierarchy(1, prefix + mount))
    for kind, mount, _options in mounts.value:
        controllers = read_parsed(f"{prefix}{mount}/cgroup.controllers", bytes.split)
        if kind == "cgroup2" and isinstance(controllers, Value) and b"memory" in controllers.value:
            return Value(Hierarchy(2, prefix + mount))
    return Missing(Reason.UNSUPPORTED, f"{root}/self/mountinfo", "no memory controller is mounted")


def group(hierarchy: Hierarchy, path: str) -> Group:
    """The handle, whether or not the group exists. ValueError unless `path` is absolute and without `..`."""
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ValueError(f"not a path below the hierarchy: {path!r}")
    return Group(hierarchy, "/" + "/".join(part for part in path.split("/") if part not in ("", ".")))


def _lineage(target: Group) -> Iterator[str]:
    """Directories of the group and its ancestors, the mount point (which has no limit of its own) left out."""
    path = target.path
    while path not in ("", "/"):
        yield target.hierarchy.mount + path
        path = path.rpartition("/")[0]


# --- readings ----------------------------------------------------------------------------------------------------


def usage(target: Group) -> Reading[int]:
    name = "memory.usage_in_bytes" if target.hierarchy.version == 1 else "memory.current"
    return read_parsed(f"{target.directory}/{name}", _counter, once=True)


def stat(target: Group) -> Reading[dict[str, int]]:
    """memory.stat under v2's names (anon, file, shmem, inactive_file, active_file …); on v1 from the `total_` lines,
    with the `hierarchical_*` limits kept as they are."""
    reading = _raw_stat(target)
    if isinstance(reading, Missing) or target.hierarchy.version == 2:
        return reading
    result = {}
    for key, value in reading.value.items():
        if key.startswith("total_"):
            result[_V2_NAMES.get(key[6:], key[6:])] = value
        elif key.startswith("hierarchical_"):
            result[key] = value
    return Value(result)


def own_stat(target: Group) -> Reading[dict[str, int]]:
    """v1's memory.stat of the group alone, without the groups below. UNSUPPORTED on v2, which does not tell it."""
    if target.hierarchy.version == 2:
        return Missing(Reason.UNSUPPORTED, f"{target.directory}/memory.stat", "v2 counts the groups below too")
    reading = _raw_stat(target)
    if isinstance(reading, Missing):
        return reading
    own = {_V2_NAMES.get(key, key): value for key, value in reading.value.items()}
    return Value({key: value for key, value in own.items() if not key.startswith(("total_", "hierarchical_"))})


def kernel_usage(target: Group) -> Reading[int]:
    """v1 only: slab, stacks and page tables charged to the group (memory.kmem.usage_in_bytes)."""
    path = f"{target.directory}/memory.kmem.usage_in_bytes"
    return read_parsed(path, _counter, once=True, absent=Reason.UNSUPPORTED)


def given_back(target: Group) -> Reading[int]:
    """A counter of what was taken from the group: pages reclaimed (pgsteal of v2), or pages and folios uncharged for
    whatever reason (pgpgout of v1, which tells no reclaim; its failcnt stands still on some kernels from 6.18 on)."""
    told = stat(target)
    if isinstance(told, Missing):
        return told
    count = told.value.get("pgsteal", told.value.get("pgpgout"))
    source = f"{target.directory}/memory.stat"
    return Missing(Reason.UNSUPPORTED, source, "neither pgsteal nor pgpgout") if count is None else Value(count)


def own_pids(target: Group) -> Reading[list[int]]:
    """Processes of the group alone."""
    return read_parsed(f"{target.directory}/cgroup.procs", parse_pids)


def dying_below(target: Group) -> Reading[int]:
    """How many removed groups below still hold memory or references: nr_dying_descendants, v2 only, Linux 4.14."""
    path = f"{target.directory}/cgroup.stat"
    reading = read_parsed(path, parse_flat, absent=Reason.UNSUPPORTED)
    if isinstance(reading, Missing):
        return reading
    count = reading.value.get("nr_dying_descendants")
    return Missing(Reason.UNSUPPORTED, path, "no nr_dying_descendants") if count is None else Value(count)


def below(target: Group) -> Below:
    """The group and all groups below it, parents first; at most 10,000."""
    cut = len(target.hierarchy.mount)
    directories, unlisted = _tree(target.directory)
    return Below(
        tuple(Group(target.hierarchy, directory[cut:] or "/") for directory in directories),
        {directory[cut:] or "/": missing for directory, missing in unlisted.items()},
    )


def _raw_stat(target: Group) -> Reading[dict[str, int]]:
    return read_parsed(f"{target.directory}/memory.stat", parse_flat)


def limit(target: Group) -> Reading[int]:
    """The lowest limit of the group and its ancestors. NO_DATA when none of them has one."""
    if target.hierarchy.version == 1:
        reading = _raw_stat(target)
        return reading if isinstance(reading, Missing) else _limit_from_v1(target, reading.value)
    lowest = _lowest_of_line(target, "memory.max")
    return lowest if isinstance(lowest, Missing) else _limited(target, lowest.value)


def _lowest_of_line(target: Group, name: str) -> Reading[int | None]:
    lowest: int | None = None
    for directory in _lineage(target):
        level = read_parsed(f"{directory}/{name}", parse_limit, once=True)
        if isinstance(level, Missing):
            return level
        if level.value is not None:
            lowest = level.value if lowest is None else min(lowest, level.value)
    return Value(lowest)


def _throttled_at(target: Group) -> Reading[int]:
    """The lowest memory.high of the group and its ancestors. From there on the kernel lets the group hardly run, which
    for a group without a limit is its end of memory. NO_DATA when none has one."""
    lowest = _lowest_of_line(target, "memory.high")
    return lowest if isinstance(lowest, Missing) else _limited(target, lowest.value)


def _limit_from_v1(target: Group, figures: dict[str, int]) -> Reading[int]:
    value = figures.get("hierarchical_memory_limit", _UNLIMITED_BYTES)
    return _limited(target, value if value < _UNLIMITED_BYTES else None)


def _limited(target: Group, limit_bytes: int | None) -> Reading[int]:
    if limit_bytes is None:
        return Missing(Reason.NO_DATA, target.directory, "the group has no memory limit")
    return Value(limit_bytes)


def reclaimable_bytes(file_lru_bytes: int, slab_bytes: int, limit_bytes: int) -> int:
    """File cache that reclaim can take without harm, shaped as the kernel's own estimate for a host.

    si_mem_available() (mm/show_mem.c) counts the file LRU lists less min(half of them, the low watermark), and
    reclaimable slab likewise. A group has no watermark; 1/32 of its limit stands in (16 MiB of 512 MiB): the hot code
    and data below which a group refaults instead of running. The LRU lists hold no tmpfs, shared memory or locked
    pages, so none of these count. v1 does not tell reclaimable slab: it counts as used there.
    """
    reserve = limit_bytes // 32
    return sum(part - min(part // 2, reserve) for part in (file_lru_bytes, slab_bytes))


def memory(target: Group) -> Reading[GroupMemory]:
    """Limit, usage and what could be reclaimed, read together. Where no memory.max limits a group of v2, memory.high
    is its limit. NO_DATA without either."""
    figures, used = _raw_stat(target), usage(target)
    if isinstance(figures, Missing):
        return figures
    if isinstance(used, Missing):
        return used
    lowest = _limit_from_v1(target, figures.value) if target.hierarchy.version == 1 else limit(target)
    if isinstance(lowest, Missing) and lowest.reason is Reason.NO_DATA and target.hierarchy.version == 2:
        lowest = _throttled_at(target)
    if isinstance(lowest, Missing):
        return lowest
    prefix = "total_" if target.hierarchy.version == 1 else ""
    try:
        file_lru = figures.value[f"{prefix}active_file"] + figures.value[f"{prefix}inactive_file"]
    except KeyError as error:
        return Missing(Reason.MALFORMED, f"{target.directory}/memory.stat", f"no {error.args[0]}")
    reclaimable = reclaimable_bytes(file_lru, figures.value.get("slab_reclaimable", 0), lowest.value)
    room = _swap_room_bytes(target, figures.value, lowest.value)
    return Value(GroupMemory(lowest.value, used.value, reclaimable, room, file_lru))


def _swap_room_bytes(target: Group, figures: dict[str, int], limit_bytes: int) -> int | None:
    """What the group may still swap out by its own and its ancestors' limits; None when nothing limits it. v1 limits
    memory plus swap."""
    if target.hierarchy.version == 1:
        both = figures.get("hierarchical_memsw_limit", _UNLIMITED_BYTES)
        return None if both >= _UNLIMITED_BYTES else max(0, both - limit_bytes - figures.get("total_swap", 0))
    rooms = [room for directory in _lineage(target) if (room := _swap_room_of(directory)) is not None]
    return min(rooms, default=None)


def _swap_room_of(directory: str) -> int | None:
    """None without a limit here, or on a kernel without swap accounting; no room when it cannot be told."""
    absent = Reason.UNSUPPORTED
    allowed = read_parsed(f"{directory}/memory.swap.max", parse_limit, once=True, absent=absent)
    if isinstance(allowed, Missing):
        return None if allowed.reason is absent else 0
    if allowed.value is None:
        return None
    used = read_parsed(f"{directory}/memory.swap.current", _counter, once=True, absent=absent)
    return 0 if isinstance(used, Missing) else max(0, allowed.value - used.value)


def oom_kills(target: Group) -> Reading[int]:
    """Kills by the kernel's own OOM handling since the group was created: v1 memory.oom_control (oom_kill since Linux
    4.13), v2 memory.events."""
    name = "memory.oom_control" if target.hierarchy.version == 1 else "memory.events"
    reading = read_parsed(f"{target.directory}/{name}", parse_flat)
    if isinstance(reading, Missing):
        return reading
    if "oom_kill" not in reading.value:
        return Missing(Reason.UNSUPPORTED, f"{target.directory}/{name}", "no oom_kill")
    return Value(reading.value["oom_kill"])


def pids(target: Group) -> Reading[tuple[int, ...]]:
    """Processes of the group and all groups below, ascending. A child group that vanishes meanwhile is just not there
    any more, and a threaded one lists none: the file of its domain has its processes. GONE is for the group itself,
    UNSUPPORTED if it is threaded. Processes of other PID namespaces cannot be seen."""
    found: set[int] = set()
    for index, directory in enumerate(_tree(target.directory)[0]):
        reading = read_parsed(f"{directory}/cgroup.procs", parse_pids)
        if isinstance(reading, Value):
            found.update(reading.value)
        elif index == 0 or reading.reason not in (Reason.GONE, Reason.UNSUPPORTED):
            return reading
    return Value(tuple(sorted(found)))


def _tree(directory: str) -> tuple[list[str], dict[str, Missing]]:
    """The directory and those below, parents first, at most 10,000; and those whose children are not all among them,
    with the reason. One that vanished has none."""
    found, unlisted = [directory], {}
    for index, parent in enumerate(found):
        try:
            with os.scandir(parent) as entries:
                found.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            missing = missing_from_oserror(error, parent)
            if missing.reason is not Reason.GONE:
                unlisted[parent] = missing
        if len(found) > _MAX_GROUPS:
            why = f"more than {_MAX_GROUPS} groups: not all below were looked at"
            unlisted.update({each: Missing(Reason.NO_DATA, each, why) for each in found[index:_MAX_GROUPS]})
            break
    return found[:_MAX_GROUPS], unlisted


# --- effects: tests and the demo ---------------------------------------------------------------------------------


def _write(path: str, data: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data.encode("ascii"))
    finally:
        os.close(fd)


def create(hierarchy: Hierarchy, path: str, limit_bytes: int) -> Group:
    """A new group with a memory limit and no swap beyond it. OSError if it cannot be made (needs root);
    FileExistsError if it is there already. v2: the controller is enabled from the mount point down, which fails while
    an ancestor holds processes of its own."""
    target = group(hierarchy, path)
    parents = list(_lineage(target))[:0:-1]
    for directory in parents:
        os.makedirs(directory, exist_ok=True)
    if hierarchy.version == 2:
        for directory in [hierarchy.mount, *parents]:
            _write(f"{directory}/cgroup.subtree_control", "+memory")
    os.mkdir(target.directory)
    v1 = hierarchy.version == 1
    _write(f"{target.directory}/{'memory.limit_in_bytes' if v1 else 'memory.max'}", str(limit_bytes))
    swap = f"{target.directory}/{'memory.memsw.limit_in_bytes' if v1 else 'memory.swap.max'}"
    if os.path.exists(swap):  # absent on kernels without swap accounting
        _write(swap, str(limit_bytes) if v1 else "0")
    return target


def add(target: Group, pid: int) -> None:
    """Moves the process; memory it already holds stays charged where it is. OSError (ESRCH, EACCES) as given."""
    _write(f"{target.directory}/cgroup.procs", str(pid))


def remove(target: Group, *, timeout_s: float = 2.0) -> None:
    """Removes the group and the groups below it, deepest first. Kills nothing: OSError(EBUSY) while a process lives in
    it. Retries until `timeout_s`, since a group stays busy for a moment after its last process was reaped."""
    deadline = time.monotonic() + timeout_s
    for directory in reversed(_tree(target.directory)[0]):
        _remove_directory(directory, deadline)


def _remove_directory(directory: str, deadline: float) -> None:
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)
