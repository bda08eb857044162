"""What the kernel itself holds, by owner: slab caches, vmalloc callers, free blocks, SysV segments, compressed swap.

`parse_*` are pure and raise ValueError; readers return a Reading. /proc/slabinfo and /proc/vmallocinfo need root (mode
0400), or CAP_DAC_READ_SEARCH. Sizes are bytes.
"""

from __future__ import annotations

import os
import re

from osremed.core.files import read_bytes
from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors.cgroup import parse_flat
from osremed.sensors.procfs import LONG_BYTES, PAGE_BYTES, PROC, number, read_parsed, text

SYS = "/sys"
_SLAB_LINE = re.compile(
    rb"^(\S+) +([0-9]{1,19}) +([0-9]{1,19}) +([0-9]{1,19}) +[0-9]+ +([0-9]{1,4})"
    rb" : tunables [^:]* : slabdata +[0-9]+ +([0-9]{1,19}) ",
    re.MULTILINE,
)
_BUDDY_LINE = re.compile(rb"^Node +[0-9]+, zone +\S+((?: +[0-9]{1,19})+) *$", re.MULTILINE)
_VMALLOC_LIMIT_BYTES = 64 << 20  # 100,000 kernel stacks take 8 MB


@record
class SlabCache:
    """One line of /proc/slabinfo. `bytes` is what its pages take, `active_bytes` what its objects in use take."""

    name: str
    objects: int
    active_bytes: int
    bytes: int


@record
class Segment:
    """A System V segment. `resident_bytes` with `swap_bytes` exist since Linux 2.6.32; nobody is attached to it while
    `attached` is 0, and it stays until someone removes it. `huge_pages`: it is seen to lie in those, whose number the
    kernel tells too large; then `resident_bytes` is its whole size."""

    key: int
    segment_id: int
    size_bytes: int
    resident_bytes: int
    swap_bytes: int
    attached: int
    creator_pid: int
    uid: int
    huge_pages: bool = False


# --- parsers -----------------------------------------------------------------------------------------------------


def parse_slabinfo(data: bytes) -> tuple[SlabCache, ...]:
    """Version 2.x, the largest first. ValueError when a line is not as the kernel writes it."""
    lines = _SLAB_LINE.findall(data)
    if not data.startswith(b"slabinfo - version: 2.") or len(lines) != data.count(b"\n") - 2:
        raise ValueError("not slabinfo version 2")
    caches = [
        SlabCache(text(name), int(total), int(active) * int(size), int(slabs) * int(pages) * PAGE_BYTES)
        for name, active, total, size, pages, slabs in lines
    ]
    return tuple(sorted(caches, key=lambda cache: (-cache.bytes, cache.name)))


def parse_vmallocinfo(data: bytes) -> dict[str, int]:
    """Caller -> bytes of pages, for areas that own pages (mappings of devices and of others' pages own none)."""
    if data and not data.startswith(b"0x"):
        raise ValueError("not vmallocinfo")
    found: dict[str, int] = {}
    for line in data.split(b"\n"):
        head, mark, tail = line.partition(b" pages=")  # ten times as fast as a regular expression over all lines
        words = head.split(b" ", 1)[1].split() if mark and b" " in head else []
        if len(words) < 2:
            continue
        module = words[2].decode("ascii", "replace") if len(words) > 2 and words[2].startswith(b"[") else ""
        name = text(words[1].partition(b"+")[0]) + (f" {module}" if module else "")
        found[name] = found.get(name, 0) + number(tail.split(b" ", 1)[0]) * PAGE_BYTES
    return found


def parse_buddyinfo(data: bytes) -> tuple[int, ...]:
    """Free blocks by order, summed over zones; a block of order n has 2^n pages."""
    lines = _BUDDY_LINE.findall(data)
    if not lines or len(lines) != data.count(b"\n"):
        raise ValueError("not buddyinfo")
    rows = [[int(count) for count in line.split()] for line in lines]
    return tuple(sum(row[order] for row in rows if order < len(row)) for order in range(max(map(len, rows))))


def parse_sysv(data: bytes) -> tuple[Segment, ...]:
    """/proc/sysvipc/shm, by its header: column order differs between 32 and 64 bit."""
    header, *lines = data.split(b"\n")
    columns = {text(name): index for index, name in enumerate(header.split())}
    wanted = ("key", "shmid", "size", "rss", "swap", "nattch", "cpid", "uid")
    if any(name not in columns for name in wanted):
        raise ValueError("a column is missing")
    found = []
    for line in filter(None, lines):
        words = line.split()
        if len(words) != len(columns):
            raise ValueError("a line is not as long as the header")
        key = int(words[columns["key"]])
        identity, size, resident, swap, attached, creator, uid = (number(words[columns[name]]) for name in wanted[1:])
        huge = resident > -(-size // PAGE_BYTES) * PAGE_BYTES
        found.append(Segment(key, identity, size, size if huge else resident, swap, attached, creator, uid, huge))
    return tuple(found)


def parse_sockstat(data: bytes) -> dict[str, int]:
    """Protocol -> bytes it is charged for queued packets (`mem` in pages, `memory` of FRAG in bytes)."""
    found = {}
    for line in filter(None, data.split(b"\n")):
        name, colon, rest = line.partition(b":")
        words = rest.split()
        if not colon or len(words) % 2:
            raise ValueError(f"not a sockstat line: {line[:60]!r}")
        figures = dict(zip(words[::2], words[1::2]))
        if b"mem" in figures:
            found[text(name)] = number(figures[b"mem"]) * PAGE_BYTES
        elif b"memory" in figures:
            found[text(name)] = number(figures[b"memory"])
    if not found:
        raise ValueError("no memory figures")
    return found


def parse_mm_stat(data: bytes) -> int:
    """`mem_used_total` of a zram device: what its compressed pages take, with allocator overhead."""
    fields = data.split()
    if len(fields) < 3:
        raise ValueError("truncated")
    return number(fields[2])


def parse_kstat(data: bytes) -> dict[str, int]:
    """name -> value of a ZFS kstat table: `name type data` lines after a header of two."""
    found = {}
    for line in data.split(b"\n")[2:]:
        words = line.split()
        if len(words) == 3 and words[2].isdigit():
            found[text(words[0])] = number(words[2])
    if not found:
        raise ValueError("no figures")
    return found


def unsupported(source: str, field: str) -> Missing:
    return Missing(Reason.UNSUPPORTED, source, f"this kernel has no {field}")


# --- readers -----------------------------------------------------------------------------------------------------


def slab_caches(root: str = PROC) -> Reading[tuple[SlabCache, ...]]:
    """1 to 5 ms: the kernel counts partial slabs while it is read."""
    return read_parsed(f"{root}/slabinfo", parse_slabinfo, absent=Reason.UNSUPPORTED)


def slab_reclaimable(cache: str, sys_root: str = SYS) -> Reading[bool]:
    """Whether the cache counts as SReclaimable. UNSUPPORTED with the SLAB allocator (before 6.8)."""
    path = f"{sys_root}/kernel/slab/{cache}/reclaim_account"
    return read_parsed(path, lambda data: data.strip() == b"1", once=True, absent=Reason.UNSUPPORTED)


def vmalloc_callers(root: str = PROC) -> Reading[dict[str, int]]:
    path = f"{root}/vmallocinfo"
    try:
        return Value(parse_vmallocinfo(read_bytes(path, limit_bytes=_VMALLOC_LIMIT_BYTES)))
    except OSError as error:
        return missing_from_oserror(error, path, absent=Reason.UNSUPPORTED)
    except ValueError as error:
        return Missing(Reason.MALFORMED, path, str(error))


def free_blocks(root: str = PROC) -> Reading[tuple[int, ...]]:
    return read_parsed(f"{root}/buddyinfo", parse_buddyinfo, absent=Reason.UNSUPPORTED)


def vmstat(root: str = PROC) -> Reading[dict[str, int]]:
    return read_parsed(f"{root}/vmstat", parse_flat, absent=Reason.UNSUPPORTED)


def sysv_segments(root: str = PROC) -> Reading[tuple[Segment, ...]]:
    """Of the reader's IPC namespace. UNSUPPORTED without CONFIG_SYSVIPC."""
    return read_parsed(f"{root}/sysvipc/shm", parse_sysv, absent=Reason.UNSUPPORTED, limit_bytes=LONG_BYTES)


def socket_memory(root: str = PROC) -> Reading[dict[str, int]]:
    """Of the whole host, whichever network namespace reads it (memory_allocated of each protocol).

    Off by up to 1 MiB a CPU and protocol: each CPU keeps that much back before it adds to the sum (Linux 6.0;
    `net.core.mem_pcpu_rsv` since 6.10).
    """
    return read_parsed(f"{root}/net/sockstat", parse_sockstat, absent=Reason.UNSUPPORTED)


def zram_bytes(sys_root: str = SYS) -> Reading[int]:
    """Over all zram devices; mm_stat exists since Linux 4.1. UNSUPPORTED when there is no device."""
    directory = f"{sys_root}/block"
    try:
        devices = [name for name in os.listdir(directory) if name.startswith("zram")]
    except OSError as error:
        return missing_from_oserror(error, directory, absent=Reason.UNSUPPORTED)
    total = 0
    for name in devices:
        used = read_parsed(f"{directory}/{name}/mm_stat", parse_mm_stat, once=True)
        if isinstance(used, Missing):
            return used
        total += used.value
    return Value(total) if devices else Missing(Reason.UNSUPPORTED, directory, "no zram device")


def huge_pool_bytes(sys_root: str = SYS) -> Reading[int]:
    """All pools of huge pages, used or not, for kernels whose meminfo has no Hugetlb (before 4.16)."""
    return _over_huge_pools(sys_root, "nr_hugepages")


def huge_idle_bytes(sys_root: str = SYS) -> Reading[int]:
    """Of all pools, what nobody uses and no mapping has reserved. meminfo tells these of the default size alone."""
    free, reserved = (_over_huge_pools(sys_root, name) for name in ("free_hugepages", "resv_hugepages"))
    if isinstance(free, Missing):
        return free
    return reserved if isinstance(reserved, Missing) else Value(max(0, free.value - reserved.value))


def _over_huge_pools(sys_root: str, file: str) -> Reading[int]:
    directory = f"{sys_root}/kernel/mm/hugepages"
    try:
        names = os.listdir(directory)
    except OSError as error:
        return missing_from_oserror(error, directory, absent=Reason.UNSUPPORTED)
    total = 0
    for name in names:
        match = re.fullmatch(r"hugepages-([0-9]{1,12})kB", name)
        count = read_parsed(f"{directory}/{name}/{file}", lambda data: number(data.strip()), once=True)
        if match is None or isinstance(count, Missing):
            return count if isinstance(count, Missing) else Missing(Reason.MALFORMED, directory, name[:80])
        total += int(match[1]) * 1024 * count.value
    return Value(total)


def arc_page_bytes(root: str = PROC) -> Reading[int]:
    """Pages of ZFS's cache that are in no slab cache (scattered ABD buffers). UNSUPPORTED without ZFS."""
    path = f"{root}/spl/kstat/zfs/abdstats"
    table = read_parsed(path, parse_kstat, absent=Reason.UNSUPPORTED)
    if isinstance(table, Missing):
        return table
    count = table.value.get("scatter_data_size")
    return unsupported(path, "scatter_data_size") if count is None else Value(count)


def balloon_is_inside_total(sys_root: str = SYS) -> bool:
    """Whether ballooned pages still count in MemTotal. Drivers take them out of it (adjust_managed_page_count), but for
    virtio's when DEFLATE_ON_OOM (feature bit 2) was agreed on, and for VMware's."""
    vendor = read_parsed(f"{sys_root}/class/dmi/id/sys_vendor", bytes.strip, once=True)
    if os.path.isdir(f"{sys_root}/module/vmw_balloon") or vendor == Value(b"VMware, Inc."):
        return True
    directory = f"{sys_root}/bus/virtio/devices"
    try:
        names = os.listdir(directory)
    except OSError:  # no virtio bus: whatever balloon there is belongs to a driver that adjusts
        return False
    for name in names:
        kind = read_parsed(f"{directory}/{name}/device", bytes.strip, once=True)
        bits = read_parsed(f"{directory}/{name}/features", bytes.strip, once=True)
        if kind == Value(b"0x0005") and isinstance(bits, Value) and bits.value[2:3] == b"1":
            return True
    return False
