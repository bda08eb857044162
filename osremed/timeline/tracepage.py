"""Traces -> one self-contained HTML page, or a Chrome trace with all ranks side by side."""

from __future__ import annotations

import base64
import gzip
import json
import pkgutil
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from osremed.core.files import write_atomic
from osremed.timeline.trace import KIND_NAMES, Trace

_DEEPEST = 100
_MOST_EVENTS = 3_000_000


def page(traces: Sequence[Trace], title: str) -> bytes:
    """The page. Events are columns, compressed; beyond three million the shortest are left out, and it says so."""
    template = pkgutil.get_data("osremed.timeline", "page.html")
    assert template is not None
    facts = json.dumps(page_data(traces, title), separators=(",", ":"))
    facts = facts.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return template.replace(b"/*DATA*/null", facts.encode())


def page_data(traces: Sequence[Trace], title: str) -> dict[str, Any]:
    """{title, names, kinds, notes, lanes}; a lane holds rows (depths), each base64 of zlib of little-endian columns:
    starts and durations (float64, ns from the first event), names (uint32) and kinds (uint8)."""
    names: dict[str, int] = {}
    least_ns, dropped = _least_duration(traces)
    begin_ns = min(min(trace.start) for trace in traces)
    lanes: list[dict[str, Any]] = []
    for number, trace in enumerate(traces):
        rank = trace.rank if trace.rank >= 0 else number
        local = [names.setdefault(text, len(names)) for text in trace.names.texts]
        lanes += _lanes(trace, rank, local, begin_ns, least_ns)
    notes = [f"{trace.path}: {gap}" for trace in traces for gap in trace.gaps]
    if dropped:
        notes.append(f"{dropped} events shorter than {least_ns} ns are not shown")
    lanes.sort(key=lambda lane: (lane["rank"], not lane["device"], lane["label"]))
    return {"title": title, "names": list(names), "kinds": list(KIND_NAMES), "notes": notes, "lanes": lanes}


def _least_duration(traces: Sequence[Trace]) -> tuple[int, int]:
    total = sum(len(trace) for trace in traces)
    if total <= _MOST_EVENTS:
        return 0, 0
    durations = sorted(each for trace in traces for each in trace.duration)
    least = durations[total - _MOST_EVENTS]
    return least, sum(1 for each in durations if each < least)


def _lanes(trace: Trace, rank: int, local: Sequence[int], begin_ns: int, least_ns: int) -> Iterator[dict[str, Any]]:
    by_lane: dict[int, list[int]] = {}
    for event in range(len(trace)):
        if trace.duration[event] >= least_ns:
            by_lane.setdefault(trace.lane[event], []).append(event)
    described = trace.lanes()
    for number, events in by_lane.items():
        lane = described[number]
        kind = "stream" if lane.device else "thread"
        label = f"rank {rank} · {lane.process} · {kind} {lane.thread}" + (f" · {lane.label}" if lane.label else "")
        rows = [_row(trace, row, local, begin_ns) for row in _by_depth(trace, events)]
        yield {"label": label, "rank": rank, "device": lane.device, "rows": rows}


def _by_depth(trace: Trace, events: list[int]) -> list[list[int]]:
    """Rows in which no two events overlap: an event stands below what encloses it."""
    events.sort(key=lambda event: (trace.start[event], -trace.duration[event]))
    ends: list[int] = []
    rows: list[list[int]] = []
    for event in events:
        while ends and ends[-1] <= trace.start[event]:
            ends.pop()
        depth = min(len(ends), _DEEPEST)
        ends.append(trace.end(event))
        while depth < len(rows) and rows[depth] and trace.end(rows[depth][-1]) > trace.start[event]:
            depth += 1  # the one above ended late by a rounding
        if depth >= len(rows):
            rows.append([])
            depth = len(rows) - 1
        rows[depth].append(event)
    return rows


def _row(trace: Trace, events: Sequence[int], local: Sequence[int], begin_ns: int) -> dict[str, Any]:
    starts = array("d", (trace.start[event] - begin_ns for event in events))
    durations = array("d", (trace.duration[event] for event in events))
    names = array("I", (local[trace.name[event]] for event in events))
    kinds = bytes(trace.kind[event] for event in events)
    blob = zlib.compress(starts.tobytes() + durations.tobytes() + names.tobytes() + kinds, 6)
    return {"count": len(events), "data": base64.b64encode(blob).decode()}


def export(traces: Sequence[Trace], path: str) -> int:
    """Writes a Chrome/Perfetto trace of all ranks, gzipped when the name ends in .gz; how many events."""
    events: list[str] = []
    for number, trace in enumerate(traces):
        rank = trace.rank if trace.rank >= 0 else number
        events += _exported(trace, rank)
    text = '{"displayTimeUnit":"ns","traceEvents":[\n' + ",\n".join(events) + "\n]}\n"
    data = text.encode()
    write_atomic(path, gzip.compress(data, 6, mtime=0) if path.endswith(".gz") else data)
    return sum(len(trace) for trace in traces)


def _exported(trace: Trace, rank: int) -> Iterator[str]:
    described = trace.lanes()
    for number, lane in enumerate(described):
        kind = "stream" if lane.device else "thread"
        name = {"name": f"{kind} {lane.thread} {lane.label}".strip()}
        head = {"ph": "M", "name": "thread_name", "pid": f"rank {rank} {lane.process}", "tid": number, "args": name}
        yield json.dumps(head)
    for event in range(len(trace)):
        start, duration = trace.start[event], trace.duration[event]
        lane = described[trace.lane[event]]
        process = json.dumps(f"rank {rank} {lane.process}")
        yield (
            f'{{"ph":"X","name":{json.dumps(trace.name_of(event))},"cat":"{KIND_NAMES[trace.kind[event]]}",'
            f'"pid":{process},"tid":{trace.lane[event]},"ts":{_us(start)},"dur":{_us(duration)}}}'
        )


def _us(nanoseconds: int) -> str:
    """Microseconds with every nanosecond, as text: no rounding of a double."""
    sign, value = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    return f"{sign}{value // 1000}.{value % 1000:03d}"
