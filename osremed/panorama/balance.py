"""Parts + residual == total, for a host and for a control group. Pure: readings in, Balance out."""

from __future__ import annotations

from collections.abc import Mapping

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.panorama.model import Balance, BalanceLine

_MEMINFO = "/proc/meminfo"
#: (name, kind, meminfo field, note). Fields a kernel lacks: Percpu before 4.21, Hugetlb before 4.16, SecPageTables
#: before 6.1, Zswap before 5.19, Balloon before 6.16. Cached holds Shmem, and Slab holds both slab lines: they are
#: counted once, as parts.
_NODE_LINES = (
    ("anonymous memory", "anon", "AnonPages", ""),
    ("buffers", "file", "Buffers", "page cache of block devices"),
    ("swap cache", "file", "SwapCached", "pages in swap and in memory; those mapped are anonymous memory as well"),
    ("slab, reclaimable", "kernel", "SReclaimable", "mostly dentries and inodes"),
    ("slab, unreclaimable", "kernel", "SUnreclaim", ""),
    ("page tables", "kernel", "PageTables", ""),
    ("secondary page tables", "kernel", "SecPageTables", "of virtual machines and IOMMUs"),
    ("vmalloc", "kernel", "VmallocUsed", "with kernel stacks where they are mapped by vmalloc"),
    ("per-CPU data", "kernel", "Percpu", ""),
    ("compressed swap", "other", "Zswap", "the pool of zswap"),
    ("huge pages", "other", "Hugetlb", "reserved pools, used or not"),
    ("balloon", "other", "Balloon", "given back to the hypervisor"),
    ("free", "free", "MemFree", ""),
)


def node_balance(meminfo: Reading[dict[str, int]], parked_bytes: Reading[int]) -> Reading[Balance]:
    """MemTotal, split. `parked_bytes`: free pages in per-CPU lists, which MemFree leaves out."""
    if isinstance(meminfo, Missing):
        return meminfo
    fields = meminfo.value
    lines = [
        BalanceLine(name, kind, _field(fields, key), f"{key} in {_MEMINFO}", note)
        for name, kind, key, note in _NODE_LINES
    ]
    lines[1:1] = _cache_lines(fields)
    lines += _stack_lines(fields)
    lines.append(
        BalanceLine("free, in per-CPU lists", "free", parked_bytes, "count in /proc/zoneinfo", "not in MemFree")
    )
    return Value(_closed(fields["MemTotal"], lines, "MemTotal less the lines above"))


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
    return [
        BalanceLine("page cache of files", "file", files, f"Cached - Shmem in {_MEMINFO}", "reclaimable once clean"),
        BalanceLine("shared memory and tmpfs", "shmem", shmem, f"Shmem in {_MEMINFO}", "not reclaimable without swap"),
    ]


def _stack_lines(fields: Mapping[str, int]) -> list[BalanceLine]:
    """Kernel stacks, only where they cannot be inside vmalloc (kernels without CONFIG_VMAP_STACK)."""
    stacks, vmalloc = fields.get("KernelStack"), fields.get("VmallocUsed")
    if stacks is None or vmalloc is None or stacks <= vmalloc:
        return []
    return [BalanceLine("kernel stacks", "kernel", Value(stacks), f"KernelStack in {_MEMINFO}", "not in vmalloc here")]


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
    residual = BalanceLine("unaccounted", "unaccounted", Value(total_bytes - known), source, note)
    used = [line for line in lines if line.kind != "free"]
    return Balance(total_bytes, (*used, residual, *(line for line in lines if line.kind == "free")))
