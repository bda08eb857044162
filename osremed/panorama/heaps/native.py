"""A snapshot of a native program: C++ objects by class and malloc chunks by size, by reading its memory."""

from __future__ import annotations

import time
from collections import Counter

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.panorama.heaps.model import ArenaRow, Snapshot, TypeRow
from osremed.panorama.heaps.native_classes import find_vtables
from osremed.panorama.heaps.native_malloc import Arena, Walk, arenas
from osremed.panorama.heaps.regions import resident_heap
from osremed.sensors.address_space import AddressSpace

METHOD = "vtables and malloc chunks by process_vm_readv; nothing stopped or injected"
_CLASSES_SHARE = 0.4


def snapshot(space: AddressSpace, limit_s: float, rows: int) -> Reading[Snapshot]:
    """Objects by class, other chunks by size, arenas. UNSUPPORTED where glibc's chunks are not found (another
    allocator, or musl); ProcessLost when it ends meanwhile."""
    began_s = time.monotonic()
    heap = resident_heap(space, began_s + limit_s * _CLASSES_SHARE)
    vtables = find_vtables(space, began_s + limit_s * _CLASSES_SHARE)
    found, walks = arenas(space, frozenset(vtables), began_s + limit_s)
    if not found:
        detail = "no chunks of glibc's malloc: another allocator, or nothing allocated yet"
        return Missing(Reason.UNSUPPORTED, f"{space.root}/{space.pid}/maps", detail)
    space.check_same()
    types = _rows(vtables, walks)
    walked = sum(one.bytes for one in found)
    return Value(
        Snapshot(
            runtime="C++ on glibc malloc" if vtables else "glibc malloc",
            method=METHOD,
            monotonic_s=(began_s + time.monotonic()) / 2,
            resident_bytes=heap.bytes,
            attributed_bytes=sum(one.in_use_bytes for one in found),
            coverage=1.0 if all(one.whole for one in found) else min(1.0, walked / max(1, heap.bytes)),
            types=types[:rows],
            holders=(),
            arenas=tuple(_arena_row(one) for one in found[:rows]),
            pause=None,
            torn_reads=space.faults,
            gaps=_gaps(space, found),
        )
    )


def _rows(vtables: dict[int, str], walks: list[Walk]) -> tuple[TypeRow, ...]:
    """Classes by name, and chunks without a class by size, the largest first."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    blocks: Counter[int] = Counter()
    for walk in walks:
        for vtable, objects in walk.used.objects.items():
            count[vtables[vtable]] += objects
            size[vtables[vtable]] += walk.used.object_bytes[vtable]
        blocks.update(walk.used.others)
    classes = [TypeRow(name, count[name], size[name], 0) for name in count]
    plain = [TypeRow(f"malloc chunks of {length} bytes", n, n * length, 0) for length, n in blocks.items() if n > 0]
    return tuple(sorted(classes + plain, key=lambda row: -row.bytes))


def _arena_row(one: Arena) -> ArenaRow:
    return ArenaRow(
        one.name,
        one.bytes,
        one.chunks,
        one.in_use_bytes,
        one.free_bytes,
        one.top_bytes,
        one.tcache_bytes,
        one.fast_bytes,
    )


def _gaps(space: AddressSpace, found: list[Arena]) -> tuple[Missing, ...]:
    source = f"{space.root}/{space.pid}/mem"
    torn = [one.name for one in found if not one.whole]
    if not torn:
        return ()
    detail = f"{', '.join(torn[:3])}: not walked to the end; a size there is none, or time ran out"
    return (Missing(Reason.MALFORMED, source, detail),)
