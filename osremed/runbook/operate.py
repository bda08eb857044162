"""Effect -> happening: what the engine does in the world, through an Executor. Decides nothing that `state`, `guards`
and `decide` do not; raises nothing for what happens on a host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from osremed.core.action import Call, Executor, Outcome, Status
from osremed.core.canonical import digest
from osremed.core.clock import Clock
from osremed.core.errors import BadInput, OsremedError
from osremed.core.evidence import Bundle, load_bundle, write_bundle
from osremed.core.probe import Verdict, parse_tolerance, sample_as_json, sample_from_json
from osremed.core.reading import Missing, Reason
from osremed.core.record import record
from osremed.runbook.actions import ACTIONS
from osremed.runbook.approvals import read_approval
from osremed.runbook.catalog import event_as_data
from osremed.runbook.controls import Controls, read_controls
from osremed.runbook.decide import Intent, decide, evidence_data
from osremed.runbook.document import Runbook, Verification
from osremed.runbook.expressions import ExpressionFailed, condition_holds, render
from osremed.runbook.guardpolicy import Restrict, Restriction, unrestricted
from osremed.runbook.guards import Situation, check_guards
from osremed.runbook.model import (
    Admitted,
    Applied,
    Approved,
    Collected,
    Confirmed,
    Decided,
    GuardResult,
    Happening,
    Plan,
    PlannedStep,
    ProbeResult,
    Recovered,
    Refused,
    Run,
    StepUndo,
    Undone,
    Verified,
)
from osremed.runbook.state import Effect
from osremed.runbook.store import OpenRun, RunDirectory, RunStore

Attempt = Callable[["Operator", Effect, Run, Runbook, RunDirectory], Awaitable[Happening]]

_COLLECT_TIMEOUT_S = 60.0
_CALL_TIMEOUT_S = 60.0
_APPROVAL_POLL_S = 0.5
_POLICY = "policy: no approval needed"


class Hosts(Protocol):
    """The names in the executor's inventory, and how many."""

    def __contains__(self, host: object, /) -> bool: ...
    def __len__(self) -> int: ...


@record
class Operator:
    """Everything an effect may use."""

    executor: Executor
    store: RunStore
    clock: Clock
    hosts: Hosts
    controls: str = ""  #: file of what people have said (`controls`); "" where there are no people, as in a case
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep  #: between two looks for an approval
    restrict: Restrict = unrestricted  #: guards of groups of hosts

    def said(self) -> Controls | None:
        """None when it cannot be read."""
        try:
            return read_controls(self.controls) if self.controls else Controls()
        except BadInput:
            return None


def undo_id(run_id: str, step: int) -> str:
    """Names the undo record on the host; the agent there takes the change back if nobody confirms it."""
    return f"{run_id}-{step}"


async def _call(operator: Operator, module: str, args: Mapping[str, Any], run: Run, timeout_s: float) -> Outcome:
    call = Call(f"osremed.host.{module}", args, run.host, timeout_s)
    return await asyncio.to_thread(operator.executor.run, call)


def _guards(operator: Operator, run: Run, runbook: Runbook) -> tuple[tuple[GuardResult, ...], GuardResult | None]:
    """(all results, the one that said no)."""
    runs, damaged = operator.store.runs()
    others = tuple(other for other in runs if other.run_id != run.run_id)
    known = run.host in operator.hosts
    time_ns, said = operator.clock.wall_ns(), operator.said()
    restrictions: Sequence[Restriction] = ()
    why = ""
    try:
        restrictions = operator.restrict(run.host, run.runbook) if known else ()
    except BadInput as error:
        why = str(error)
    now = Situation(run, runbook, others, len(operator.hosts), known, time_ns, damaged, said, restrictions, why)
    results = check_guards(now)
    return results, next((result for result in results if not result.passed), None)


async def _admit(operator: Operator, run: Run, runbook: Runbook) -> Happening:
    results, refusal = _guards(operator, run, runbook)
    return Refused(refusal.guard, refusal.detail, results) if refusal else Admitted(results)


async def _collect(operator: Operator, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    data = {"event": event_as_data(run.event), "host": run.host}
    gaps: dict[str, Missing] = {}
    wanted: dict[str, Any] = {}
    for entry in runbook.collect:
        for name, arguments in entry.items():
            try:
                wanted[name] = render(arguments, data)
            except ExpressionFailed as error:
                gaps[name] = Missing(Reason.NO_DATA, "runbook", error.what)
    outcome = await _call(operator, "evidence", {"collectors": wanted}, run, _COLLECT_TIMEOUT_S)
    items, altered = _arrived(outcome) if outcome.status is Status.OK else ({}, frozenset())
    items = {name: items[name] for name in wanted if name in items}
    for name in wanted:
        if name in altered:
            what = "what arrived is not what the manifest of the host names by its SHA-256"
            gaps[name] = Missing(Reason.MALFORMED, "osremed.host.evidence", what)
        elif name not in items:
            gaps[name] = _gap(outcome, name)
    if not items:
        return Refused("evidence", "; ".join(f"{name}: {gap}" for name, gap in gaps.items()))
    bundle = Bundle(run.host, operator.clock.wall_ns(), items, gaps)
    manifest = await asyncio.to_thread(write_bundle, directory.bundle, bundle)
    return Collected(manifest, {name: str(gap) for name, gap in gaps.items()})


def _arrived(outcome: Outcome) -> tuple[dict[str, Any], frozenset[str]]:
    """Pure: (documents that are as they left the host, names of those that are not, as one without a hash)."""
    told, manifest = outcome.result.get("items"), outcome.result.get("manifest")
    items = dict(told) if isinstance(told, Mapping) else {}
    parts = [part for part in manifest if isinstance(part, Mapping)] if isinstance(manifest, list) else []
    hashes = {str(part.get("name")): part.get("sha256") for part in parts}
    whole = {name: document for name, document in items.items() if hashes.get(name) == _digest(document)}
    return whole, frozenset(items) - frozenset(whole)


def _digest(document: Any) -> str:
    """Not None, which a missing hash is: what JSON does not know has none."""
    try:
        return digest(document)
    except ValueError:
        return ""


def _gap(outcome: Outcome, name: str) -> Missing:
    gaps = outcome.result.get("gaps")
    told = gaps.get(name) if isinstance(gaps, Mapping) else None
    if isinstance(told, Mapping) and told.get("missing") in list(Reason):
        return Missing(Reason(told["missing"]), str(told.get("source", "")), str(told.get("detail", "")))
    reason = Reason.TIMED_OUT if outcome.status is Status.TIMED_OUT else Reason.NO_DATA
    return Missing(reason, f"collector {name}", f"{outcome.status.value}: {outcome.detail}")


async def _decide(operator: Operator, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    decision = decide(runbook, run.event, load_bundle(directory.bundle))
    steps: list[PlannedStep] = []
    notes = list(decision.notes)
    for intent in decision.intents:
        preview = await _preview(operator, run, intent)
        if preview.status is not Status.OK:
            detail = f"{intent.action} cannot be previewed ({preview.status.value}): {preview.detail}"
            return Refused("preview", detail)
        if preview.changed and ACTIONS[intent.action].reversible and not preview.result.get("previous"):
            detail = f"{intent.action} could not take its change back: is somebody half-way through one?"
            return Refused("preview", detail)
        if preview.changed and ACTIONS[intent.action].reversible and not preview.result.get("as_seen"):
            return Refused("preview", f"{intent.action} does not say what it saw: a later change would be overwritten")
        if preview.changed:
            steps.append(_planned(intent, preview))
        else:
            notes.append(f"{intent.action}: the host is already as wanted")
    bare = [{"action": step.action, "args": step.args, "diff": step.diff} for step in steps]
    escalate = runbook.escalate or ""
    name = digest({"escalate": escalate, "steps": bare} if escalate else bare)
    return Decided(decision.findings, Plan(tuple(steps), name, escalate), tuple(notes))


async def _preview(operator: Operator, run: Run, intent: Intent) -> Outcome:
    action = ACTIONS[intent.action]
    args = {**intent.args, **action.engine_arguments}
    call = Call(action.module, args, run.host, intent.remedy.timeout, check=True)
    return await asyncio.to_thread(operator.executor.run, call)


def _planned(intent: Intent, preview: Outcome) -> PlannedStep:
    action = ACTIONS[intent.action]
    return PlannedStep(
        action=intent.action,
        args=intent.args,
        risk=action.risk,
        timeout_s=intent.remedy.timeout,
        confirm_within_s=intent.remedy.confirm_within or 0.0,
        irreversible=intent.remedy.irreversible or "",
        previous=dict(preview.result.get("previous", {})),
        expect=dict(preview.result.get("as_seen", {})),
        diff=preview.diff,
        approval=intent.approval,
    )


async def _approve(operator: Operator, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    """The gate before the first change, and before each next of a chain: a plan, the approval if one is needed, and the
    guards once more."""
    if run.plan is None or not run.plan.steps:
        why = "; ".join(run.notes) or "no remedy's condition is true"
        return Refused("plan", f"nothing to change: {why}")
    by = _POLICY
    timeouts = [step.approval.timeout_s for step in run.plan.steps if step.approval]
    if timeouts:
        deadline_ns = run.updated_ns + round(min(timeouts) * 1e9)
        approval = read_approval(directory, run.plan.digest)
        while approval is None:
            if operator.clock.wall_ns() >= deadline_ns:
                return Refused("approval", f"nobody answered within {min(timeouts):g} s")
            await operator.pause(_APPROVAL_POLL_S)
            approval = read_approval(directory, run.plan.digest)
        if not approval.approved:
            return Refused("approval", f"denied by {approval.by}: {approval.reason}")
        by = approval.by
    results, refusal = _guards(operator, run, runbook)
    if refusal:
        return Refused(refusal.guard, refusal.detail, results)
    return Approved(by, run.plan.digest, results)


async def _apply(operator: Operator, run: Run) -> Happening:
    number = len(run.applied)
    step = run.plan.steps[number] if run.plan else None
    if step is None:
        raise BadInput(f"run {run.run_id} has no plan to apply")
    action = ACTIONS[step.action]
    engine = {"undo_id": undo_id(run.run_id, number), "confirm_within": step.confirm_within_s}
    args = {**step.args, **step.expect, **action.engine_arguments, **(engine if action.reversible else {})}
    call = Call(action.module, args, run.host, step.timeout_s)
    return Applied(number, await asyncio.to_thread(operator.executor.run, call))


async def _verify(operator: Operator, run: Run, runbook: Runbook) -> Happening:
    data = evidence_data(run.event, load_bundle(operator.store.of(run.run_id).bundle))
    results = [await _probe(operator, run, item, data) for item in runbook.verify]
    return Verified(tuple(result for result in results if result is not None))


async def _probe(operator: Operator, run: Run, item: Verification, data: Mapping[str, Any]) -> ProbeResult | None:
    """None where its condition is false; a condition without a value is no proof."""
    tolerance = parse_tolerance(item.expect, within_s=item.within, hold_s=item.hold)
    try:
        if item.when is not None and not condition_holds(item.when, data):
            return None
        arguments = render(item.arguments, data)
    except ExpressionFailed as error:
        return ProbeResult(item.probe, str(tolerance), Verdict.UNKNOWN, (), error.what)
    args = {"name": item.probe, "args": arguments, "expect": item.expect, "within": item.within, "hold": item.hold}
    outcome = await _call(operator, "probe", args, run, item.within + _CALL_TIMEOUT_S)
    if outcome.status is not Status.OK:
        detail = f"{outcome.status.value}: {outcome.detail}"
        return ProbeResult(item.probe, str(tolerance), Verdict.UNKNOWN, (), detail)
    try:
        verdict = Verdict(outcome.result["verdict"])
        samples = tuple(sample_as_json(sample_from_json(sample)) for sample in outcome.result.get("samples", ()))
    except (BadInput, KeyError, TypeError, ValueError) as error:
        detail = f"the probe's answer cannot be read: {error}"
        return ProbeResult(item.probe, str(tolerance), Verdict.UNKNOWN, (), detail)
    return ProbeResult(item.probe, str(tolerance), verdict, samples, str(outcome.result.get("detail", "")))


async def _confirm(operator: Operator, run: Run) -> Happening:
    for number, applied in enumerate(run.applied):
        if number < run.taken_back or not applied.changed or (run.plan and run.plan.steps[number].irreversible):
            continue
        args = {"id": undo_id(run.run_id, number), "state": "confirmed"}
        outcome = await _call(operator, "undo", args, run, _CALL_TIMEOUT_S)
        if outcome.status is not Status.OK:
            return Confirmed(False, f"{outcome.status.value}: {outcome.detail}")
        if outcome.result.get("result") == "absent":
            return Confirmed(False, "the host has already taken the change back, or never registered it")
    return Confirmed(True)


async def _undo(operator: Operator, run: Run) -> Happening:
    """All attempted steps in reverse, but those that are taken back already; every one is tried, whatever the others
    answer."""
    numbers = reversed(range(run.taken_back, run.attempted))
    results = [await _undo_step(operator, run, number) for number in numbers]
    return Undone(tuple(results))


async def _undo_step(operator: Operator, run: Run, number: int) -> StepUndo:
    step = run.plan.steps[number] if run.plan else None
    if step is None:
        return StepUndo("unknown", "failed", "the run has no plan")
    answered = run.applied[number] if number < len(run.applied) else None
    if answered and answered.status is Status.OK and not answered.changed:
        return StepUndo(step.action, "nothing_to_do", "the step had changed nothing")
    if step.irreversible and answered and answered.status is Status.FAILED and answered.result.get("refused"):
        return StepUndo(step.action, "nothing_to_do", f"the step was refused: {answered.result['refused']}")
    if step.irreversible:
        return StepUndo(step.action, "irreversible", step.irreversible)
    args = {"id": undo_id(run.run_id, number), "state": "reverted"}
    outcome = await _call(operator, "undo", args, run, _CALL_TIMEOUT_S)
    if outcome.status is Status.OK and outcome.result.get("result") == "absent":
        return await _undo_by_previous(operator, run, step)
    return _undone(step, outcome)


def _undone(step: PlannedStep, outcome: Outcome) -> StepUndo:
    result, detail = outcome.result.get("result"), str(outcome.result.get("detail", outcome.detail))
    if outcome.status is Status.OK and result in ("restored", "nothing_to_do"):
        return StepUndo(step.action, result, detail)
    if result == "conflict":
        return StepUndo(step.action, "conflict", detail)
    return StepUndo(step.action, "failed", f"{outcome.status.value}: {detail}")


async def _undo_by_previous(operator: Operator, run: Run, step: PlannedStep) -> StepUndo:
    """The host has no record: it took the change back by itself, or the act never began. The same module with
    `previous` restores what is still ours and changes nothing else."""
    call = Call(ACTIONS[step.action].module, step.previous, run.host, step.timeout_s)
    outcome = await asyncio.to_thread(operator.executor.run, call)
    if outcome.status is Status.OK:
        return StepUndo(step.action, "restored" if outcome.changed else "nothing_to_do", "by previous")
    detail = f"{outcome.status.value}: {outcome.detail}"
    return StepUndo(step.action, "conflict" if outcome.result.get("conflict") else "failed", detail)


_IN_DIRECTORY = {Effect.COLLECT: _collect, Effect.DECIDE: _decide, Effect.APPROVE: _approve}
_BY_RUNBOOK = {Effect.ADMIT: _admit, Effect.VERIFY: _verify}
_BY_RUN = {Effect.APPLY: _apply, Effect.CONFIRM: _confirm, Effect.UNDO: _undo}


async def perform(operator: Operator, effect: Effect, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    """The happening that answers `effect`."""
    if effect in _IN_DIRECTORY:
        return await _IN_DIRECTORY[effect](operator, run, runbook, directory)
    if effect in _BY_RUNBOOK:
        return await _BY_RUNBOOK[effect](operator, run, runbook)
    return await _BY_RUN[effect](operator, run)


def _failure(effect: Effect, run: Run, error: Exception) -> Happening:
    """What an error of the engine itself means for the run: the safe answer of that effect."""
    detail = f"engine: {error}"
    if effect is Effect.APPLY:
        return Applied(len(run.applied), Outcome(Status.FAILED, detail=detail))
    if effect is Effect.VERIFY:
        return Verified((ProbeResult("engine", "", Verdict.UNKNOWN, (), detail),))
    if effect is Effect.CONFIRM:
        return Confirmed(False, detail)
    if effect is Effect.UNDO:
        return Undone((StepUndo("engine", "failed", detail),))
    return Refused("engine", str(error))


async def attempt(operator: Operator, effect: Effect, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    """`perform`, with an error of the engine turned into an answer here and nowhere else."""
    try:
        return await perform(operator, effect, run, runbook, directory)
    except (OsremedError, OSError) as error:
        return _failure(effect, run, error)


async def drive(operator: Operator, run: OpenRun, runbook: Runbook, attempt: Attempt = attempt) -> Run:
    """Runs to the end: each happening is on disk before the next effect is tried. Called again after an OSError (the
    disk would not take an answer), it does not try that effect again: what it did is not known, so it is undone."""
    while run.effect is not None:
        if run.unanswered:
            run.record(Recovered(f"the answer of {run.effect.value} was not kept"), operator.clock)
            continue
        run.unanswered = True
        happening = await attempt(operator, run.effect, run.run, runbook, run.directory)
        run.record(happening, operator.clock)
    return run.run
