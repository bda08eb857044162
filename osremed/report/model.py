"""RunStory: all that a report tells, as plain data. What is not known is a Missing, never 0 or an empty string."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.event import Event
from osremed.core.finding import Finding
from osremed.core.probe import ProbeSample
from osremed.core.reading import Missing
from osremed.core.record import record
from osremed.runbook.model import GuardResult


@record
class Moment:
    """A named instant of the story; `at_ns` is wall clock nanoseconds."""

    label: str
    at_ns: int | Missing


@record
class StoryStep:
    """One step of the plan. `diff` is unified text or why there is none; `irreversible` says why it cannot be taken
    back, empty if it can."""

    action: str
    args: Mapping[str, Any]
    diff: str | Missing
    risk: str
    irreversible: str = ""


@record
class ProbeResult:
    """`tolerance` as `str(Tolerance)` prints it; `verdict` is HOLDS, FAILS or UNKNOWN."""

    probe: str
    tolerance: str
    verdict: str
    samples: tuple[ProbeSample, ...] = ()


@record
class UndoStep:
    what: str
    result: str


@record
class StoryGap:
    """Something the run wanted and did not get."""

    what: str
    why: Missing


@record
class RunStory:
    """`reason`: why the run ended in `state`. `panorama`: the collector's document. `bundle_sha256`: the evidence."""

    run_id: str
    runbook: str
    host: str
    state: str
    reason: str
    event: Event
    timeline: tuple[Moment, ...]
    findings: tuple[Finding, ...]
    plan: tuple[StoryStep, ...]
    guards: tuple[GuardResult, ...]
    verdicts: tuple[ProbeResult, ...]
    undo: tuple[UndoStep, ...]
    panorama: Mapping[str, Any] | Missing
    bundle_sha256: str | Missing
    gaps: tuple[StoryGap, ...] = ()
    people: tuple[str, ...] = ()  #: what people said of the steps they were asked to do
