"""The words of a panorama and its JSON document. Every figure is a Reading: what could not be read is a gap."""

from __future__ import annotations

from typing import Any

from osremed.core.reading import Missing, Reading, Value, reading_as_json
from osremed.core.record import record

NODE = "node"


@record
class BalanceLine:
    """One part of the total. `kind` groups lines for drawing: anon, file, shmem, kernel, other, unaccounted, free.
    `note` says what else the line holds or leaves out."""

    name: str
    kind: str
    bytes: Reading[int]
    source: str
    note: str = ""


@record
class Balance:
    """The known lines, the residual among them, sum to `total_bytes` exactly. The residual also holds lines that are
    Missing, and is negative when the kernel's counters overlap or lag."""

    total_bytes: int
    lines: tuple[BalanceLine, ...]

    @property
    def residual_bytes(self) -> int:
        return sum(
            line.bytes.value for line in self.lines if line.kind == "unaccounted" and isinstance(line.bytes, Value)
        )


@record
class ProcessRow:
    """`heap_bytes` = RssAnon + VmSwap. After a fork pages are counted with every process that shares them."""

    pid: int
    start_time_ticks: int
    name: str
    heap_bytes: int
    anon_bytes: int
    swap_bytes: int
    file_bytes: Reading[int]
    shmem_bytes: Reading[int]
    cmdline: Reading[str]
    oom_score_adj: Reading[int]
    cgroup: Reading[str]


@record
class FileRow:
    """`path` is as process `path_of_pid` sees it. `cached_bytes` count the whole file, whoever brought it in."""

    path: str
    path_of_pid: int
    filesystem: str
    cached_bytes: int
    dirty_bytes: Reading[int]
    writeback_bytes: Reading[int]
    size_bytes: int
    deleted: bool
    open_by: tuple[int, ...]
    method: str


@record
class Gap:
    """`count` readings of this layer that failed alike; `missing` is the first of them."""

    layer: str
    missing: Missing
    count: int


@record
class Layer:
    """What one layer cost and gave. `finished` is false when it ran out of time."""

    name: str
    duration_s: float
    rows: int
    finished: bool


@record
class Totals:
    """Over all processes and files that were read, also those below the row limits."""

    processes: int
    heap_bytes: Reading[int]
    files: int
    cached_bytes: int


@record
class Panorama:
    """`scope`: `node` or the path of the control group. `drift_bytes`: how far usage moved while the scan ran."""

    scope: str
    total_bytes: Reading[int]
    available_bytes: Reading[int]
    drift_bytes: Reading[int]
    swap_total_bytes: Reading[int]
    swap_used_bytes: Reading[int]
    balance: Reading[Balance]
    page_cache_bytes: Reading[int]
    processes: tuple[ProcessRow, ...]
    files: tuple[FileRow, ...]
    totals: Totals
    gaps: tuple[Gap, ...]
    layers: tuple[Layer, ...]


def as_document(panorama: Panorama) -> dict[str, Any]:
    """The JSON document: numbers are bytes, and a figure that is not known is an object with the key `missing`."""
    balance = panorama.balance
    return {
        "scope": panorama.scope,
        "total_bytes": reading_as_json(panorama.total_bytes),
        "available_bytes": reading_as_json(panorama.available_bytes),
        "drift_bytes": reading_as_json(panorama.drift_bytes),
        "swap": {
            "total_bytes": reading_as_json(panorama.swap_total_bytes),
            "used_bytes": reading_as_json(panorama.swap_used_bytes),
        },
        "balance": [_line(line, balance.value.total_bytes) for line in balance.value.lines]
        if isinstance(balance, Value)
        else balance.as_json(),
        "residual_bytes": balance.value.residual_bytes if isinstance(balance, Value) else balance.as_json(),
        "processes": [_process(row) for row in panorama.processes],
        "files": [_file(row) for row in panorama.files],
        "totals": {
            "processes": panorama.totals.processes,
            "heap_bytes": reading_as_json(panorama.totals.heap_bytes),
            "files": panorama.totals.files,
            "cached_bytes": panorama.totals.cached_bytes,
        },
        "coverage": _coverage(panorama),
        "gaps": [{"layer": gap.layer, **gap.missing.as_json(), "count": gap.count} for gap in panorama.gaps],
        "durations_s": {layer.name: round(layer.duration_s, 4) for layer in panorama.layers},
        "layers": [{"name": layer.name, "rows": layer.rows, "finished": layer.finished} for layer in panorama.layers],
    }


def _share(count: Reading[int], total_bytes: int) -> Reading[float]:
    return Value(round(count.value / max(total_bytes, 1), 6)) if isinstance(count, Value) else count


def _line(line: BalanceLine, total_bytes: int) -> dict[str, Any]:
    return {
        "name": line.name,
        "kind": line.kind,
        "bytes": reading_as_json(line.bytes),
        "share": reading_as_json(_share(line.bytes, total_bytes)),
        "source": line.source,
        "note": line.note,
    }


def _process(row: ProcessRow) -> dict[str, Any]:
    return {
        "pid": row.pid,
        "start_time_ticks": row.start_time_ticks,
        "name": row.name,
        "cmdline": reading_as_json(row.cmdline),
        "heap_bytes": row.heap_bytes,
        "anon_bytes": row.anon_bytes,
        "swap_bytes": row.swap_bytes,
        "file_bytes": reading_as_json(row.file_bytes),
        "shmem_bytes": reading_as_json(row.shmem_bytes),
        "oom_score_adj": reading_as_json(row.oom_score_adj),
        "cgroup": reading_as_json(row.cgroup),
    }


def _file(row: FileRow) -> dict[str, Any]:
    return {
        "path": row.path,
        "path_of_pid": row.path_of_pid,
        "filesystem": row.filesystem,
        "cached_bytes": row.cached_bytes,
        "dirty_bytes": reading_as_json(row.dirty_bytes),
        "writeback_bytes": reading_as_json(row.writeback_bytes),
        "size_bytes": row.size_bytes,
        "deleted": row.deleted,
        "open_by": list(row.open_by),
        "method": row.method,
    }


def _coverage(panorama: Panorama) -> dict[str, Any]:
    return {
        "open_and_mapped_bytes": panorama.totals.cached_bytes,
        "page_cache_bytes": reading_as_json(panorama.page_cache_bytes),
        "ratio": reading_as_json(coverage_ratio(panorama)),
        "files_seen": panorama.totals.files,
        "statement": coverage_statement(panorama),
    }


def coverage_ratio(panorama: Panorama) -> Reading[float]:
    """Named page cache over all page cache of the scope. Above 1 when a group uses files that others paid for."""
    cache = panorama.page_cache_bytes
    if isinstance(cache, Missing):
        return cache
    return Value(round(panorama.totals.cached_bytes / cache.value, 4) if cache.value else 1.0)


def coverage_statement(panorama: Panorama) -> str:
    """One honest sentence on how much of the page cache has a name here."""
    least = "at least " if any(gap.layer == "files" for gap in panorama.gaps) else ""
    named = f"open and mapped files of the scope: {least}{_mib(panorama.totals.cached_bytes)}"
    cache, ratio = panorama.page_cache_bytes, coverage_ratio(panorama)
    if isinstance(cache, Missing) or isinstance(ratio, Missing):
        return f"{named}; the scope's page cache was not collected: {cache}"
    if ratio.value > 1:
        return f"{named}, more than the {_mib(cache.value)} of page cache charged to it: others pay for a part"
    text = f"{named} of {_mib(cache.value)} of the scope's page cache = {least}{ratio.value * 100:.1f} %"
    return text if panorama.scope == NODE else f"{text}; a file counts whole, also where another group pays for it"


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
