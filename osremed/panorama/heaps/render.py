"""Heap reports -> text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from osremed.core.reading import Missing, Reading
from osremed.core.shown import printable
from osremed.core.units import format_bytes, format_duration
from osremed.panorama.heaps.model import Growth, Heap, HeapReport, NoHeap, Pause, Recording, Snapshot

_ROWS = 12
_NAME_CHARACTERS = 48
_NAMELESS = "(no module names it)"


def render_heaps(heaps: Sequence[Heap]) -> str:
    """One block for each process: the sentence, types, holders, growth, gaps, cost. In 120 columns."""
    return "\n\n".join(_no_heap(one) if isinstance(one, NoHeap) else _report(one) for one in heaps)


def _no_heap(heap: NoHeap) -> str:
    return f"Heap of {printable(heap.name)} (pid {heap.pid}): not read: {printable(str(heap.missing))}"


def _report(report: HeapReport) -> str:
    seen = report.snapshot
    parts = [printable(report.sentence), _types(seen), _holders(seen), _arenas(seen)]
    if report.growth is not None:
        parts.append(_growth(report.growth))
    if report.recording is not None:
        parts.append(_recording(report.recording))
    parts.extend(f"  gap: {printable(str(gap))}" for gap in seen.gaps)
    cost = f"  read in {format_duration(report.duration_s)}, {format_duration(report.cpu_s)} of CPU; {seen.method}"
    torn = f"; {seen.torn_reads} reads met memory that was not mapped" if seen.torn_reads else ""
    parts.append(cost + torn + _pause(seen.pause))
    return "\n".join(part for part in parts if part)


def _pause(pause: Pause | None) -> str:
    if pause is None:
        return ""
    measured = pause.measured_s
    told = f"not measured: {measured}" if isinstance(measured, Missing) else format_duration(measured.value)
    return f"; paused the target: estimate {format_duration(pause.estimate_s)}, measured {told}"


def _types(seen: Snapshot) -> str:
    share = seen.attributed_bytes / seen.resident_bytes if seen.resident_bytes else 0.0
    scaled = "" if seen.coverage > 0.999 else f", from a sample of {seen.coverage:.0%}"
    head = (
        f"  types: {format_bytes(seen.attributed_bytes)} of {format_bytes(seen.resident_bytes)} ({share:.0%}){scaled}"
    )
    rows = [f"    {format_bytes(row.bytes):>10} {row.count:>12,}  {_cut(row.name)}" for row in seen.types[:_ROWS]]
    return "\n".join([head, *rows])


def _holders(seen: Snapshot) -> str:
    rows = [
        f"    {format_bytes(row.bytes):>10} {row.items:>12,}  {_cut(row.path or _NAMELESS)}"
        f"  {_cut(row.kind)}{' of ' + _cut(row.element) if row.element else ''}"
        for row in seen.holders[:_ROWS]
    ]
    return "\n".join(["  held in:", *rows]) if rows else ""


def _arenas(seen: Snapshot) -> str:
    rows = [
        f"    {format_bytes(row.bytes):>10} {row.chunks:>12,}  {row.name}: in use {format_bytes(row.in_use_bytes)},"
        f" free {format_bytes(row.free_bytes)}, top {format_bytes(row.top_bytes)},"
        f" tcache {_known(row.tcache_bytes)}, fast bins {_known(row.fast_bytes)}"
        for row in seen.arenas[:_ROWS]
    ]
    return "\n".join(["  arenas of malloc:", *rows]) if rows else ""


def _known(reading: Reading[int]) -> str:
    return f"not known ({reading.detail})" if isinstance(reading, Missing) else format_bytes(reading.value)


def _growth(growth: Growth) -> str:
    grown = [(row.bytes_per_s, row.items_per_s, row.path or _NAMELESS) for row in growth.holders[:_ROWS]]
    grown += [(row.bytes_per_s, row.count_per_s, row.name) for row in growth.types[:_ROWS]]
    rows = [f"    {format_bytes(rate):>10}/s {count:>+12,.1f}/s  {_cut(name)}" for rate, count, name in grown]
    return "\n".join([f"  growth in {growth.window_s:.1f} s:", *rows])


def _recording(recording: Reading[Recording]) -> str:
    if isinstance(recording, Missing):
        return f"  gap: no recording: {printable(str(recording))}"
    seen = recording.value
    rows = [
        f"    {path.samples:>5}  {printable(path.path)}"
        + (f"\n           made in {printable(' < '.join(path.stack))}" if path.stack else "")
        for path in seen.paths[:_ROWS]
    ]
    head = f"  recorded for {seen.seconds:.1f} s, {seen.samples} objects sampled{_pause(seen.pause)}:"
    return "\n".join([head, *rows])


def _cut(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _NAME_CHARACTERS else f"{shown[: _NAME_CHARACTERS - 1]}…"
