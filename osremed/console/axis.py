"""What happened on a host, on one time axis: lanes of marks, and the same as rows of a table."""

from __future__ import annotations

import time
from collections.abc import Iterable

from osremed.core.clock import rfc3339
from osremed.core.event import Event
from osremed.core.record import record
from osremed.runbook.model import Run

WIDTH = 960
_ROW = 28
_TOP = 8
_LEFT = 170
_RIGHT = 20
_NEAR_PX = 14.0  #: marks nearer than this are one: it names how many
_TICKS = 5
_LEAST_NS = 10**9
_DAY_NS = 86_400 * 10**9

#: Beginning of an event's name -> its lane; the first that fits.
_LANES = (
    ("memory.near_oom", "FastOOM interventions"),
    ("memory.", "Memory alarms"),
    ("gpu.", "GPU alerts"),
    ("hotspot.", "Hotspot alarms"),
    ("", "Other events"),
)
_FINDINGS, _RUNS, _LOOKS = "Findings", "Runs", "Looks"
#: The lanes from top to bottom; pages translate their names.
LANES = (*(lane for _begin, lane in _LANES), _FINDINGS, _RUNS, _LOOKS)


@record
class Happening:
    """`link` is a place on this page or another one."""

    lane: str
    begin_ns: int
    end_ns: int
    title: str
    link: str


@record
class Mark:
    """One happening, or `count` of them that lie too near for eyes and keys. Bars have a width, dots 0."""

    x: float
    width: float
    title: str
    link: str
    count: int


@record
class Row:
    name: str
    y: int
    marks: tuple[Mark, ...]


@record
class Tick:
    x: float
    label: str


@record
class Axis:
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    height: int
    begin_ns: int
    end_ns: int
    happenings: tuple[Happening, ...]  #: newest first


def axis_of(events: Iterable[Event], runs: Iterable[Run], looks: Iterable[Happening] = ()) -> Axis | None:
    """A lane each kind that there is; None if nothing ever happened."""
    found = sorted([*map(_told, events), *_of_runs(runs), *looks], key=lambda each: each.begin_ns)
    if not found:
        return None
    begin_ns, end_ns = found[0].begin_ns, max(each.end_ns for each in found)
    span_ns = max(end_ns - begin_ns, _LEAST_NS)
    px = (WIDTH - _LEFT - _RIGHT) / span_ns
    used = [lane for lane in LANES if any(each.lane == lane for each in found)]
    rows = tuple(
        Row(lane, _TOP + place * _ROW, _marks([each for each in found if each.lane == lane], begin_ns, px))
        for place, lane in enumerate(used)
    )
    moments = [begin_ns + span_ns * number // (_TICKS - 1) for number in range(_TICKS)]
    ticks = tuple(Tick(round(_LEFT + (at_ns - begin_ns) * px, 1), _label(at_ns, span_ns)) for at_ns in moments)
    return Axis(rows, ticks, _TOP + len(rows) * _ROW + 26, begin_ns, end_ns, tuple(reversed(found)))


def look_at(name: str, taken_ns: int, link: str) -> Happening:
    return Happening(_LOOKS, taken_ns, taken_ns, name, link)


def _told(event: Event) -> Happening:
    lane = next(lane for begin, lane in _LANES if event.name.startswith(begin))
    said = event.attributes.get("summary") or event.attributes.get("level") or ""
    return Happening(lane, event.time_ns, event.time_ns, f"{event.name} {said}".strip()[:200], f"#e-{event.id}")


def _of_runs(runs: Iterable[Run]) -> Iterable[Happening]:
    """Each run, and what it found: a finding lies where its run began."""
    for run in runs:
        link = f"/runs/{run.run_id}"
        yield Happening(_RUNS, run.raised_ns, run.updated_ns, f"{run.runbook}: {run.state.value}", link)
        for finding in run.findings:
            words = f"{finding.name}: {finding.summary}"[:200]
            yield Happening(_FINDINGS, run.raised_ns, run.raised_ns, words, link)


def _marks(lane: list[Happening], begin_ns: int, px: float) -> tuple[Mark, ...]:
    """Marks from left to right; near ones are one, which leads to the newest of them."""
    marks: list[Mark] = []
    for each in lane:
        x = round(_LEFT + (each.begin_ns - begin_ns) * px, 1)
        width = max(3.0, round((each.end_ns - each.begin_ns) * px, 1)) if each.lane == _RUNS else 0.0
        title = f"{each.title}, {rfc3339(each.begin_ns)}"
        before = marks[-1] if marks else None
        if before is not None and x < before.x + _NEAR_PX:
            right = max(before.x + before.width, x + width)
            marks[-1] = Mark(before.x, round(right - before.x, 1), title, each.link, before.count + 1)
        else:
            marks.append(Mark(x, width, title, each.link, 1))
    return tuple(marks)


def _label(at_ns: int, span_ns: int) -> str:
    """Of a short axis the time of day, else the day, too; UTC as all times of the pages."""
    return time.strftime("%H:%M:%S" if span_ns < _DAY_NS else "%m-%d %H:%M", time.gmtime(at_ns // 10**9))
