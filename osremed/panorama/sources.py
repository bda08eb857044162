"""The deeper looks of this host's own kernel, as a scan takes them: all cached files, and the residual by owner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from osremed.core.reading import Missing, Value, reading_as_json
from osremed.core.record import record
from osremed.panorama.cache import BPF, by_bpf
from osremed.panorama.cache_model import DEVICE, PageCache
from osremed.panorama.collect import FoundFiles, FoundLines, Sources
from osremed.panorama.detect import residual_is_large
from osremed.panorama.gpus import gpu_memory
from osremed.panorama.invisible import as_document, invisible, pool_lines
from osremed.panorama.layers import Progress
from osremed.panorama.model import Panorama, ProcessRow
from osremed.sensors import alloctrace
from osremed.sensors.alloctrace import AllocationTrace

ALL_FILES = "all cached files"
_KEEPERS = 40
_LEAST_FILES = 500


@record
class HeapWish:
    """Whose heaps to look into: those of the `count` largest processes and of `pids`. `growth_s` > 0 looks twice;
    `consent` allows methods that pause the target."""

    count: int = 0
    pids: tuple[int, ...] = ()
    growth_s: float = 0.0
    consent: bool = False


def kernel_sources(
    heaps: HeapWish | None = None, *, files: int = 0, trace_s: float | None = 0.0, trace_if_large_s: float = 0.0
) -> Sources:
    """For a scan of the live host; where BPF cannot run, the scan falls back by itself and the gaps say so. `files`: at
    least so many have a row of their own, all others are summed up by file system (2 us a row). `trace_s`:
    page allocations are traced for so long; None: for `trace_if_large_s` when the residual is over its limit."""
    return Sources(
        files=lambda progress, pids: _files(progress, pids, max(files, _LEAST_FILES)),
        lines=_lines,
        gpus=lambda progress, pids: gpu_memory(pids, progress),
        heaps=None if heaps is None else _heap_source(heaps),
        allocations=_allocation_source(trace_s, trace_if_large_s),
    )


def _allocation_source(
    wanted_s: float | None, if_large_s: float
) -> Callable[[Progress, Panorama], Mapping[str, Any]] | None:
    if not (if_large_s if wanted_s is None else wanted_s):
        return None

    def look(progress: Progress, found: Panorama) -> Mapping[str, Any]:
        if wanted_s is None and not residual_is_large(found):
            return {}
        traced = alloctrace.trace_allocations(if_large_s if wanted_s is None else wanted_s)
        if isinstance(traced, Missing):
            progress.gap(traced)
            return {}
        progress.rows = len(traced.value.keepers)
        return allocations_document(traced.value)

    return look


def allocations_document(traced: AllocationTrace) -> dict[str, Any]:
    """The stacks that kept the most, those that no line of the balance has first."""
    ranked = sorted(traced.keepers, key=lambda keeper: (bool(keeper.counted_as), -keeper.bytes))
    return {
        "seconds": round(traced.seconds, 3),
        "seen": traced.seen,
        "dropped": traced.dropped,
        "keepers": [
            {**dataclasses.asdict(keeper), "functions": list(keeper.functions)} for keeper in ranked[:_KEEPERS]
        ],
    }


def _heap_source(wanted: HeapWish) -> Callable[[Progress, Sequence[ProcessRow]], Sequence[Mapping[str, Any]]]:
    def look(progress: Progress, rows: Sequence[ProcessRow]) -> Sequence[Mapping[str, Any]]:
        from osremed.panorama.heaps.collect import Wish, collect_heaps  # noqa: PLC0415  only for those who ask
        from osremed.panorama.heaps.model import NoHeap  # noqa: PLC0415

        pids = dict.fromkeys((*wanted.pids, *(row.pid for row in rows[: wanted.count])))
        found = collect_heaps(list(pids), Wish(growth_s=wanted.growth_s or None, consent=wanted.consent))
        for one in found:
            if isinstance(one, NoHeap):
                progress.gap(one.missing)
        progress.rows = len(found)
        return [one.as_json() for one in found]

    return look


def _files(progress: Progress, pids: Sequence[int], most_rows: int) -> FoundFiles | None:
    """None where BPF cannot run: the scan then counts open and mapped files by itself."""
    found = by_bpf(pids, progress, most_rows=most_rows)
    if found is None:
        return None
    devices = sum(row.cached_bytes for row in found.files if row.type == DEVICE)
    return FoundFiles(
        rows=found.files,
        files=found.files_found,
        cached_bytes=found.cached_bytes - devices,
        looked_at=f"{ALL_FILES} ({BPF})",
        lines=pool_lines(found.pools, found.scan_every),
        details=page_cache_document(found),
    )


def _lines(progress: Progress) -> FoundLines:
    found = invisible(progress)
    return FoundLines(found.lines, as_document(found))


def page_cache_document(found: PageCache) -> dict[str, Any]:
    """What the look at all files says beside the files: file systems, who pays, what the pages are, what it cost."""
    groups = found.groups
    return {
        "method": found.method,
        "coverage": reading_as_json(found.coverage),
        "file_systems": [dataclasses.asdict(row) for row in found.file_systems],
        "groups": groups.as_json()
        if isinstance(groups, Missing)
        else {name: dict(cells) for name, cells in groups.value.items()},
        "page_classes": dict(found.page_classes.value)
        if isinstance(found.page_classes, Value)
        else found.page_classes.as_json(),
        "page_pools": reading_as_json(found.pools),
        "page_scan": {"every": found.scan_every, "lost_bytes": found.scan_lost_bytes},
        "longest_hold_s": round(found.longest_hold_s, 4),
    }
