"""Heap reports -> text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from osremed.core.language import filled
from osremed.core.reading import Missing, Reading
from osremed.core.shown import printable
from osremed.core.units import format_bytes, format_duration
from osremed.panorama.heaps.growth import kind_of, recorded_sentence, sentence
from osremed.panorama.heaps.model import Growth, Heap, HeapReport, HolderRow, NoHeap, Pause, Recording, Snapshot

_ROWS = 12
_NAME_CHARACTERS = 48


def render_heaps(heaps: Sequence[Heap]) -> str:
    """One block for each process: the sentence, types, holders, growth, gaps, cost. In 120 columns."""
    return "\n\n".join(_no_heap(one) if isinstance(one, NoHeap) else _report(one) for one in heaps)


def _no_heap(heap: NoHeap) -> str:
    told = (printable(heap.name), str(heap.pid), printable(str(heap.missing)))
    return filled("Heap of {1} (pid {2}): not read: {3}", *told)


def _report(report: HeapReport) -> str:
    seen = report.snapshot
    parts = [printable(_sentence(report)), _types(seen), _holders(seen), _arenas(seen)]
    if report.growth is not None:
        parts.append(_growth(report.growth))
    if report.recording is not None:
        parts.append(_recording(report.recording))
    parts.extend(filled("  gap: {1}", printable(str(gap))) for gap in seen.gaps)
    took = (format_duration(report.duration_s), format_duration(report.cpu_s))
    cost = filled("  read in {1}, {2} of CPU; {3}", *took, filled(seen.method))
    torn = filled("; {1} reads met memory that was not mapped", str(seen.torn_reads)) if seen.torn_reads else ""
    parts.append(cost + torn + _pause(seen.pause))
    return "\n".join(part for part in parts if part)


def _sentence(report: HeapReport) -> str:
    """`report.sentence` in the language that is spoken."""
    text, recording = sentence(report.name, report.pid, report.snapshot, report.growth, filled), report.recording
    return (
        text
        if recording is None or isinstance(recording, Missing)
        else text + recorded_sentence(recording.value, filled)
    )


def _pause(pause: Pause | None) -> str:
    if pause is None:
        return ""
    measured = pause.measured_s
    if isinstance(measured, Missing):
        told = filled("not measured: {1}", str(measured))
    else:
        told = format_duration(measured.value)
    return filled("; paused the target: estimate {1}, measured {2}", format_duration(pause.estimate_s), told)


def _types(seen: Snapshot) -> str:
    share = seen.attributed_bytes / seen.resident_bytes if seen.resident_bytes else 0.0
    scaled = "" if seen.coverage > 0.999 else filled(", from a sample of {1}", f"{seen.coverage:.0%}")
    held = (format_bytes(seen.attributed_bytes), format_bytes(seen.resident_bytes), f"{share:.0%}")
    head = filled("  types: {1} of {2} ({3})", *held) + scaled
    rows = [f"    {format_bytes(row.bytes):>10} {row.count:>12,}  {_cut(row.name)}" for row in seen.types[:_ROWS]]
    return "\n".join([head, *rows])


def _holders(seen: Snapshot) -> str:
    rows = [
        f"    {format_bytes(row.bytes):>10} {row.items:>12,}  {_name(row.path)}  {_kind(row)}"
        for row in seen.holders[:_ROWS]
    ]
    return "\n".join([filled("  held in:"), *rows]) if rows else ""


def _kind(row: HolderRow) -> str:
    return kind_of(_cut(row.kind), _cut(row.element), filled)


def _name(path: str) -> str:
    return _cut(path) if path else filled("(no module names it)")


def _arenas(seen: Snapshot) -> str:
    rows = [
        f"    {format_bytes(row.bytes):>10} {row.chunks:>12,}  {row.name}"
        + filled(
            ": in use {1}, free {2}, top {3}, ", *map(format_bytes, (row.in_use_bytes, row.free_bytes, row.top_bytes))
        )
        + filled("tcache {1}, fast bins {2}", _known(row.tcache_bytes), _known(row.fast_bytes))
        for row in seen.arenas[:_ROWS]
    ]
    return "\n".join([filled("  arenas of malloc:"), *rows]) if rows else ""


def _known(reading: Reading[int]) -> str:
    return filled("not known ({1})", reading.detail) if isinstance(reading, Missing) else format_bytes(reading.value)


def _growth(growth: Growth) -> str:
    grown = [(row.bytes_per_s, row.items_per_s, _name(row.path)) for row in growth.holders[:_ROWS]]
    grown += [(row.bytes_per_s, row.count_per_s, _cut(row.name)) for row in growth.types[:_ROWS]]
    rows = [f"    {format_bytes(rate):>10}/s {count:>+12,.1f}/s  {name}" for rate, count, name in grown]
    return "\n".join([filled("  growth in {1} s:", f"{growth.window_s:.1f}"), *rows])


def _recording(recording: Reading[Recording]) -> str:
    if isinstance(recording, Missing):
        return filled("  gap: no recording: {1}", printable(str(recording)))
    seen = recording.value
    rows = [
        f"    {path.samples:>5}  {printable(path.path)}"
        + (f"\n           {filled('made in {1}', printable(' < '.join(path.stack)))}" if path.stack else "")
        for path in seen.paths[:_ROWS]
    ]
    told = (f"{seen.seconds:.1f}", str(seen.samples), _pause(seen.pause))
    return "\n".join([filled("  recorded for {1} s, {2} objects sampled{3}:", *told), *rows])


def _cut(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _NAME_CHARACTERS else f"{shown[: _NAME_CHARACTERS - 1]}…"
