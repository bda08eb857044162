"""The picture of the VRAM story: memory of each GPU, the allocations that the watch marked, and the moments of the run.
Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.event import Event
from osremed.core.record import record
from osremed.core.units import format_bytes
from osremed.report.svg import PAD, WIDE_PX, Drawing, line, text
from osremed.runbook.model import Applied, Happening

_HEIGHT_PX, _GAP_PX, _LEFT_PX, _TOP_PX = 150, 44, 84, 34


@record
class Sight:
    """What each GPU's used memory was, at one moment."""

    at_ns: int
    used_bytes: tuple[int, ...]


def instants(event: Event, happenings: Sequence[tuple[int, Happening]]) -> dict[str, int]:
    """alert, approved, limit set, restarted, verdict, undone -> when (wall clock), in order: what happened of these."""
    found = {"alert": event.time_ns}
    for at_ns, happening in happenings:
        if isinstance(happening, Applied):
            found["restarted" if happening.step else "limit set"] = at_ns
        elif happening.kind in ("approved", "verified", "undone"):
            found["verdict" if happening.kind == "verified" else happening.kind] = at_ns
    return found


def draw_vram(sights: Sequence[Sight], chain: Mapping[str, Any], moments: Mapping[str, int], gpu: int) -> Drawing:
    """A strip for each GPU, scaled to what it does while it serves; the marks are on that of the alert."""
    count = len(sights[0].used_bytes)
    first_ns, last_ns = sights[0].at_ns, max(sights[-1].at_ns, *moments.values())
    marks = [(at_ns, size) for place in chain.get("places", ()) for at_ns, size in place.get("marks", ())]

    def x(at_ns: int) -> float:
        return _LEFT_PX + (at_ns - first_ns) / max(last_ns - first_ns, 1) * (WIDE_PX - PAD - _LEFT_PX)

    parts = []
    for index in range(count):
        top = _TOP_PX + index * (_HEIGHT_PX + _GAP_PX)
        points = [(x(each.at_ns), each.used_bytes[index]) for each in sights]
        parts += _strip(index, points, top)
        if index == gpu:
            low, high = _range([used for _, used in points])
            parts += [
                _mark(x(at_ns), _y(_used_at(sights, index, at_ns), low, high, top), size) for at_ns, size in marks
            ]
    bottom = _TOP_PX + count * (_HEIGHT_PX + _GAP_PX) - _GAP_PX
    for number, (label, at_ns) in enumerate(moments.items()):
        parts.append(line(x(at_ns), _TOP_PX - 4, x(at_ns), bottom, "o-bad", dashed=True))
        anchor = "end" if x(at_ns) > WIDE_PX - 3 * PAD else "middle"
        parts.append(text(x(at_ns), 13 + 13 * (number % 2), label, anchor=anchor, style="o-strong o-ink"))
    span_s = (last_ns - first_ns) / 1e9
    parts.append(text(_LEFT_PX, bottom + 32, "0 s", style="o-dim"))
    parts.append(text(WIDE_PX - PAD, bottom + 32, f"{span_s:.0f} s", style="o-dim", anchor="end"))
    parts.append(
        text(
            WIDE_PX / 2,
            bottom + 32,
            f"dots: allocations marked at {chain.get('line', 'no line').rpartition('/')[2]}",
            style="o-dim",
            anchor="middle",
        )
    )
    words = f"Used memory of {count} GPUs over {span_s:.0f} s, {len(marks)} marked allocations, {', '.join(moments)}"
    return Drawing(WIDE_PX, bottom + 42, words, "".join(parts))


def _range(values: Sequence[int]) -> tuple[int, int]:
    """From the least while it serves (a restart falls to 0, which would flatten all) to the most, with some air."""
    high = max(values)
    low = min(each for each in values if each > high // 2)
    air = max((high - low) // 12, 1 << 20)
    return low - air, high + air


def _y(used: int, low: int, high: int, top: float) -> float:
    return top + _HEIGHT_PX * (1 - (max(used, low) - low) / (high - low))


def _used_at(sights: Sequence[Sight], gpu: int, at_ns: int) -> int:
    """As seen first at or after the moment."""
    return next((each.used_bytes[gpu] for each in sights if each.at_ns >= at_ns), sights[-1].used_bytes[gpu])


def _strip(gpu: int, points: Sequence[tuple[float, int]], top: float) -> list[str]:
    low, high = _range([used for _, used in points])
    path = " ".join(
        f"{'L' if at else 'M'}{x:.1f},{_y(used, low, high, top):.1f}" for at, (x, used) in enumerate(points)
    )
    base = top + _HEIGHT_PX
    return [
        line(_LEFT_PX, base, WIDE_PX - PAD, base, "o-grid"),
        line(_LEFT_PX, top, _LEFT_PX, base, "o-grid"),
        text(_LEFT_PX - 6, top + 10, format_bytes(high), style="o-dim", anchor="end"),
        text(_LEFT_PX - 6, base, format_bytes(low), style="o-dim", anchor="end"),
        text(_LEFT_PX - 6, top + _HEIGHT_PX / 2, f"GPU {gpu}", style="o-strong o-ink", anchor="end"),
        f'<path class="o-curve" d="{path}"/>',
    ]


def _mark(x: float, y: float, size: int) -> str:
    return (
        f'<circle class="o-unaccounted" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{format_bytes(size)}</title></circle>'
    )
