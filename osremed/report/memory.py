"""Who holds the memory, drawn: the balance as one bar up to the limit, then processes and files as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.language import filled
from osremed.core.reading import Missing
from osremed.core.record import record
from osremed.core.units import format_bytes
from osremed.report.facts import int_at, missing_at, number_at, rows_at, text_at
from osremed.report.svg import ARTIFACT_PX, PAD, PHONE_PX, Drawing, fit, line, note, rect, text

_PROCESSES, _FILES = 8, 6
_SOURCE = "panorama"
_KINDS = {
    "anon": "anonymous memory",
    "file": "files in page cache",
    "shmem": "shared memory, tmpfs",
    "kernel": "kernel",
    "other": "other",
    "unaccounted": "unaccounted",
    "free": "free",
}


@record
class _Group:
    """Bars under one title: (name, bytes), or why there are none."""

    title: str
    style: str
    bars: list[tuple[str, float]] | Missing


def draw_memory(panorama: Mapping[str, Any] | Missing, *, width: int = ARTIFACT_PX) -> Drawing:
    if isinstance(panorama, Missing):
        return note(filled("not collected: {1}", str(panorama)), filled("Memory"), width)
    total = number_at(panorama, "total_bytes", _SOURCE)
    if isinstance(total, Missing) or total <= 0:
        return note(filled("not collected: {1}", str(total)), filled("Memory"), width)
    parts: list[str] = []
    bottom = _balance_bar(parts, panorama, total, width)
    groups = (
        _Group(filled("Processes by heap"), "o-anon", _process_bars(panorama)),
        _Group(filled("Files by page cache"), "o-file", _file_bars(panorama)),
    )
    for group in groups:
        bottom = _bars(parts, bottom + 14, group, total=total, width=width)
    return Drawing(width, round(bottom + PAD), _memory_label(panorama, total), "".join(parts))


def _memory_label(panorama: Mapping[str, Any], total: float) -> str:
    available = number_at(panorama, "available_bytes", _SOURCE)
    if isinstance(available, Missing):
        return filled("{1}, available not collected: {2}", format_bytes(total), str(available))
    return filled("{1} of {2} available", format_bytes(available), format_bytes(total))


def _by_kind(panorama: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Bytes by kind, and the names of lines whose bytes are not known."""
    balance = panorama.get("balance")
    told = isinstance(balance, Mapping) and "missing" not in balance
    lines = rows_at(balance, "lines", _SOURCE) if told else missing_at(panorama, "balance", _SOURCE)
    sums: dict[str, float] = {}
    gaps: list[str] = []
    if isinstance(lines, Missing):
        return sums, [filled("balance not collected: {1}", str(lines))]
    for entry in lines:
        count, name = int_at(entry, "bytes", _SOURCE), text_at(entry, "name", _SOURCE)
        kind = str(entry.get("kind"))
        kind = kind if kind in _KINDS else "other"
        if isinstance(count, Missing):
            gaps.append(filled("{1}: not collected ({2})", str(name), count.reason.value))
        else:
            sums[kind] = sums.get(kind, 0) + count
    return sums, gaps


def _balance_bar(parts: list[str], panorama: Mapping[str, Any], total: float, width: int) -> float:
    """The stacked bar with its limit line and legend; the y where it ends."""
    sums, gaps = _by_kind(panorama)
    span = width - 2 * PAD
    # A residual is negative where the kernel's counters overlap: it has words and no bar.
    scale = span / max(total, sum(count for count in sums.values() if count > 0))
    parts.append(text(PAD, 22, fit(_memory_label(panorama, total), span), style="o-ink o-strong"))
    x = float(PAD)
    for kind, name in _KINDS.items():
        if sums.get(kind, 0) > 0:
            step = sums[kind] * scale
            title = f"{filled(name)}: {format_bytes(sums[kind])}"
            parts.append(rect(x, 34, step - 1 if step > 2 else step, 24, f"o-{kind}", title=title))
            x += step
    limit_x = PAD + total * scale
    parts.append(line(limit_x, 30, limit_x, 62, "o-limit"))
    parts.append(text(limit_x, 74, filled("limit {1}", format_bytes(total)), style="o-dim", anchor="end"))
    columns = max(1, int(span // 300))
    cell = span / columns
    y = 78.0
    shown = [kind for kind in _KINDS if kind in sums]
    for index, kind in enumerate(shown):
        column, row = index % columns, index // columns
        left, y = PAD + column * cell, 92.0 + row * 20
        parts.append(rect(left, y - 9, 10, 10, f"o-{kind}"))
        figures = f"{format_bytes(sums[kind])} · {sums[kind] / total * 100:.1f} %"
        parts.append(text(left + 16, y, f"{filled(_KINDS[kind])}: {figures}"))
    for gap in gaps[:4]:
        y += 18
        parts.append(text(PAD, y, fit(gap, span), style="o-dim"))
    return y + 8


def _process_bars(panorama: Mapping[str, Any]) -> list[tuple[str, float]] | Missing:
    rows = rows_at(panorama, "processes", _SOURCE)
    if isinstance(rows, Missing):
        return rows
    bars = [
        (f"{text_at(row, 'name', _SOURCE)} {int_at(row, 'pid', _SOURCE)}", heap)
        for row in rows[:_PROCESSES]
        if not isinstance(heap := number_at(row, "heap_bytes", _SOURCE), Missing)
    ]
    totals = panorama.get("totals")
    return bars + _rest(filled("all other processes"), number_at(totals, "heap_bytes", _SOURCE), bars)


def _file_bars(panorama: Mapping[str, Any]) -> list[tuple[str, float]] | Missing:
    rows = rows_at(panorama, "files", _SOURCE)
    if isinstance(rows, Missing):
        return rows
    bars = [
        (
            _tail(str(text_at(row, "path", _SOURCE)))
            + (f" {filled('(deleted)')}" if row.get("deleted") is True else ""),
            cached,
        )
        for row in rows[:_FILES]
        if not isinstance(cached := number_at(row, "cached_bytes", _SOURCE), Missing)
    ]
    coverage = panorama.get("coverage")
    return bars + _rest(filled("all other page cache"), number_at(coverage, "page_cache_bytes", _SOURCE), bars)


def _rest(name: str, whole: float | Missing, bars: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """One bar for what is not drawn, where the whole is known and larger."""
    if isinstance(whole, Missing):
        return []
    rest = whole - sum(count for _, count in bars)
    return [(name, rest)] if rest > 0 else []


def _tail(path: str) -> str:
    """The end of a path says more than its beginning."""
    return path if len(path) <= 30 else "…" + path[-29:]


def _bars(parts: list[str], top: float, group: _Group, *, total: float, width: int) -> float:
    """A titled group of bars, each with a mark at the limit where that fits the scale; the y where it ends."""
    bars = group.bars
    if isinstance(bars, Missing) or not bars:
        message = filled("not collected: {1}", str(bars)) if isinstance(bars, Missing) else filled("none found")
        parts.append(text(PAD, top + 14, fit(f"{group.title}: {message}", width - 2 * PAD), style="o-dim"))
        return top + 20
    largest = max(count for _, count in bars)
    rests = (filled("all other processes"), filled("all other page cache"))
    to_limit = largest >= 0.1 * total
    scale_to = max(total, largest) if to_limit else max(largest, 1.0)
    note = "" if to_limit else f" {filled('(bars to the scale of the largest)')}"
    parts.append(text(PAD, top + 14, f"{group.title}{note}", style="o-ink o-strong"))
    narrow = width < PHONE_PX
    left = PAD if narrow else 230
    span = width - left - PAD - (0 if narrow else 130)
    y = top + 24
    for name, count in bars:
        figures = f"{format_bytes(count)} · {count / total * 100:.1f} %"
        bar_y = y + 16 if narrow else y
        if narrow:
            parts.append(text(PAD, y + 11, fit(name, span - 130)))
            parts.append(text(width - PAD, y + 11, figures, style="o-dim", anchor="end"))
        else:
            parts.append(text(left - 10, y + 12, fit(name, left - 10 - PAD), anchor="end"))
            parts.append(text(width - PAD, y + 12, figures, style="o-dim", anchor="end"))
        parts.append(rect(left, bar_y, span, 14, "o-track"))
        shade = "o-other" if name in rests else group.style
        parts.append(rect(left, bar_y, max(span * count / scale_to, 1.5), 14, shade, title=f"{name}: {figures}"))
        if to_limit:
            limit_x = left + span * total / scale_to
            parts.append(line(limit_x, bar_y - 2, limit_x, bar_y + 16, "o-limit"))
        y += 36 if narrow else 21
    return y
