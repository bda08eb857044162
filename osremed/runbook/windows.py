"""What a trigger remembers of the events of one group, and when that begins a run. Pure: `hear` for an event, `ring`
for a time that has come. The same events in the same order always give the same runs.

Time is the time of the events. One that is told late counts as of the latest that its group has told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from osremed.core.event import Event
from osremed.core.record import record
from osremed.core.units import format_duration
from osremed.runbook.triggers import Trigger

#: Attribute of a run's event that tells of the others: kind, count, since_ns, event_ids.
ATTRIBUTE = "window"
_NAMED_IDS = 20


class Kind(str, Enum):
    EACH = "each"
    ONCE_WITHIN = "once_within"
    ONCE_AFTER = "once_after"
    ACCUMULATE = "accumulate_within"
    TOGETHER = "within"
    HELD = "for"


@record
class Heard:
    """An event as one trigger sees it. `clauses` are those it satisfies; `vetoed`: one of `not` wants it; `cleared`: it
    ends what lasts (with `for`); `unsure` is why a condition has no value: that is neither yes nor no."""

    event: Event
    at_ns: int
    clauses: tuple[int, ...]
    vetoed: bool = False
    cleared: bool = False
    unsure: str = ""


@record
class Mark:
    at_ns: int
    clause: int
    event_id: str


@record
class Kept:
    """The memory of one group. `due_ns`: when time itself answers, 0: it does not. `firing`: what lasts has begun its
    run and has not cleared."""

    since_ns: int
    latest_ns: int
    last: Event
    count: int = 1
    marks: tuple[Mark, ...] = ()
    due_ns: int = 0
    firing: bool = False


@record
class Said:
    """`kept` is the memory from now on (None: nothing); `event`: what a run begins with, None: none begins."""

    kept: Kept | None
    why: str
    event: Event | None = None


def kind_of(trigger: Trigger) -> Kind:
    if trigger.hold is not None:
        return Kind.HELD
    if trigger.within is not None:
        return Kind.TOGETHER
    throttle = trigger.throttle
    if throttle is None:
        return Kind.EACH
    if throttle.once_within is not None:
        return Kind.ONCE_WITHIN
    return Kind.ACCUMULATE if throttle.threshold is not None else Kind.ONCE_AFTER


def span_ns(trigger: Trigger) -> int:
    """The length of the trigger's window."""
    throttle = trigger.throttle
    throttled = (throttle.once_within, throttle.once_after, throttle.accumulate_within) if throttle else ()
    length_s = next((each for each in (trigger.hold, trigger.within, *throttled) if each is not None), 0.0)
    return round(length_s * 1e9)


def _length(span: int) -> str:
    return format_duration(span / 1e9)


def _begins_with(kept: Kept, kind: Kind, at_ns: int) -> Event:
    """The last event that counted, at the time it was decided, with what came before it."""
    told: dict[str, Any] = {
        "kind": kind.value,
        "count": kept.count,
        "since_ns": kept.since_ns,
        "event_ids": [mark.event_id for mark in kept.marks[-_NAMED_IDS:]],
    }
    return replace(kept.last, time_ns=at_ns, attributes={**kept.last.attributes, ATTRIBUTE: told})


def _added(kept: Kept | None, heard: Heard, *, keep: int = _NAMED_IDS) -> Kept:
    """The memory with this event in it."""
    mark = Mark(heard.at_ns, heard.clauses[0], heard.event.id)
    if kept is None:
        return Kept(heard.at_ns, heard.at_ns, heard.event, marks=(mark,))
    marks = (*kept.marks, mark)[-keep:]
    return replace(kept, latest_ns=heard.at_ns, last=heard.event, count=kept.count + 1, marks=marks)


def _once_within(trigger: Trigger, kept: Kept | None, heard: Heard) -> Said:
    span = span_ns(trigger)
    if kept is not None and heard.at_ns < kept.since_ns + span:
        first = kept.marks[0].event_id
        why = f"once within {_length(span)}: {first} was the one, {_length(heard.at_ns - kept.since_ns)} before"
        return Said(replace(kept, latest_ns=heard.at_ns, count=kept.count + 1), why)
    return Said(_added(None, heard), f"the first within {_length(span)}", heard.event)


def _once_after(trigger: Trigger, kept: Kept | None, heard: Heard) -> Said:
    span = span_ns(trigger)
    kept = _added(kept, heard)
    kept = replace(kept, due_ns=kept.due_ns or heard.at_ns + span)
    return Said(kept, f"number {kept.count}; one run for all {_length(kept.due_ns - heard.at_ns)} later")


def _accumulate(trigger: Trigger, kept: Kept | None, heard: Heard) -> Said:
    span, needed = span_ns(trigger), (trigger.throttle.threshold if trigger.throttle else None) or 1
    kept = _added(kept, heard, keep=needed)
    marks = tuple(mark for mark in kept.marks if mark.at_ns > heard.at_ns - span)
    kept = replace(kept, marks=marks, count=len(marks), since_ns=marks[0].at_ns)
    why = f"{len(marks)} of {needed} within {_length(span)}"
    if len(marks) < needed:
        return Said(kept, why)
    return Said(None, why, _begins_with(kept, Kind.ACCUMULATE, heard.event.time_ns))


def _together(trigger: Trigger, kept: Kept | None, heard: Heard) -> Said:
    span = span_ns(trigger)
    if heard.vetoed:
        why = "one of `not`, and nothing waits for it" if kept is None else "one of `not`: what was waited for is off"
        return Said(None, why)
    complete_before = kept is not None and kept.due_ns > 0
    marks = {mark.clause: mark for mark in kept.marks} if kept else {}
    if not complete_before:
        marks = {clause: mark for clause, mark in marks.items() if mark.at_ns > heard.at_ns - span}
    marks.update({clause: Mark(heard.at_ns, clause, heard.event.id) for clause in heard.clauses})
    ordered = tuple(sorted(marks.values(), key=lambda mark: mark.at_ns))
    since_ns = kept.since_ns if kept and complete_before else ordered[0].at_ns
    new = Kept(since_ns, heard.at_ns, heard.event, len(ordered), ordered, kept.due_ns if kept else 0)
    needed = len(trigger.all) if trigger.all else 1
    why = f"{len(ordered)} of {needed} within {_length(span)}"
    if len(ordered) < needed:
        return Said(new, why)
    if trigger.none is None:
        return Said(None, why, _begins_with(new, Kind.TOGETHER, heard.event.time_ns))
    new = replace(new, due_ns=new.due_ns or since_ns + span)
    return Said(new, f"{why}; a run begins {_length(max(new.due_ns - heard.at_ns, 0))} later unless one of `not` comes")


def _held(trigger: Trigger, kept: Kept | None, heard: Heard) -> Said:
    span, stays_ns = span_ns(trigger), round((trigger.keep_firing_for or 0.0) * 1e9)
    if kept is None:
        if not heard.clauses or heard.cleared:
            return Said(None, "it does not hold")
        new = replace(_added(None, heard), due_ns=heard.at_ns + span)
        return Said(new, f"holds from now on; a run begins when it has for {_length(span)}")
    lasted = _length(heard.at_ns - kept.since_ns)
    if not kept.firing:
        if heard.cleared:
            return Said(None, f"cleared after {lasted} of {_length(span)}")
        kept = _added(kept, heard) if heard.clauses else replace(kept, latest_ns=heard.at_ns)
        return Said(kept, f"holds for {lasted} of {_length(span)}")
    kept = replace(kept, latest_ns=heard.at_ns)
    if heard.cleared:
        why = f"cleared after {lasted}"
        return Said(replace(kept, due_ns=kept.due_ns or heard.at_ns + stays_ns) if stays_ns else None, why)
    why = f"holds for {lasted} and has begun its run"
    return Said(replace(kept, due_ns=0) if heard.clauses else kept, why)


_HEAR: dict[Kind, Callable[[Trigger, Kept | None, Heard], Said]] = {
    Kind.ONCE_WITHIN: _once_within,
    Kind.ONCE_AFTER: _once_after,
    Kind.ACCUMULATE: _accumulate,
    Kind.TOGETHER: _together,
    Kind.HELD: _held,
}


def hear(trigger: Trigger, kept: Kept | None, heard: Heard) -> Said:
    """What the group's memory makes of an event that one of the trigger's conditions wants."""
    if heard.unsure and not (heard.clauses or heard.vetoed or heard.cleared):
        return Said(kept, heard.unsure)
    return _HEAR[kind_of(trigger)](trigger, kept, heard)


def ring(trigger: Trigger, kept: Kept) -> Said:
    """What the group's memory makes of its `due_ns` having come."""
    kind = kind_of(trigger)
    if kind is Kind.HELD and kept.firing:
        return Said(None, "cleared for long enough")
    event = _begins_with(kept, kind, kept.due_ns)
    after = replace(kept, due_ns=0, firing=True) if kind is Kind.HELD else None
    return Said(after, f"{kind.value}: {_length(kept.due_ns - kept.since_ns)} are over", event)
