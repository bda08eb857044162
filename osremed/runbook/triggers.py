"""`on:` of a runbook: which events, alone or together, begin a run. Names are those of Event-Driven Ansible (`all`,
`any`, `once_within`, `once_after`, `accumulate_within`) and Prometheus (`for`, `keep_firing_for`).

- {event: memory.near_oom, where: event.level == 'high'}                                     each such event
- {any: [{event: a.b}, {event: c.d}], throttle: {once_within: 10m}}                          the first of either
- {event: gpu.xid, throttle: {accumulate_within: 5m, threshold: 3}, group_by: [host, gpu]}   three within five minutes
- {all: [{event: a.b}, {event: c.d}], within: 5m}                                            both, in any order
- {event: job.began, not: [{event: job.ended}], within: 1h}                                  the second stays away
- {event: memory.level, where: event.level == 'high', for: 2m, clear: event.level == 'low'}  a state that lasts
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from osremed.runbook.fields import Duration, Expression, Model

EventName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$")]
Attribute = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=128)]


class Clause(Model):
    """One event of several."""

    event: EventName = Field(description="name of the event")
    where: Expression | None = Field(
        default=None, description="condition on `event`; without it every such event matches"
    )


class Throttle(Model):
    """One run for many events. Exactly one of the three; each group of `group_by` is counted by itself."""

    once_within: Duration | None = Field(default=None, description="after one began a run the next ones do not")
    once_after: Duration | None = Field(default=None, description="so long after the first, one run for all that came")
    accumulate_within: Duration | None = Field(default=None, description="`threshold` events within so long, then anew")
    threshold: Annotated[int, Field(ge=2, le=1000, strict=True)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.once_within, self.once_after, self.accumulate_within)) != 1:
            raise ValueError("give one of once_within, once_after, accumulate_within")
        if (self.accumulate_within is None) != (self.threshold is None):
            raise ValueError("accumulate_within and threshold go together")
        return self


class Trigger(Model):
    """Which events begin a run: one of `event`, `any`, `all`, and what narrows it. Time is the time of the events."""

    event: EventName | None = Field(default=None, description="name of the event")
    where: Expression | None = Field(
        default=None, description="condition on `event`; without it every such event matches"
    )
    any: list[Clause] | None = Field(default=None, min_length=2, max_length=16, description="one of these")
    all: list[Clause] | None = Field(
        default=None, min_length=2, max_length=16, description="each of these, in any order, `within` so long"
    )
    none: list[Clause] | None = Field(
        default=None,
        alias="not",
        min_length=1,
        max_length=16,
        description="and none of these from the first event on, until `within` is over: only then a run begins",
    )
    within: Duration | None = Field(default=None, description="the window of `all` and `not`")
    hold: Duration | None = Field(
        default=None,
        alias="for",
        description="`where` was true and did not clear for so long; an event that does not come changes nothing",
    )
    clear: Expression | None = Field(
        default=None, description="with `for`: only this ends it (hysteresis); without it, `where` being false does"
    )
    keep_firing_for: Duration | None = Field(
        default=None,
        description="with `for`: what comes back so soon after it cleared begins no new run",
    )
    throttle: Throttle | None = Field(default=None, description="one run for many events of `event` or `any`")
    group_by: list[Attribute] = Field(
        default=["host"],
        max_length=8,
        description="attributes that tell apart what belongs together, such as [host, gpu]; [] is the whole fleet",
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if sum(each is not None for each in (self.event, self.any, self.all)) != 1:
            raise ValueError("give one of `event`, `any`, `all`")
        for wrong, why in self._contradictions():
            if wrong:
                raise ValueError(why)
        return self

    def _contradictions(self) -> Iterator[tuple[bool, str]]:
        windowed = self.all is not None or self.none is not None
        yield self.where is not None and self.event is None, "`where` goes with `event`; each of `any` has its own"
        yield windowed and self.within is None, "`all` and `not` need `within`: how long they are waited for"
        yield self.within is not None and not windowed, "`within` goes with `all` or `not`"
        yield self.throttle is not None and (windowed or self.hold is not None), "`throttle` goes with `event` or `any`"
        yield self.hold is not None and (self.event is None or windowed), "`for` goes with `event`"
        yield (
            self.hold is not None and self.where is None and self.clear is None,
            "`for` needs `where` (or `clear`): what is true",
        )
        yield (
            self.hold is None and (self.clear is not None or self.keep_firing_for is not None),
            "`clear` and `keep_firing_for` go with `for`",
        )
        lengths = (self.within, self.hold, *self._throttled())
        yield any(length == 0 for length in lengths), "a window of no length holds nothing"

    def _throttled(self) -> tuple[float | None, ...]:
        each = self.throttle
        return (each.once_within, each.once_after, each.accumulate_within) if each else ()

    @property
    def clauses(self) -> list[Clause]:
        """The events that count for it, in the order of the file; `not` is beside them."""
        if self.event is not None:
            return [Clause(event=self.event, where=self.where)]
        return (self.any or self.all or [])[:]
