"""Parts + residual == total, for a host and for a control group. Pure: readings in, Balance out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.panorama.model import Balance, BalanceLine, Part

_MEMINFO = "/proc/meminfo"
_MOST_PARTS = 24
#: line -> what its last part is called when there is more than its parts
RESTS = {
    "slab, reclaimable": "other caches",
    "slab, unreclaimable": "other caches, and blocks too large for one",
    "vmalloc": "other callers",
    "free": "in no free list yet",
    "shared memory and tmpfs": "memfds, shared anonymous memory, other namespaces",
}
#: (name, kind, meminfo field, note, overlap). Fields a kernel lacks: Percpu before 4.21, Hugetlb before 4.16,
#: SecPageTables before 6.1, Zswap before 5.19. Cached holds Shmem, and Slab holds both slab lines: they are counted
#: once, as parts.
_NODE_LINES = (
    ("anonymous memory", "anon", "AnonPages", "", "shared pages of forks count once"),
    ("buffers", "file", "Buffers", "page cache of block devices", "not in Cached"),
    (
        "swap cache",
        "file",
        "SwapCached",
        "pages in swap and in memory; those mapped are anonymous memory as well",
        "mapped ones are in AnonPages too: the residual is too small by these",
    ),
    ("slab, reclaimable", "kernel", "SReclaimable", "mostly dentries and inodes", "part of Slab"),
    ("slab, unreclaimable", "kernel", "SUnreclaim", "", "part of Slab"),
    ("page tables", "kernel", "PageTables", "", ""),
    ("secondary page tables", "kernel", "SecPageTables", "of virtual machines and IOMMUs", "not in PageTables"),
    ("per-CPU data", "kernel", "Percpu", "", ""),
    ("compressed swap", "other", "Zswap", "the pool of zswap", "the pages in it left AnonPages"),
)
#: Lines that most kernels have at 0 or not at all: shown when they are there and not empty.
_RARE_LINES = (
    ("I/O bounce buffers", "kernel", "Bounce", "", ""),
    ("FUSE write-back copies", "kernel", "WritebackTmp", "", "copies of dirty pages, not in Cached"),
    ("memory with hardware errors", "other", "HardwareCorrupted", "taken out of use", ""),
    ("GPU pages, in use", "kernel", "GPUActive", "system memory bound by graphics drivers", ""),
    ("GPU pages, reclaimable", "kernel", "GPUReclaim", "pools of graphics drivers", ""),
)
_ABSENT = Missing(Reason.UNSUPPORTED, "this host", "not read")


@record
class KernelFigures:
    """What /proc/meminfo does not tell. `slab` and `vmalloc` hold details of lines; `after` is a second meminfo, read
    at the end, from which each line's error is taken."""

    slab_reclaimable: Reading[tuple[Part, ...]] = _ABSENT
    slab_unreclaimable: Reading[tuple[Part, ...]] = _ABSENT
    vmalloc: Reading[tuple[Part, ...]] = _ABSENT
    free_blocks: Reading[tuple[Part, ...]] = _ABSENT
    shmem: Reading[tuple[Part, ...]] = _ABSENT
    zram_bytes: Reading[int] = _ABSENT
    arc_bytes: Reading[int] = _ABSENT
    huge_pool_bytes: Reading[int] = _ABSENT
    huge_idle_bytes: Reading[int] = _ABSENT
    ballooned_bytes: Reading[int] = _ABSENT
    balloon_inside_total: bool = False
    after: Mapping[str, int] | None = None


_NOTHING = KernelFigures()


def node_balance(
    meminfo: Reading[dict[str, int]], parked_bytes: Reading[int], kernel: KernelFigures = _NOTHING
) -> Reading[Balance]:
    """MemTotal, split. `parked_bytes`: free pages in per-CPU lists, which MemFree leaves out."""
    if isinstance(meminfo, Missing):
        return meminfo
    fields = meminfo.value
    lines = [
        BalanceLine(name, kind, _field(fields, key), f"{key} in {_MEMINFO}", note, overlap=overlap)
        for name, kind, key, note, overlap in _NODE_LINES
    ]
    lines[1:1] = _cache_lines(fields)
    lines += [_vmalloc_line(fields, kernel.vmalloc), *_stack_lines(fields), *_reclaimable_pages(fields)]
    lines += [
        BalanceLine(name, kind, Value(fields[key]), f"{key} in {_MEMINFO}", note, overlap=overlap)
        for name, kind, key, note, overlap in _RARE_LINES
        if fields.get(key)
    ]
    lines += [_huge_line(fields, kernel), _balloon_line(fields, kernel), *_device_lines(kernel)]
    lines.append(BalanceLine("free", "free", _field(fields, "MemFree"), f"MemFree in {_MEMINFO}", "with CMA's free"))
    lines.append(
        BalanceLine("free, in per-CPU lists", "free", parked_bytes, "count in /proc/zoneinfo", "not in MemFree",
                    "sum over CPUs and zones, mean of two readings")
    )  # fmt: skip
    lines = [_with_error(_with_parts(line, kernel), fields, kernel.after) for line in lines]
    return Value(_closed(fields["MemTotal"], lines, "MemTotal less the lines above"))


def with_lines(balance: Balance, found: Sequence[BalanceLine]) -> Balance:
    """The balance with lines that a deeper look has found, taken out of the residual (rings, pools, pipes)."""
    kept = [line for line in balance.lines if line.kind != "unaccounted"]
    source = next((line.source for line in balance.lines if line.kind == "unaccounted"), "total less the lines above")
    return _closed(balance.total_bytes, [*kept, *found], source)


def _field(fields: Mapping[str, int], key: str) -> Reading[int]:
    if key in fields:
        return Value(fields[key])
    return Missing(Reason.UNSUPPORTED, _MEMINFO, f"this kernel has no {key}")


def _cache_lines(fields: Mapping[str, int]) -> list[BalanceLine]:
    """Cached without Shmem, and Shmem; Cached alone where Shmem is not told."""
    cached, shmem = _field(fields, "Cached"), _field(fields, "Shmem")
    if isinstance(cached, Missing) or isinstance(shmem, Missing):
        return [BalanceLine("page cache", "file", cached, f"Cached in {_MEMINFO}", "with shared memory and tmpfs")]
    files = Value(cached.value - shmem.value)
    split = "Cached holds Shmem: taken out here"
    return [
        BalanceLine("page cache of files", "file", files, f"Cached - Shmem in {_MEMINFO}", "reclaimable once clean",
                    "difference of two counters", split),
        BalanceLine("shared memory and tmpfs", "shmem", shmem, f"Shmem in {_MEMINFO}", "not reclaimable without swap",
                    overlap=split),
    ]  # fmt: skip


def _vmalloc_line(fields: Mapping[str, int], areas: Reading[tuple[Part, ...]]) -> BalanceLine:
    """VmallocUsed; Linux 4.4 to 5.2 always say 0 there, and the areas themselves are summed."""
    name, note = "vmalloc", "with kernel stacks where they are mapped by vmalloc"
    if fields.get("VmallocUsed") != 0:
        used = _field(fields, "VmallocUsed")
        return BalanceLine(name, "kernel", used, f"VmallocUsed in {_MEMINFO}", note, overlap="holds KernelStack")
    summed = areas if isinstance(areas, Missing) else Value(sum(part.bytes for part in areas.value))
    source = "pages in /proc/vmallocinfo"
    return BalanceLine(name, "kernel", summed, source, note, "sum over areas", "holds KernelStack")


def _stack_lines(fields: Mapping[str, int]) -> list[BalanceLine]:
    """Kernel stacks, only where they cannot be inside vmalloc (kernels without CONFIG_VMAP_STACK)."""
    stacks, vmalloc = fields.get("KernelStack"), fields.get("VmallocUsed")
    if stacks is None or not vmalloc or stacks <= vmalloc:
        return []
    return [BalanceLine("kernel stacks", "kernel", Value(stacks), f"KernelStack in {_MEMINFO}", "not in vmalloc here")]


def _reclaimable_pages(fields: Mapping[str, int]) -> list[BalanceLine]:
    """KReclaimable (Linux 4.20) beyond slab: pages that drivers lend and give back when asked."""
    both = fields.get("KReclaimable"), fields.get("SReclaimable")
    beyond = 0 if None in both else (both[0] or 0) - (both[1] or 0)
    if beyond <= 0:
        return []
    source = f"KReclaimable - SReclaimable in {_MEMINFO}"
    return [BalanceLine("reclaimable kernel pages", "kernel", Value(beyond), source, "", "difference of two counters")]


def _huge_line(fields: Mapping[str, int], kernel: KernelFigures) -> BalanceLine:
    note = "reserved pools, used or not"
    if "Hugetlb" in fields or isinstance(kernel.huge_pool_bytes, Missing):
        idle = _idle_huge_pages(fields, kernel)
        used = fields.get("Hugetlb", 0) - idle
        parts = (Part("in use or reserved", used), Part("idle", idle)) if idle and used >= 0 else ()
        line = BalanceLine("huge pages", "other", _field(fields, "Hugetlb"), f"Hugetlb in {_MEMINFO}", note)
        return dataclasses.replace(line, parts=parts)
    source = "nr_hugepages in /sys/kernel/mm/hugepages"
    return BalanceLine("huge pages", "other", kernel.huge_pool_bytes, source, note, "sum over pools")


def _idle_huge_pages(fields: Mapping[str, int], kernel: KernelFigures) -> int:
    """What of the pools nobody uses or has reserved; 0 also where that is not told. HugePages_* are of the default size
    alone, Hugetlb is of all."""
    size = fields.get("Hugepagesize", 0)
    if fields.get("Hugetlb") == fields.get("HugePages_Total", 0) * size:
        return max(0, fields.get("HugePages_Free", 0) - fields.get("HugePages_Rsvd", 0)) * size
    return kernel.huge_idle_bytes.value if isinstance(kernel.huge_idle_bytes, Value) else 0


def _balloon_line(fields: Mapping[str, int], kernel: KernelFigures) -> BalanceLine:
    """Balloon (Linux 6.16), or what vmstat counts; in the sum only where the driver leaves it in MemTotal."""
    told, source = _field(fields, "Balloon"), f"Balloon in {_MEMINFO}"
    if isinstance(told, Missing) and isinstance(kernel.ballooned_bytes, Value):
        told, source = kernel.ballooned_bytes, "balloon_inflate - balloon_deflate in /proc/vmstat"
    note = "given back to the hypervisor"
    if isinstance(told, Value) and told.value and not kernel.balloon_inside_total:
        note = f"{told.value} bytes are with the hypervisor, and this driver has taken them out of MemTotal"
        told = Value(0)
    return BalanceLine("balloon", "other", told, source, note, overlap="counts only where MemTotal holds it")


def _device_lines(kernel: KernelFigures) -> list[BalanceLine]:
    """What is on this host only if its device or file system is: absent ones have no line and are no gap."""
    rows = (
        ("compressed swap devices", kernel.zram_bytes, "mem_used_total of zram in /sys/block", "not in Zswap"),
        ("ZFS cache pages", kernel.arc_bytes, "scatter_data_size in /proc/spl/kstat/zfs/abdstats", "not in slab"),
    )
    return [
        BalanceLine(name, "other", count, source, overlap=overlap)
        for name, count, source, overlap in rows
        if not (isinstance(count, Missing) and count.reason is Reason.UNSUPPORTED)
    ]


def _with_parts(line: BalanceLine, kernel: KernelFigures) -> BalanceLine:
    """The line with its largest parts, and one for the rest of it. A line that is not known has none."""
    parts = {
        "slab, reclaimable": kernel.slab_reclaimable,
        "slab, unreclaimable": kernel.slab_unreclaimable,
        "vmalloc": kernel.vmalloc,
        "free": kernel.free_blocks,
        "shared memory and tmpfs": kernel.shmem,
    }.get(line.name)
    if parts is None or isinstance(parts, Missing) or isinstance(line.bytes, Missing):
        return line
    largest = sorted(parts.value, key=lambda part: -part.bytes)[:_MOST_PARTS]
    told = sum(part.bytes for part in largest)
    whole, note = line.bytes.value, line.note
    if line.kind == "shmem" and told > whole:  # what is swapped out is in the parts, and not in the line
        largest = [Part(part.name, part.bytes * whole // told) for part in largest]
        note = f"{note}; its parts are estimates, as tmpfs counts what is in swap too"
    rest = whole - sum(part.bytes for part in largest)
    shown = [part for part in largest if part.bytes]
    return dataclasses.replace(
        line, note=note, parts=(*shown, *([Part(RESTS[line.name], rest)] if shown and rest > 0 else ()))
    )


def _with_error(line: BalanceLine, before: Mapping[str, int], after: Mapping[str, int] | None) -> BalanceLine:
    """|after - before| of the counters that the source names."""
    if after is None or _MEMINFO not in line.source:
        return line
    keys = [word for word in line.source.partition(" in ")[0].split() if word != "-"]
    if not all(key in before and key in after for key in keys):
        return line
    moved = [after[key] - before[key] for key in keys]
    return dataclasses.replace(line, error_bytes=Value(abs(moved[0] - sum(moved[1:]))))


_KERNEL_PARTS_V2 = ("kernel_stack", "pagetables", "sec_pagetables", "percpu", "vmalloc", "slab")


def group_balance(
    free: BalanceLine, usage_bytes: int, stat: Mapping[str, int], kernel_bytes: Reading[int], source: str
) -> Balance:
    """What a group uses by kind, with `free` (what is left of the total) as the last line.

    `kernel_bytes`: memory.kmem.usage_in_bytes on v1; on v2 `kernel_bytes_v2(stat)`."""
    file_bytes, shmem_bytes = _stat(stat, "file", source), _stat(stat, "shmem", source)
    if isinstance(file_bytes, Value) and isinstance(shmem_bytes, Value):
        file_bytes = Value(file_bytes.value - shmem_bytes.value)
    lines = [
        BalanceLine("anonymous memory", "anon", _stat(stat, "anon", source), f"anon in {source}"),
        BalanceLine("page cache of files", "file", file_bytes, f"file - shmem in {source}", "first user pays"),
        BalanceLine(
            "shared memory and tmpfs", "shmem", shmem_bytes, f"shmem in {source}", "not reclaimable without swap"
        ),
        BalanceLine("kernel memory", "kernel", kernel_bytes, "kernel memory of the group", "slab, stacks, page tables"),
    ]
    if "sock" in stat:
        lines.append(BalanceLine("socket buffers", "kernel", Value(stat["sock"]), f"sock in {source}"))
    lines.append(free)
    left = free.bytes.value if isinstance(free.bytes, Value) else 0
    return _closed(usage_bytes + left, lines, "usage less the lines above")


def kernel_bytes_v2(stat: Mapping[str, int], source: str) -> Reading[int]:
    """`kernel` (Linux 5.18+), or the sum of the parts that older kernels list."""
    if "kernel" in stat:
        return Value(stat["kernel"])
    parts = [stat[key] for key in _KERNEL_PARTS_V2 if key in stat]
    return Value(sum(parts)) if parts else Missing(Reason.UNSUPPORTED, source, "no kernel memory in memory.stat")


def _stat(stat: Mapping[str, int], key: str, source: str) -> Reading[int]:
    return Value(stat[key]) if key in stat else Missing(Reason.UNSUPPORTED, source, f"no {key}")


def _closed(total_bytes: int, lines: list[BalanceLine], source: str) -> Balance:
    """The balance with its residual put before the free lines."""
    known = sum(line.bytes.value for line in lines if isinstance(line.bytes, Value))
    absent = [line.name for line in lines if isinstance(line.bytes, Missing)]
    note = "packet rings, page pools, pipes, sockets, drivers" + (f"; and {', '.join(absent)}" if absent else "")
    error = Value(sum(line.error_bytes.value for line in lines if isinstance(line.error_bytes, Value)))
    residual = BalanceLine(
        "unaccounted", "unaccounted", Value(total_bytes - known), source, note, "remainder", error_bytes=error
    )
    used = [line for line in lines if line.kind != "free"]
    return Balance(total_bytes, (*used, residual, *(line for line in lines if line.kind == "free")))
