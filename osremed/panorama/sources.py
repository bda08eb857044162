"""The deeper looks of this host's own kernel, as a scan takes them: all cached files, and the residual by owner."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from osremed.core.reading import Missing, Value, reading_as_json
from osremed.panorama.cache import BPF, by_bpf
from osremed.panorama.cache_model import DEVICE, PageCache
from osremed.panorama.collect import FoundFiles, FoundLines, Sources
from osremed.panorama.invisible import as_document, invisible, pool_lines
from osremed.panorama.layers import Progress

ALL_FILES = "all cached files"


def kernel_sources() -> Sources:
    """For a scan of the live host; where BPF cannot run, the scan falls back by itself and the gaps say so."""
    return Sources(files=_files, lines=_lines)


def _files(progress: Progress, pids: Sequence[int]) -> FoundFiles | None:
    """None where BPF cannot run: the scan then counts open and mapped files by itself."""
    found = by_bpf(pids, progress)
    if found is None:
        return None
    devices = sum(row.cached_bytes for row in found.files if row.type == DEVICE)
    return FoundFiles(
        rows=found.files,
        files=found.files_found,
        cached_bytes=found.cached_bytes - devices,
        looked_at=f"{ALL_FILES} ({BPF})",
        lines=pool_lines(found.pools),
        details=page_cache_document(found),
    )


def _lines(progress: Progress, pids: Sequence[int]) -> FoundLines:
    found = invisible(pids, progress)
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
        "longest_hold_s": round(found.longest_hold_s, 4),
    }
