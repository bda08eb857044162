"""What takes changes back: those of a run that did not help, and, long after, those of a run that was kept.

The latter is a run of its own: a run that has ended does not change. Its plan is made of the arguments that the journal
of the other one kept; what is no longer as that one left it is somebody else's, and then nothing is touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

from osremed.core.action import Call, Outcome, Status
from osremed.core.canonical import digest
from osremed.core.errors import BadInput
from osremed.runbook.actions import ACTIONS, MANUAL, STEPS
from osremed.runbook.guards import GUARDS, Situation
from osremed.runbook.model import (
    ApprovalNeed,
    Decided,
    GuardResult,
    Happening,
    Plan,
    PlannedStep,
    Refused,
    Run,
    RunState,
    StepUndo,
    Undone,
)
from osremed.runbook.operator import CALL_TIMEOUT_S, Operator, call_module
from osremed.runbook.store import UNDOES

#: How long a person may take to allow it.
_APPROVAL_S = 3600.0
_GUARDS = frozenset({"freeze", "scope", "journals", "target-busy"})


def undo_id(run_id: str, step: int) -> str:
    """Names the undo record on the host; the agent there takes the change back if nobody confirms it."""
    return f"{run_id}-{step}"


def recorded_steps(run: Run) -> Iterator[int]:
    """Pure. Numbers of the steps that changed the host and that it can take back by a record of its own."""
    for number, step in enumerate(run.plan.steps if run.plan else ()):
        done = run.taken_back <= number < len(run.applied) and run.applied[number].changed
        if done and not step.irreversible and STEPS[step.action].recorded:
            yield number


async def undo(operator: Operator, run: Run) -> Happening:
    """All attempted steps in reverse, but those that are taken back already; every one is tried, whatever the others
    answer. One that contains harm stays while a step after it does."""
    results: list[StepUndo] = []
    for number in reversed(range(run.taken_back, run.attempted)):
        left = any(each.left for each in results)
        results.append((_contained(run, number) if left else None) or await _undo_step(operator, run, number))
    return Undone(tuple(results))


def _contained(run: Run, number: int) -> StepUndo | None:
    """Pure. What comes of a step that changed the host to contain harm."""
    step = run.plan.steps[number] if run.plan else None
    changed = number < len(run.applied) and run.applied[number].changed
    return StepUndo(step.action, "kept", step.contains) if step and step.contains and changed else None


async def _undo_step(operator: Operator, run: Run, number: int) -> StepUndo:
    step = run.plan.steps[number] if run.plan else None
    if step is None:
        return StepUndo("unknown", "failed", "the run has no plan")
    answered = run.applied[number] if number < len(run.applied) else None
    if answered and answered.status is Status.OK and not answered.changed:
        return StepUndo(step.action, "nothing_to_do", "the step had changed nothing")
    keeps_nothing = step.irreversible or step.action == MANUAL
    if keeps_nothing and answered and answered.status is Status.FAILED and answered.result.get("refused"):
        return StepUndo(step.action, "nothing_to_do", f"the step was refused: {answered.result['refused']}")
    if step.irreversible:
        comes_back = STEPS[step.action].transient
        return StepUndo(step.action, "nothing_to_do" if comes_back else "irreversible", step.irreversible)
    if ACTIONS[step.action].recorded:
        args = {"id": undo_id(run.run_id, number), "state": "reverted"}
        outcome = await call_module(operator, "undo", args, run, CALL_TIMEOUT_S)
        if outcome.status is not Status.OK or outcome.result.get("result") != "absent":
            return _undone(step, outcome)
    return await _undo_by_previous(operator, run, step)


def _undone(step: PlannedStep, outcome: Outcome) -> StepUndo:
    result, detail = outcome.result.get("result"), str(outcome.result.get("detail", outcome.detail))
    if outcome.status is Status.OK and result in ("restored", "nothing_to_do"):
        return StepUndo(step.action, result, detail)
    if result == "conflict":
        return StepUndo(step.action, "conflict", detail)
    return StepUndo(step.action, "failed", f"{outcome.status.value}: {detail}")


async def _undo_by_previous(operator: Operator, run: Run, step: PlannedStep) -> StepUndo:
    """The host has no record: it keeps none, took the change back by itself, or the act never began. The same module
    with `previous` restores what is still ours and changes nothing else."""
    call = Call(ACTIONS[step.action].module, step.previous, run.host, step.timeout_s)
    outcome = await asyncio.to_thread(operator.executor.run, call)
    if outcome.status is Status.OK:
        return StepUndo(step.action, "restored" if outcome.changed else "nothing_to_do", "by previous")
    detail = f"{outcome.status.value}: {outcome.detail}"
    return StepUndo(step.action, "conflict" if outcome.result.get("conflict") else "failed", detail)


def check_guards_of_undo(now: Situation, run: Run) -> tuple[GuardResult, ...]:
    """Pure. What holds `run`, which takes another one back, up to the first no: what people have said of the runbook
    and the host, and other runs there. What bounds a runbook's own turns does not: a person asks, another one allows
    it."""
    there = replace(now, run=replace(run, runbook=run.runbook.removeprefix(UNDOES)))
    results: list[GuardResult] = []
    for name, guard in GUARDS:
        if name in _GUARDS and all(each.passed for each in results):
            passed, words = guard(there)
            results.append(GuardResult(name, passed, words()))
    return tuple(results)


def steps_back(old: Run) -> tuple[PlannedStep, ...]:
    """Pure. What takes an ended run back, its last step first. BadInput when there is nothing, or when something of it
    cannot be taken back: then all of it is left."""
    if old.undoes:
        raise BadInput(f"run {old.run_id} took another one back itself", hint="ask for the change anew with a runbook")
    if old.state not in (RunState.SUCCEEDED, RunState.UNDO_INCOMPLETE):
        hint = "only a change that was kept, or was not taken back completely, is still there"
        raise BadInput(f"run {old.run_id} is {old.state.value}: there is nothing to take back", hint=hint)
    steps = (*_followed(old), *_kept(old))
    if not steps:
        raise BadInput(f"run {old.run_id} changed nothing that is still there")
    for step in steps:
        if step.irreversible:
            raise BadInput(f"{step.action} of run {old.run_id} cannot be taken back: {step.irreversible}")
    return steps


def _followed(old: Run) -> Iterator[PlannedStep]:
    """The steps after success that changed the host, the last one first."""
    for done in reversed(old.finished):
        if old.plan is None or not done.outcome.changed:
            continue
        step = old.plan.after[done.step]
        previous = done.outcome.result.get("previous")
        why = "" if STEPS[step.action].reversible and previous else "nothing says how it was before"
        yield _back(PlannedStep(step.action, step.args, step.risk, step.timeout_s, 0.0, why, previous or {}, {}, ""))


def _kept(old: Run) -> Iterator[PlannedStep]:
    steps = old.plan.steps if old.plan else ()
    for number in _still_there(old):
        answered = old.applied[number] if number < len(old.applied) else None
        previous = answered.result.get("previous") if answered else None
        yield _back(replace(steps[number], previous=previous or steps[number].previous))


def _still_there(old: Run) -> tuple[int, ...]:
    """Numbers of the steps whose change was kept or could not be taken back, the last one first."""
    if old.state is RunState.SUCCEEDED:
        return tuple(number for number in reversed(range(old.taken_back, old.attempted)) if old.applied[number].changed)
    chain = bool(old.plan and old.plan.escalate)
    numbers = tuple(reversed(range(old.attempted - 1 if chain else 0, old.attempted)))
    results = old.undo[-len(numbers) :]
    if len(results) != len(numbers):  # the engine itself failed: what was taken back is not known
        return numbers
    return tuple(number for number, undo in zip(numbers, results, strict=True) if undo.left)


def _back(step: PlannedStep) -> PlannedStep:
    """The step that takes this one back. Its arguments are checked on the host before and while they are used: they
    name what is to be found there."""
    return replace(step, args=step.previous, confirm_within_s=0.0, expect={}, diff="", approval=None)


async def decide_back(operator: Operator, run: Run) -> Happening:
    """The plan that takes the other run back, each step looked at on the host. What is no longer ours there is a
    conflict, and then the run ends with nothing touched."""
    old, _effect = operator.store.load(run.undoes)
    steps: list[PlannedStep] = []
    notes: list[str] = []
    conflicts: list[StepUndo] = []
    for step in steps_back(old):
        seen = await _look(operator, run, step)
        if seen.result.get("conflict"):
            conflicts.append(StepUndo(step.action, "conflict", seen.detail))
        elif seen.status is not Status.OK:
            return Refused("preview", f"{step.action} cannot be previewed ({seen.status.value}): {seen.detail}")
        elif seen.changed:
            why = f"{step.action}: {run.requested_by or 'somebody'} asks to take back run {old.run_id}"
            steps.append(replace(step, diff=seen.diff, approval=ApprovalNeed(why, _APPROVAL_S)))
        else:
            notes.append(f"{step.action}: the host is already as it was before run {old.run_id}")
    if conflicts:
        return Undone(tuple(conflicts))
    bare = [{"action": step.action, "args": step.args, "diff": step.diff} for step in steps]
    return Decided((), Plan(tuple(steps), digest({"undoes": old.run_id, "steps": bare})), tuple(notes))


async def _look(operator: Operator, run: Run, step: PlannedStep) -> Outcome:
    call = Call(ACTIONS[step.action].module, step.previous, run.host, step.timeout_s, check=True)
    return await asyncio.to_thread(operator.executor.run, call)


async def take_back(operator: Operator, run: Run) -> Happening:
    """Every step of the plan, each proven by a look at the host; every one is tried, whatever the others answer."""
    steps = run.plan.steps if run.plan else ()
    return Undone(tuple([await _back_and_proven(operator, run, step) for step in steps]))


async def _back_and_proven(operator: Operator, run: Run, step: PlannedStep) -> StepUndo:
    undo = await _undo_by_previous(operator, run, step)
    if undo.left:
        return undo
    seen = await _look(operator, run, step)
    if seen.status is Status.OK and not seen.changed:
        return undo
    detail = f"{seen.status.value}: {seen.detail}" if seen.status is not Status.OK else "it is not as it was before"
    return StepUndo(step.action, "failed", f"taken back and not proven: {detail}")
