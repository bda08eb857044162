"""Cases: recorded event and evidence -> expected findings, plan and end. Only the host is replayed, the engine is live.

given: {event: {...}, evidence: {collector: document}, gaps: {collector: reason}, apply: ok, approval: true,
        samples: {probe: [[s, value]]}, then: [{probe: [[s, value]]}], before: [{event: {...}, ago: 4m}], wait: 2m,
        as_wanted: [action], watched: {probe: value}, after_success: ok, person: [true]}
expect: {matched: true, findings: [name], plan: [{action: ..., with: {...}}], tried: 1, state: SUCCEEDED,
         after_success: [{action: ..., with: {...}}], undo: {action: restored}}
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from osremed.core.action import Call, Outcome, Status
from osremed.core.canonical import digest
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput, OsremedError
from osremed.core.event import Event, event_from_json
from osremed.core.probe import ProbeSample, Verdict, judge, parse_tolerance, sample_as_json
from osremed.core.reading import Missing, Reason, Value
from osremed.core.record import record
from osremed.runbook.actions import ACTIONS
from osremed.runbook.approvals import write_approval
from osremed.runbook.catalog import CatalogEntry, Match
from osremed.runbook.document import Runbook
from osremed.runbook.fields import Duration
from osremed.runbook.matcher import Matcher
from osremed.runbook.model import AfterStep, Happening, PlannedStep, Run
from osremed.runbook.operate import Operator, attempt, drive
from osremed.runbook.rulefile import CASES, read_rule
from osremed.runbook.state import Effect
from osremed.runbook.store import RunDirectory, RunStore
from osremed.runbook.text import parse_text
from osremed.runbook.ticks import write_tick

#: A case's journal is thrown away: where there is memory for it no disk has to sync it.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 a directory of its own is made inside


#: Longer than any approval may wait.
_LONG_S = 31 * 86400.0


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Before(_Model):
    """An event that came `ago` before the one of the case."""

    event: dict[str, Any]
    ago: Duration


class Given(_Model):
    event: dict[str, Any]
    before: list[Before] = Field(default_factory=list, description="events that came before it, the oldest first")
    wait: Duration = Field(default=0.0, description="so much time goes by after it and nothing else is told")
    evidence: dict[str, Any] = Field(default_factory=dict)
    gaps: dict[str, Reason] = Field(default_factory=dict)
    apply: Status = Status.OK
    as_wanted: list[str] = Field(default_factory=list, description="actions that find the host as wanted already")
    after_success: Status = Field(default=Status.OK, description="what comes of the steps after success")
    watched: dict[str, float] = Field(default_factory=dict, description="what is watched, as it was before the change")
    samples: dict[str, list[tuple[float, float | None]]] = Field(default_factory=dict)
    then: list[dict[str, list[tuple[float, float | None]]]] = Field(
        default_factory=list, description="`samples` after the second remedy, the third …, where they `escalate`"
    )
    approval: bool | None = Field(default=None, description="what a human answers; nobody does if left out")
    person: list[bool] = Field(
        default_factory=list,
        description="of each step a person is asked to do whether they did it, in turn; then nobody answers any more",
    )

    @field_validator("as_wanted")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in ACTIONS:
                raise ValueError(f"unknown action {name!r}")
        return names


class PlanItem(_Model):
    action: str
    arguments: dict[str, Any] = Field(alias="with", default_factory=dict)


class Expect(_Model):
    matched: bool = True
    findings: list[str] = Field(default_factory=list)
    plan: list[PlanItem] = Field(default_factory=list)
    tried: int | None = Field(default=None, description="how many remedies of the plan were tried")
    after_success: list[PlanItem] | None = Field(default=None, description="the steps that were done after success")
    undo: dict[str, str] | None = Field(default=None, description="what came of taking each action back")
    state: Literal["NONE", "SUCCEEDED", "REFUSED", "UNDONE", "UNDO_INCOMPLETE"]


class Case(_Model):
    given: Given
    expect: Expect


@record
class CaseResult:
    """`differences` is empty when the case holds. `notes`: what the run could not say, such as a condition without a
    value."""

    path: str
    differences: tuple[str, ...]
    notes: tuple[str, ...] = ()


class ReplayedHost:
    """An Executor that answers from a case. Applying and undoing are remembered, nothing is touched."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self.effect = Effect.ADMIT  #: what the engine asks it for
        self.applied: list[Mapping[str, Any]] = []
        self.done_by_hand = 0

    def run(self, call: Call) -> Outcome:
        name = call.module.rpartition(".")[2]
        if name == "evidence":
            return Outcome(Status.OK, result=self._evidence(call))
        if name == "probe":
            return Outcome(Status.OK, result=self._probe(call.args))
        if name == "undo":
            return Outcome(Status.OK, changed=True, result={"result": self._undo(call.args)})
        return self._act(call)

    def _act(self, call: Call) -> Outcome:
        if call.check:
            told = {"previous": {"state": "present"}, "as_seen": {"expect_sha256": ""}}
            wanted = any(ACTIONS[action].module == call.module for action in self._given.as_wanted)
            return Outcome(Status.OK, changed=not wanted, result=told, diff=str(dict(call.args)))
        if self.effect is Effect.UNDO:
            return Outcome(Status.OK, changed=True)
        if self.effect is Effect.FINISH:
            after = self._given.after_success
            return Outcome(after, changed=after is Status.OK, detail="as the case says")
        self.applied.append(call.args)
        return Outcome(self._given.apply, changed=self._given.apply is Status.OK, detail="as the case says")

    def _evidence(self, call: Call) -> dict[str, Any]:
        items, gaps = {}, {}
        for name in call.args["collectors"]:
            if name in self._given.evidence:
                items[name] = self._given.evidence[name]
            else:
                reason = self._given.gaps.get(name, Reason.NO_DATA)
                gaps[name] = Missing(reason, f"case {name}", "not recorded").as_json()
        manifest = [{"name": name, "sha256": digest(document)} for name, document in items.items()]
        return {"items": items, "gaps": gaps, "manifest": manifest}

    def _probe(self, args: Mapping[str, Any]) -> dict[str, Any]:
        tolerance = parse_tolerance(args["expect"], within_s=args["within"], hold_s=args["hold"])
        samples: list[ProbeSample] = []
        verdict: Verdict | None = None
        turns = [self._given.samples, *self._given.then]
        told = turns[min(len(self.applied) + self.done_by_hand, len(turns)) - 1].get(args["name"], [])
        if self.effect is Effect.APPROVE:
            told = [(0.0, self._given.watched.get(args["name"]))]
        for at_s, value in told:
            missing = Missing(Reason.NO_DATA, "case")
            samples.append(ProbeSample(at_s, missing if value is None else Value(value)))
            verdict = judge(samples, tolerance, ended=False)
            if verdict is not None:
                break
        verdict = verdict or judge(samples, tolerance, ended=True)
        return {"verdict": str(verdict and verdict.value), "samples": [sample_as_json(sample) for sample in samples]}

    def _undo(self, args: Mapping[str, Any]) -> str:
        if args["state"] == "confirmed":
            return "confirmed"
        return "restored" if self.applied else "nothing_to_do"


def load_case(path: str) -> Case:
    """BadInput with file:line:column."""
    text = parse_text(read_rule(path), path)
    try:
        return Case.model_validate(text.data)
    except ValidationError as error:
        # A misspelt key is also a missing one: the first kind tells more.
        first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        where = text.where(tuple(first["loc"]))
        raise BadInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where=where) from error


def _event(given: Mapping[str, Any], name: str, now_ns: int, where: str) -> Event:
    return event_from_json({"id": name, "host": "case-host", "time_ns": now_ns, **given}, where=where)


def _match(entry: CatalogEntry, given: Given, clock: FakeClock, path: str) -> Match:
    """What the runbook says to the event, those before it and the time after it."""
    matcher, now_ns = Matcher({entry.runbook.name: entry}), clock.wall_ns()
    for number, item in enumerate(given.before):
        where = f"{path}: given.before[{number}]"
        matcher.hear(_event(item.event, f"before-{number}", now_ns - round(item.ago * 1e9), where))
    found = matcher.hear(_event(given.event, "case", now_ns, f"{path}: given.event"))
    if given.wait:
        clock.advance(given.wait)
        found += matcher.due(clock.wall_ns())
    yes = [match for match in found if match.matched]
    return (yes or found or [Match(entry, False, f"it does not name {given.event.get('name')}")])[-1]


def _run(entry: CatalogEntry, event: Event, given: Given, clock: FakeClock) -> Run:
    async def answer(_seconds: float) -> None:
        """The human of the case answers at once, or lets the time go by."""
        asked = opened.run.asked
        done = next(people, None) if asked else given.approval
        if done is None:
            clock.advance(_LONG_S)
        elif asked:
            host.done_by_hand += done
            words = "as the case says"
            write_tick(opened.directory, opened.run, asked.number, clock, done=done, by="case", words=words)
        else:
            write_approval(opened.directory, opened.run, approved=done, by="case", reason="as the case says")

    host, people = ReplayedHost(given), iter(given.person)

    async def try_effect(
        operator: Operator, effect: Effect, run: Run, runbook: Runbook, directory: RunDirectory
    ) -> Happening:
        host.effect = effect
        return await attempt(operator, effect, run, runbook, directory)

    with tempfile.TemporaryDirectory(prefix="osremed-case-", dir=_MEMORY) as scratch:
        operator = Operator(host, RunStore(scratch), clock, frozenset({event.host}), pause=answer)
        made = operator.store.create(event, entry, clock)
        assert made is not None
        opened = made
        try:
            return asyncio.run(drive(operator, opened, entry.runbook, try_effect))
        finally:
            opened.close()


def run_case(entry: CatalogEntry, path: str) -> CaseResult:
    """Replays one case. BadInput if the case itself is wrong."""
    return replay_case(entry, load_case(path), path)


def replay_case(entry: CatalogEntry, case: Case, path: str) -> CaseResult:
    """Replays a case of the file `path`, or one that shall be there."""
    clock = FakeClock()
    found = _match(entry, case.given, clock, path)
    if found.matched != case.expect.matched:
        return CaseResult(path, (f"matched: expected {case.expect.matched}, got {found.matched}: {found.why}",))
    if found.event is None:
        return CaseResult(path, () if case.expect.state == "NONE" else ("state: no run begins for this event",))
    run = _run(entry, found.event, case.given, clock)
    return CaseResult(path, tuple(_differences(case.expect, run)), tuple(run.notes))


def _differences(expect: Expect, run: Run) -> Iterator[str]:
    findings = [finding.name for finding in run.findings]
    plan = _items(run.plan.steps if run.plan else ())
    after = _items(run.plan.after[each.step] for each in run.finished) if run.plan else []
    undo = {each.action: each.result for each in run.undo}
    wanted = [item.model_dump(by_alias=True) for item in expect.plan]
    follows = after
    if expect.after_success is not None:
        follows = [item.model_dump(by_alias=True) for item in expect.after_success]
    pairs = (
        ("findings", expect.findings, findings),
        ("plan", wanted, plan),
        ("tried", run.attempted if expect.tried is None else expect.tried, run.attempted),
        ("after_success", follows, after),
        ("undo", undo if expect.undo is None else expect.undo, undo),
        ("state", expect.state, run.state.value),
    )
    for what, expected, got in pairs:
        if expected != got:
            because = f" ({run.reason})" if what == "state" else ""
            yield f"{what}: expected {expected}, got {got}{because}"


def _items(steps: Iterable[PlannedStep | AfterStep]) -> list[dict[str, Any]]:
    return [{"action": step.action, "with": dict(step.args)} for step in steps]


def case_files(entry: CatalogEntry) -> Sequence[str]:
    folder = os.path.join(os.path.dirname(entry.path), CASES)
    if not os.path.isdir(folder):
        return ()
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".yaml")]


def run_cases(entry: CatalogEntry) -> Iterator[CaseResult]:
    """Every case beside one runbook; a broken case is a difference, not the end of the others."""
    for case_path in case_files(entry):
        try:
            yield run_case(entry, case_path)
        except OsremedError as error:
            yield CaseResult(case_path, (str(error),))
