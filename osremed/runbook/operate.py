"""Effect -> happening: what the engine does in the world, through an Executor. Decides nothing that `state`, `guards`
and `decide` do not; raises nothing for what happens on a host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from osremed.core.action import Call, Outcome, Status
from osremed.core.canonical import digest
from osremed.core.errors import BadInput, OsremedError
from osremed.core.evidence import Bundle, load_bundle, write_bundle
from osremed.core.probe import Verdict
from osremed.core.reading import Missing, Reason
from osremed.runbook.actions import ACTIONS, MANUAL, NOTHING, STEPS
from osremed.runbook.approvals import read_approval
from osremed.runbook.catalog import event_as_data
from osremed.runbook.decide import AfterIntent, Decision, Intent, decide
from osremed.runbook.document import Runbook
from osremed.runbook.expressions import ExpressionFailed, render
from osremed.runbook.gate import NO_APPROVAL, ask_guards, freeze_on, last_word, restrictions_on
from osremed.runbook.model import (
    Admitted,
    AfterStep,
    Applied,
    Approved,
    Collected,
    Confirmed,
    Decided,
    Finished,
    Happening,
    PersonAnswered,
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
from osremed.runbook.modes import mode_of
from osremed.runbook.operator import CALL_TIMEOUT_S, Operator, call_module
from osremed.runbook.state import Effect
from osremed.runbook.store import OpenRun, RunDirectory
from osremed.runbook.ticks import read_tick, until_ticked
from osremed.runbook.undoing import decide_back, recorded_steps, take_back, undo, undo_id
from osremed.runbook.values import unfit
from osremed.runbook.verifying import verify, watched_before

__all__ = ["Attempt", "Operator", "attempt", "drive", "perform"]

Attempt = Callable[[Operator, Effect, Run, Runbook, RunDirectory], Awaitable[Happening]]

_COLLECTOR_S, _COLLECT_GRACE_S = 30.0, 30.0  #: of each on the host, and to reach it and start there
_APPROVAL_POLL_S = 0.5


async def _admit(operator: Operator, run: Run, runbook: Runbook) -> Happening:
    results, refusal = ask_guards(operator, run, runbook)
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
    # Room for each to be slow: a call that is cut off gives nothing, not even what was collected by then.
    limit_s = _COLLECT_GRACE_S + _COLLECTOR_S * max(1, len(wanted))
    asked = {"collectors": wanted, "timeout_s": _COLLECTOR_S}
    outcome = await call_module(operator, "evidence", asked, run, limit_s)
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


async def _collect_if_possible(operator: Operator, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    """A host that gives no evidence can still be put back as it was: the look before each step is what it rests on."""
    collected = await _collect(operator, run, runbook, directory)
    return Collected("", {"evidence": collected.detail}) if isinstance(collected, Refused) else collected


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


def _out_of_question(decision: Decision) -> Refused | None:
    """Pure. What may not be asked of a host at all."""
    if decision.undecided:
        return Refused("plan", decision.undecided)
    wanted = [(each.action, each.args) for each in decision.intents]
    wanted += [(each.action, each.args) for each in decision.after]
    whys = (why for action, args in wanted for _name, why in unfit(action, args))
    return next((Refused("bounds", why) for why in whys), None)


async def _decide(operator: Operator, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    mode = mode_of(runbook, *restrictions_on(operator, run))
    decision = decide(runbook, run.event, load_bundle(directory.bundle), mode)
    steps: list[tuple[Intent, PlannedStep]] = []
    refused = _out_of_question(decision)
    if refused:
        return refused
    notes = list(decision.notes)
    for intent in decision.intents:
        if intent.action == MANUAL:
            if not str(intent.args["instruction"]).strip():
                return Refused("preview", "a person would be asked to do nothing: the instruction is empty")
            steps.append((intent, _for_a_person(intent)))
            continue
        preview = await _preview(operator, run, intent, len(steps))
        if preview.status is not Status.OK:
            detail = f"{intent.action} cannot be previewed ({preview.status.value}): {preview.detail}"
            return Refused("preview", detail)
        if preview.changed and ACTIONS[intent.action].reversible and not preview.result.get("previous"):
            detail = f"{intent.action} could not take its change back: is somebody half-way through one?"
            return Refused("preview", detail)
        if preview.changed and ACTIONS[intent.action].reversible and not preview.result.get("as_seen"):
            return Refused("preview", f"{intent.action} does not say what it saw: a later change would be overwritten")
        if preview.changed:
            steps.append((intent, _planned(intent, preview)))
        else:
            notes.append(f"{intent.action}: the host is already as wanted")
    return Decided(decision.findings, _plan(steps, runbook, decision.after), tuple(notes))


def _plan(steps: Sequence[tuple[Intent, PlannedStep]], runbook: Runbook, after: Sequence[AfterIntent]) -> Plan:
    """Pure. What follows a remedy that is not in the plan is not in it either."""
    numbers = {intent.remedy.id: number for number, (intent, _) in enumerate(steps) if intent.remedy.id}
    follow = tuple(
        AfterStep(each.action, each.args, STEPS[each.action].risk, each.timeout_s, numbers[each.if_changed])
        for each in after
        if each.if_changed in numbers
    )
    bare: Any = [{"action": step.action, "args": step.args, "diff": step.diff} for _, step in steps]
    escalate = runbook.escalate or ""
    if escalate or follow:
        told = [{"action": each.action, "args": each.args, "step": each.step} for each in follow]
        bare = {"escalate": escalate, "steps": bare, **({"after": told} if told else {})}
    return Plan(tuple(step for _, step in steps), digest(bare), escalate, follow)


async def _preview(operator: Operator, run: Run, intent: Intent, number: int) -> Outcome:
    """With its deadline: where nobody on the host would keep that, the plan says so."""
    action = ACTIONS[intent.action]
    within_s = intent.remedy.confirm_within if action.reversible and action.recorded else None
    engine = {"undo_id": undo_id(run.run_id, number), "confirm_within": within_s} if within_s else {}
    args = {**intent.args, **action.engine_arguments, **engine}
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
        contains=intent.remedy.contains or "",
        previous=dict(preview.result.get("previous", {})),
        expect=dict(preview.result.get("as_seen", {})),
        diff=preview.diff,
        approval=intent.approval,
    )


def _for_a_person(intent: Intent) -> PlannedStep:
    """There is nothing to look at before it, and nothing that takes it back but a person."""
    instruction, back = str(intent.args["instruction"]), str(intent.args.get("take_back", ""))
    irreversible = intent.remedy.irreversible or ("" if back == NOTHING else f"a person takes it back: {back}")
    return PlannedStep(
        action=MANUAL,
        args=intent.args,
        risk=STEPS[MANUAL].risk,
        timeout_s=intent.remedy.timeout,
        confirm_within_s=0.0,
        irreversible=irreversible,
        previous={},
        expect={},
        diff=f"a person: {instruction}",
        approval=intent.approval,
    )


async def _approve(operator: Operator, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    """Before the first change, and before each next of a chain: a plan, the approval if one is needed, what is watched
    as it is now, and then the guards. They have the last word when the answer is kept (`gate`)."""
    if run.plan is None or not run.plan.steps:
        why = "; ".join(run.notes) or "no remedy's condition is true"
        return Refused("plan", f"nothing to change: {why}")
    by = NO_APPROVAL
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
    watched, why = ((), "") if run.undoes else await watched_before(operator, run, runbook)
    if why:
        return Refused("watch", why)
    results, refusal = ask_guards(operator, run, runbook, unasked=by == NO_APPROVAL)
    if refusal:
        return Refused(refusal.guard, refusal.detail, results)
    return Approved(by, run.plan.digest, results, watched)


async def _ask(operator: Operator, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    """What a person says of the step they are asked to do. Under a freeze nobody is asked; who was asked before it is
    waited for. Before the host's own steps go on after it, the guards are asked once more: it has been a while."""
    asked = run.asked
    if asked is None or run.plan is None:
        raise BadInput(f"run {run.run_id} asks nobody")
    answered = read_tick(directory, asked.number, run.plan.digest)
    if answered is None and (no := freeze_on(operator, run, before_ns=_asked_ns(run))):
        return PersonAnswered(asked.number, False, "", f"{no.guard}: {no.detail}")
    tick = await until_ticked(operator, run, asked, directory)
    if tick is None:
        return PersonAnswered(asked.number, False, "", "nobody said in time that it is done")
    host_goes_on = not run.plan.escalate and asked.number < len(run.plan.steps)
    unasked = run.approved_by == NO_APPROVAL
    guards = ask_guards(operator, run, runbook, unasked=unasked)[0] if tick.done and host_goes_on else ()
    return PersonAnswered(asked.number, tick.done, tick.by, tick.words, guards)


def _asked_ns(run: Run) -> int:
    """When the person was asked; the same after a crash."""
    if run.asked is None or run.plan is None:
        return run.updated_ns
    steps: tuple[PlannedStep | AfterStep, ...] = (*run.plan.steps, *run.plan.after)
    return run.asked.deadline_ns - round(steps[run.asked.number - 1].timeout_s * 1e9)


async def _apply(operator: Operator, run: Run) -> Happening:
    """A freeze is looked at before every step: the guards were asked before the first."""
    number = len(run.applied)
    step = run.plan.steps[number] if run.plan else None
    if step is None:
        raise BadInput(f"run {run.run_id} has no plan to apply")
    if no := freeze_on(operator, run):
        return Refused(no.guard, no.detail, (no,))
    action = ACTIONS[step.action]
    engine = {"undo_id": undo_id(run.run_id, number), "confirm_within": step.confirm_within_s}
    recorded = action.reversible and action.recorded
    args = {**step.args, **step.expect, **action.engine_arguments, **(engine if recorded else {})}
    call = Call(action.module, args, run.host, step.timeout_s)
    return Applied(number, await asyncio.to_thread(operator.executor.run, call))


async def _confirm(operator: Operator, run: Run) -> Happening:
    for number in recorded_steps(run):
        args = {"id": undo_id(run.run_id, number), "state": "confirmed"}
        outcome = await call_module(operator, "undo", args, run, CALL_TIMEOUT_S)
        if outcome.status is not Status.OK:
            return Confirmed(False, f"{outcome.status.value}: {outcome.detail}")
        if outcome.result.get("result") == "absent":
            return Confirmed(False, "the host has already taken the change back, or never registered it")
    return Confirmed(True)


async def _finish(operator: Operator, run: Run) -> Happening:
    """Under a freeze the step is not done: it is left to people, as one that failed."""
    number = run.after[len(run.finished)]
    if run.plan is None:
        raise BadInput(f"run {run.run_id} has no plan to finish")
    if no := freeze_on(operator, run):
        return Finished(number, Outcome(Status.REFUSED, detail=f"{no.guard}: {no.detail}"))
    step = run.plan.after[number]
    action = ACTIONS[step.action]
    call = Call(action.module, {**step.args, **action.engine_arguments}, run.host, step.timeout_s)
    return Finished(number, await asyncio.to_thread(operator.executor.run, call))


_IN_DIRECTORY = {Effect.COLLECT: _collect, Effect.DECIDE: _decide, Effect.APPROVE: _approve, Effect.ASK: _ask}
_BY_RUNBOOK = {Effect.ADMIT: _admit, Effect.VERIFY: verify}
_BY_RUN = {Effect.APPLY: _apply, Effect.CONFIRM: _confirm, Effect.FINISH: _finish, Effect.UNDO: undo}
_OF_UNDO = {Effect.DECIDE: decide_back, Effect.UNDO: take_back}


async def perform(operator: Operator, effect: Effect, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    """The happening that answers `effect`."""
    if run.undoes and effect in _OF_UNDO:
        return await _OF_UNDO[effect](operator, run)
    if run.undoes and effect is Effect.COLLECT:
        return await _collect_if_possible(operator, run, runbook, directory)
    if effect in _IN_DIRECTORY:
        return await _IN_DIRECTORY[effect](operator, run, runbook, directory)
    if effect in _BY_RUNBOOK:
        return await _BY_RUNBOOK[effect](operator, run, runbook)
    return await _BY_RUN[effect](operator, run)


#: What an error of the engine itself means for the run: the safe answer of that effect.
_FAILURES: Mapping[Effect, Callable[[Run, str], Happening]] = {
    Effect.ASK: lambda run, why: PersonAnswered(run.asked.number if run.asked else 0, False, "", why),
    Effect.APPLY: lambda run, why: Applied(len(run.applied), Outcome(Status.FAILED, detail=why)),
    Effect.VERIFY: lambda _run, why: Verified((ProbeResult("engine", "", Verdict.UNKNOWN, (), why),)),
    Effect.CONFIRM: lambda _run, why: Confirmed(False, why),
    Effect.FINISH: lambda run, why: Finished(run.after[len(run.finished)], Outcome(Status.FAILED, detail=why)),
    Effect.UNDO: lambda _run, why: Undone((StepUndo("engine", "failed", why),)),
}


def _failure(effect: Effect, run: Run, error: Exception) -> Happening:
    known = _FAILURES.get(effect)
    return known(run, f"engine: {error}") if known else Refused("engine", str(error))


async def attempt(operator: Operator, effect: Effect, run: Run, runbook: Runbook, directory: RunDirectory) -> Happening:
    """`perform`, with an error of the engine turned into an answer here and nowhere else."""
    try:
        return await perform(operator, effect, run, runbook, directory)
    except (OsremedError, OSError) as error:
        return _failure(effect, run, error)


async def drive(operator: Operator, run: OpenRun, runbook: Runbook, attempt: Attempt = attempt) -> Run:
    """Runs to the end: each happening is on disk before the next effect is tried. Called again after an OSError (the
    disk would not take an answer), it does not try that effect again: what it did is not known, so it is undone."""
    run.keep_owed_seal()
    while run.effect is not None:
        if run.unanswered:
            run.record(Recovered(f"the answer of {run.effect.value} was not kept"), operator.clock)
            continue
        run.unanswered = True
        happening = await attempt(operator, run.effect, run.run, runbook, run.directory)
        async with last_word(operator, run.run, runbook, happening) as said:
            run.record(said, operator.clock)
    return run.run
