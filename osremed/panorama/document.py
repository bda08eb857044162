"""Panorama -> its JSON document: numbers are bytes, and a figure that is not known is an object with `missing`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from osremed.core.phrase import plain
from osremed.core.reading import Missing, Reading, Value, reading_as_json
from osremed.panorama.model import NODE, OPEN_FILES, Balance, BalanceLine, Diagnosis, FileRow, Growth, Panorama


def as_document(panorama: Panorama) -> dict[str, Any]:
    """The JSON document: numbers are bytes, and a figure that is not known is an object with the key `missing`."""
    balance = panorama.balance
    return {
        "scope": panorama.scope,
        "taken_ns": panorama.taken_ns,
        "total_bytes": reading_as_json(panorama.total_bytes),
        "available_bytes": reading_as_json(panorama.available_bytes),
        "drift_bytes": reading_as_json(panorama.drift_bytes),
        "swap": {
            "total_bytes": reading_as_json(panorama.swap_total_bytes),
            "used_bytes": reading_as_json(panorama.swap_used_bytes),
        },
        "balance": balance.as_json() if isinstance(balance, Missing) else _balance(balance.value),
        "residual_bytes": balance.value.residual_bytes if isinstance(balance, Value) else balance.as_json(),
        "processes": [_plain(row) for row in panorama.processes],
        "containers": [_plain(row) for row in panorama.containers],
        "gpus": [_plain(row) for row in panorama.gpus],
        "vram": [_plain(row) for row in panorama.vram],
        "dying_groups": [_plain(row) for row in panorama.dying],
        "files": [_file(row) for row in panorama.files],
        "heaps": [dict(heap) for heap in panorama.heaps],
        "page_cache": dict(panorama.page_cache),
        "invisible": dict(panorama.invisible),
        "allocations": dict(panorama.allocations),
        "shared_segments": [_plain(segment) for segment in panorama.segments],
        "socket_queues": dict(panorama.sockets),
        "findings": [_diagnosis(each) for each in panorama.findings],
        "growth": None if panorama.growth is None else growth_document(panorama.growth),
        "totals": {
            "processes": panorama.totals.processes,
            "heap_bytes": reading_as_json(panorama.totals.heap_bytes),
            "files": panorama.totals.files,
            "groups": panorama.totals.groups,
            "cached_bytes": panorama.totals.cached_bytes,
        },
        "coverage": _coverage(panorama),
        "gaps": [{"layer": gap.layer, **gap.missing.as_json(), "count": gap.count} for gap in panorama.gaps],
        "durations_s": {layer.name: round(layer.duration_s, 4) for layer in panorama.layers},
        "layers": [{"name": layer.name, "rows": layer.rows, "finished": layer.finished} for layer in panorama.layers],
        "cost": None if panorama.cost is None else _plain(panorama.cost),
    }


def _plain(row: Any) -> dict[str, Any]:
    """A record of plain values and Readings, by its own names."""
    cells = ((each.name, getattr(row, each.name)) for each in dataclasses.fields(row))
    return {name: reading_as_json(cell) if isinstance(cell, (Value, Missing)) else cell for name, cell in cells}


def _balance(balance: Balance) -> dict[str, Any]:
    return {
        "total_bytes": balance.total_bytes,
        "residual_bytes": balance.residual_bytes,
        "residual_share": round(balance.residual_bytes / max(balance.total_bytes, 1), 6),
        "lines": [_line(line, balance.total_bytes) for line in balance.lines],
    }


def growth_document(growth: Growth) -> dict[str, Any]:
    """`rate_bytes_s` may be negative: what shrank is told too."""
    rows = []
    for row in growth.rows:
        seconds = round(row.seconds, 2)
        rate = round(row.bytes / max(seconds, 0.01), 1)
        rows.append({**_plain(row), "seconds": seconds, "bytes": row.bytes, "rate_bytes_s": rate})
    return {"seconds": round(growth.seconds, 2), "source": growth.source, "rows": rows}


def _diagnosis(each: Diagnosis) -> dict[str, Any]:
    return {
        **each.finding.as_json(),
        "kind": each.kind,
        "held_bytes": each.held_bytes,
        "gain_bytes": reading_as_json(each.gain_bytes),
        "action": each.advice.action,
        "with": dict(each.advice.arguments),
        "how": each.advice.how,
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
        "method": line.method,
        "overlap": line.overlap,
        "error_bytes": reading_as_json(line.error_bytes),
        "note": line.note,
        "parts": [{"name": part.name, "bytes": part.bytes} for part in line.parts],
    }


def _file(row: FileRow) -> dict[str, Any]:
    return {**_plain(row), "open_by": list(row.open_by)}


def _coverage(panorama: Panorama) -> dict[str, Any]:
    return {
        "open_and_mapped_bytes": panorama.totals.cached_bytes,
        "page_cache_bytes": reading_as_json(panorama.page_cache_bytes),
        "ratio": reading_as_json(coverage_ratio(panorama)),
        "files_seen": panorama.totals.files,
        "looked_at": panorama.totals.files_looked_at,
        "statement": coverage_statement(panorama),
    }


def coverage_ratio(panorama: Panorama) -> Reading[float]:
    """Named page cache over all page cache of the scope. Above 1 when a group uses files that others paid for."""
    cache = panorama.page_cache_bytes
    if isinstance(cache, Missing):
        return cache
    return Value(round(panorama.totals.cached_bytes / cache.value, 4) if cache.value else 1.0)


def coverage_statement(panorama: Panorama, fill: Callable[..., str] = plain) -> str:
    """One honest sentence on how much of the page cache has a name here; `fill` as in `core.phrase`."""
    partly, seen = any(gap.layer == "files" for gap in panorama.gaps), _mib(panorama.totals.cached_bytes)
    seen = fill("at least {1}", seen) if partly else seen
    named = f"{fill(panorama.totals.files_looked_at)}: {seen}"
    cache, ratio = panorama.page_cache_bytes, coverage_ratio(panorama)
    if isinstance(cache, Missing) or isinstance(ratio, Missing):
        return fill("{1}; the scope's page cache was not collected: {2}", named, str(cache))
    percent = f"{ratio.value * 100:.1f} %"
    if panorama.totals.files_looked_at != OPEN_FILES:
        return fill("{1}; the kernel counts {2}: {3}", named, _mib(cache.value), f"{ratio.value * 100:.2f} %")
    if ratio.value > 1:
        whole = _mib(cache.value)
        return fill("{1}, more than the {2} of page cache charged to it: others pay for a part", named, whole)
    share = fill("at least {1}", percent) if partly else percent
    text = fill("{1} of {2} of the scope's page cache = {3}", named, _mib(cache.value), share)
    if panorama.scope == NODE:
        return text
    return fill("{1}; a file counts whole, also where another group pays for it", text)


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
