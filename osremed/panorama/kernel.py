"""What the kernel holds beyond meminfo, as details and lines of the balance; and where a host's files lie."""

from __future__ import annotations

import os

from osremed.core.reading import Missing, Reading, Value, missing_from_oserror
from osremed.core.record import record
from osremed.panorama.balance import KernelFigures
from osremed.panorama.model import Part
from osremed.sensors import kernelmem, openfiles, procfs
from osremed.sensors.kernelmem import SlabCache

#: Caches that count as reclaimable where the allocator does not say (SLAB, before Linux 6.8).
_RECLAIMABLE = ("dentry", "radix_tree_node", "buffer_head")


@record
class Roots:
    """`files` is put before absolute paths; a captured host is one tree with proc, sys, run and var in it."""

    proc: str
    sys: str
    files: str


def roots_of(proc_root: str) -> Roots:
    """The trees beside `proc_root`: PREFIX/proc has PREFIX/sys and PREFIX/run."""
    if proc_root == procfs.PROC:
        return Roots(procfs.PROC, kernelmem.SYS, "")
    prefix = os.path.dirname(proc_root.rstrip("/"))
    return Roots(proc_root, f"{prefix}/sys", prefix)


def kernel_figures(roots: Roots) -> KernelFigures:
    """5 to 25 ms, most of it the 230 slab caches. Nothing here waits: /proc and /sys files of the kernel's own."""
    reclaimable, unreclaimable = slab_parts(roots)
    meminfo = procfs.meminfo(roots.proc)
    return KernelFigures(
        slab_reclaimable=reclaimable,
        slab_unreclaimable=unreclaimable,
        vmalloc=_vmalloc_parts(roots.proc),
        free_blocks=_block_parts(roots.proc),
        shmem=_shmem_parts(roots),
        zram_bytes=kernelmem.zram_bytes(roots.sys),
        arc_bytes=kernelmem.arc_page_bytes(roots.proc),
        huge_pool_bytes=kernelmem.huge_pool_bytes(roots.sys),
        huge_idle_bytes=kernelmem.huge_idle_bytes(roots.sys),
        ballooned_bytes=_ballooned(roots.proc),
        balloon_inside_total=kernelmem.balloon_is_inside_total(roots.sys),
        after=meminfo.value if isinstance(meminfo, Value) else None,
    )


def slab_parts(roots: Roots) -> tuple[Reading[tuple[Part, ...]], Reading[tuple[Part, ...]]]:
    """The caches that count as reclaimable, and the others."""
    caches = kernelmem.slab_caches(roots.proc)
    if isinstance(caches, Missing):
        return caches, caches
    split: dict[bool, list[Part]] = {True: [], False: []}
    for cache in caches.value:
        if cache.bytes:
            split[_reclaimable(cache, roots.sys)].append(Part(cache.name, cache.bytes))
    return Value(tuple(split[True])), Value(tuple(split[False]))


def _reclaimable(cache: SlabCache, sys_root: str) -> bool:
    told = kernelmem.slab_reclaimable(cache.name, sys_root)
    if isinstance(told, Value):
        return told.value
    return cache.name in _RECLAIMABLE or "inode" in cache.name


def _vmalloc_parts(root: str) -> Reading[tuple[Part, ...]]:
    callers = kernelmem.vmalloc_callers(root)
    if isinstance(callers, Missing):
        return callers
    return Value(tuple(Part(name, count) for name, count in callers.value.items()))


def _block_parts(root: str) -> Reading[tuple[Part, ...]]:
    """Free memory by the size of its blocks: fragmentation shows as little in the large ones."""
    blocks = kernelmem.free_blocks(root)
    if isinstance(blocks, Missing):
        return blocks
    sizes = [procfs.PAGE_BYTES << order for order in range(len(blocks.value))]
    return Value(tuple(Part(f"blocks of {size // 1024} KiB", size * count) for size, count in zip(sizes, blocks.value)))


def _shmem_parts(roots: Roots) -> Reading[tuple[Part, ...]]:
    """tmpfs mounts of our mount namespace and System V segments of our IPC namespace."""
    parts = []
    segments = kernelmem.sysv_segments(roots.proc)
    if isinstance(segments, Value) and segments.value:
        small = [each.resident_bytes for each in segments.value if not each.huge_pages]  # others are in Hugetlb
        parts.append(Part("System V segments", sum(small)))
    mounts = openfiles.mount_points("self", roots.proc)
    if isinstance(mounts, Missing):
        return mounts if not parts else Value(tuple(parts))
    seen = set()
    for point, mount in dict(mounts.value).items():  # of several at one point only the last can be asked
        if mount.kind != "tmpfs" or mount.device in seen:
            continue
        seen.add(mount.device)
        used = _used_bytes(roots.files + point)
        if isinstance(used, Value):
            parts.append(Part(f"tmpfs {point}", used.value))
    return Value(tuple(parts))


def _used_bytes(point: str) -> Reading[int]:
    try:
        figures = os.statvfs(point)
    except OSError as error:
        return missing_from_oserror(error, point)
    return Value((figures.f_blocks - figures.f_bfree) * figures.f_frsize)


def _ballooned(root: str) -> Reading[int]:
    """balloon_inflate and balloon_deflate count pages since boot (Linux 4.12)."""
    counters = kernelmem.vmstat(root)
    if isinstance(counters, Missing):
        return counters
    keys = ("balloon_inflate", "balloon_deflate")
    absent = [key for key in keys if key not in counters.value]
    if absent:
        return kernelmem.unsupported(f"{root}/vmstat", absent[0])
    return Value(max(0, counters.value[keys[0]] - counters.value[keys[1]]) * procfs.PAGE_BYTES)
