"""A snapshot of a CPython process, by reading its memory: nothing is injected, stopped or attached."""

from __future__ import annotations

import time
from dataclasses import replace

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.panorama.heaps.model import HolderRow, Snapshot, TypeRow
from osremed.panorama.heaps.python_graph import Graph
from osremed.panorama.heaps.python_holders import find_holders
from osremed.panorama.heaps.python_scan import Scan, scan_heap
from osremed.panorama.heaps.python_sizes import Sizer
from osremed.panorama.heaps.python_types import TypeTable, display_name, find_modules, find_types
from osremed.panorama.heaps.regions import Heap, resident_heap
from osremed.sensors import cpython
from osremed.sensors.address_space import AddressSpace
from osremed.sensors.cpython import Runtime

METHOD = "process_vm_readv; nothing stopped or injected"
_TYPES_SHARE, _SCAN_SHARE, _MODULES_SHARE = 0.3, 0.65, 0.8
_NAMED_TYPES = 200


def snapshot(space: AddressSpace, limit_s: float, rows: int) -> Reading[Snapshot]:
    """Types by bytes and holders of one process, in about `limit_s`. UNSUPPORTED for releases that are not read;
    ProcessLost when it ends meanwhile."""
    found = cpython.find_runtime(space)
    if isinstance(found, Missing):
        return found
    runtime, began_s = found.value, time.monotonic()
    heap = resident_heap(space, began_s + limit_s * _TYPES_SHARE)
    types = find_types(space, runtime, heap, began_s + limit_s * _TYPES_SHARE)
    if runtime.type_address not in types.by_address:
        return Missing(Reason.TIMED_OUT, runtime.image, f"its types were not found in {limit_s * _TYPES_SHARE:.1f} s")
    scan = scan_heap(space, runtime, types, heap, began_s + limit_s * _SCAN_SHARE)
    if scan.coverage < 1:
        scan = replace(scan, modules=find_modules(space, types, heap, began_s + limit_s * _MODULES_SHARE))
    looked_s = time.monotonic()
    graph, sizer = Graph(space, runtime, types), Sizer(space, runtime, types)
    holders = find_holders(graph, sizer, scan, began_s + limit_s)
    space.check_same()
    rows_by_name = type_rows(space, runtime, types, scan)
    return Value(
        Snapshot(
            runtime=f"CPython {runtime.release}",
            method=METHOD,
            monotonic_s=(began_s + looked_s) / 2,
            resident_bytes=heap.bytes,
            attributed_bytes=sum(row.bytes for row in rows_by_name),
            coverage=scan.coverage,
            types=rows_by_name[:rows],
            holders=tuple(
                HolderRow(one.path, one.kind, one.items, one.bytes, one.element, one.address) for one in holders[:rows]
            ),
            arenas=(),
            pause=None,
            torn_reads=space.faults,
            gaps=gaps_of(space, heap, scan.lost_bytes, scan.coverage, limit_s),
        )
    )


def type_rows(space: AddressSpace, runtime: Runtime, types: TypeTable, scan: Scan) -> tuple[TypeRow, ...]:
    """The largest first; types of one name are one row. Where a part was read, counts and sizes are scaled up, but for
    large objects: one of them more or less would be most of the heap."""
    scale = 1 / scan.coverage if scan.coverage else 0.0
    totals: dict[str, tuple[int, int, int]] = {}
    ranked = sorted(scan.bytes.items(), key=lambda one: -one[1][0])
    for place, (at, (size, large)) in enumerate(ranked):
        info = types.by_address[at]
        name = display_name(space, runtime, info) if place < _NAMED_TYPES else info.name
        count, total, total_large = totals.get(name, (0, 0, 0))
        totals[name] = (count + scan.counts.get(at, 0), total + size, total_large + large)
    rows = [
        TypeRow(name, round(count * scale), round((size - large) * scale) + large, large)
        for name, (count, size, large) in totals.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def gaps_of(space: AddressSpace, heap: Heap, lost_bytes: int, coverage: float, limit_s: float) -> tuple[Missing, ...]:
    """What of the heap was not looked at."""
    source, gaps = f"{space.root}/{space.pid}/mem", []
    if heap.residency.swapped_bytes:
        swapped = heap.residency.swapped_bytes >> 20
        gaps.append(Missing(Reason.UNSUPPORTED, source, f"{swapped} MiB are swapped out and were left there"))
    if heap.residency.unseen_bytes:
        unseen = heap.residency.unseen_bytes >> 20
        gaps.append(Missing(Reason.TIMED_OUT, source, f"{unseen} MiB of address space were not looked at"))
    if lost_bytes:
        gaps.append(Missing(Reason.GONE, source, f"{lost_bytes >> 10} KiB were unmapped while they were read"))
    looked = coverage + (lost_bytes / heap.bytes if heap.bytes else 0.0)
    if looked < 0.999:
        share = f"{coverage:.0%} of the heap was read in {limit_s:.1f} s; figures are scaled up from it"
        gaps.append(Missing(Reason.TIMED_OUT, source, share))
    return tuple(gaps)
