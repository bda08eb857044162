"""What happened on a host, on one time axis."""

from __future__ import annotations

from collections.abc import Iterable

from osremed.core.event import Event
from osremed.core.record import record
from osremed.runbook.model import Run

WIDTH = 960
_ROW = 26
_LEFT = 150
_ROWS = 12


@record
class Mark:
    """A dot or, with a width, a bar. `title` is read aloud and shown on hover."""

    x: float
    width: float
    title: str
    link: str = ""


@record
class Row:
    name: str
    y: int
    marks: tuple[Mark, ...]


@record
class Axis:
    rows: tuple[Row, ...]
    begin_ns: int
    end_ns: int
    height: int


def axis_of(events: Iterable[Event], runs: Iterable[Run]) -> Axis | None:
    """One row an event name and one a runbook, at most twelve; None if nothing ever happened."""
    told, ran = list(events), list(runs)
    times = [each.time_ns for each in told] + [at for each in ran for at in (each.raised_ns, each.updated_ns)]
    if not times:
        return None
    begin_ns, end_ns = min(times), max(times)
    scale = (WIDTH - _LEFT - 20) / max(end_ns - begin_ns, 1)

    def at(time_ns: int) -> float:
        return round(_LEFT + (time_ns - begin_ns) * scale, 1)

    marks: dict[str, list[Mark]] = {}
    for event in told:
        marks.setdefault(event.name, []).append(Mark(at(event.time_ns), 0.0, f"{event.name} {event.id}"))
    for run in ran:
        width = max(3.0, at(run.updated_ns) - at(run.raised_ns))
        mark = Mark(at(run.raised_ns), width, f"{run.runbook}: {run.state.value}", f"/runs/{run.run_id}")
        marks.setdefault(run.runbook, []).append(mark)
    rows = tuple(Row(name, number * _ROW + 8, tuple(marks[name])) for number, name in enumerate(sorted(marks)[:_ROWS]))
    return Axis(rows, begin_ns, end_ns, len(rows) * _ROW + 30)
