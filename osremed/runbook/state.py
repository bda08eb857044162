"""The state machine of a run: `advance(run, happening, now) -> (run, effect)`, pure. Nothing else changes a state.

RAISED -> COLLECTING -> DECIDED -> AWAITING_APPROVAL -> APPLYING -> VERIFYING -> SUCCEEDED
   \\-> REFUSED <-/----------/-----------/                  \\----------> UNDOING -> UNDONE | UNDO_INCOMPLETE
With `escalate` one step after the other: UNDOING -> DECIDED when verification failed and a next one is left.
A run that takes another one back (`undoes`) goes from its approval to UNDOING, and from there to SUCCEEDED; straight
from COLLECTING to UNDO_INCOMPLETE when what it would restore is not that run's any more.
With `after_success` VERIFYING -> FINISHING -> SUCCEEDED: whatever comes of its steps, the repair is kept.
A freeze among the steps (Refused in APPLYING) takes back what was changed.
A step of a person is waited for in AWAITING_PERSON, among the steps in place of APPLYING and after success in place of
FINISHING. A no, or no answer in time, takes back what was changed; before anything was it is REFUSED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum
from typing import Any

from osremed.core.action import Outcome, Status
from osremed.core.errors import OsremedError
from osremed.core.probe import Verdict
from osremed.runbook.actions import MANUAL, NOTHING
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
    PersonAsked,
    PlannedStep,
    Raised,
    Recovered,
    Refused,
    Run,
    RunState,
    Undone,
    Verified,
)


class Effect(str, Enum):
    """What is to be tried next; its answer is the next happening."""

    ADMIT = "admit"
    COLLECT = "collect"
    DECIDE = "decide"
    APPROVE = "approve"
    ASK = "ask"
    APPLY = "apply"
    VERIFY = "verify"
    CONFIRM = "confirm"
    FINISH = "finish"
    UNDO = "undo"


class ImpossibleHappening(OsremedError):
    """A happening that this state does not allow: the journal is damaged or the engine is wrong."""

    code = "run.impossible"


Step = tuple[Run, "Effect | None"]
S = RunState
_OF_PEOPLE = frozenset({S.AWAITING_APPROVAL, S.AWAITING_PERSON})


def _refused(run: Run, happening: Refused) -> Step:
    reason = f"{happening.guard}: {happening.detail}"
    run = replace(run, guards=run.guards + happening.guards)
    if run.attempted > run.taken_back:  # among its steps: half a plan is neither the old state nor the new one
        return _undo(run, f"stopped before {_steps(run)[len(run.applied)].action} by {reason}")
    if run.applied:  # between two remedies: the one before was taken back
        return replace(run, state=S.UNDONE, reason=_escalated(run, f"the next remedy was refused by {reason}")), None
    return replace(run, state=S.REFUSED, reason=reason), None


def _admitted(run: Run, happening: Admitted) -> Step:
    run = replace(run, state=S.COLLECTING, admitted=True, guards=happening.guards)
    return replace(run, reason="collecting evidence"), Effect.COLLECT


def _collected(run: Run, happening: Collected) -> Step:
    run = replace(run, bundle=happening.bundle, gaps=happening.gaps, reason="deciding")
    return run, Effect.DECIDE


def _decided(run: Run, happening: Decided) -> Step:
    run = replace(run, findings=happening.findings, plan=happening.plan, notes=happening.notes)
    needs = [step.approval.why for step in happening.plan.steps if step.approval]
    if needs:
        return replace(run, state=S.AWAITING_APPROVAL, reason=f"approval needed: {needs[0]}"), Effect.APPROVE
    return replace(run, state=S.DECIDED, reason="checking the guards again"), Effect.APPROVE


def _approved(run: Run, happening: Approved) -> Step:
    if run.plan is None or happening.plan_digest != run.plan.digest:
        raise ImpossibleHappening("the approval is for another plan", where=f"run {run.run_id}")
    run = replace(run, approved_by=happening.by, guards=run.guards + happening.guards, watched=happening.watched)
    if run.undoes:
        return _undo(run, f"taking back run {run.undoes}")
    return _turn(run)


def _turn(run: Run) -> Step:
    """To the next step of the plan: the host's, or a person's."""
    step = _steps(run)[len(run.applied) : len(run.applied) + 1]
    if step and step[0].action == MANUAL:
        return _ask(run, step[0])
    return replace(run, state=S.APPLYING, reason="applying"), Effect.APPLY


def _ask(run: Run, step: PlannedStep | AfterStep) -> Step:
    return replace(run, state=S.AWAITING_PERSON, reason=f"a person is asked: {step.args['instruction']}"), Effect.ASK


def _asked(run: Run, now_ns: int) -> PersonAsked | None:
    """What a person is to do now. Asked once: who is asked again after a crash has no more time than before."""
    if run.state is not S.AWAITING_PERSON or run.plan is None:
        return None
    number = len(run.plan.steps) + run.after[len(run.finished)] if run.kept else len(run.applied)
    if run.asked and run.asked.number == number + 1:
        return run.asked
    steps: tuple[PlannedStep | AfterStep, ...] = (*run.plan.steps, *run.plan.after)
    step = steps[number]
    deadline_ns = now_ns + round(step.timeout_s * 1e9)
    return PersonAsked(number + 1, str(step.args["instruction"]), str(step.args.get("take_back", "")), deadline_ns)


def _steps(run: Run) -> tuple[PlannedStep, ...]:
    return run.plan.steps if run.plan else ()


def _escalated(run: Run, reason: str) -> str:
    """The reason, and what a human is asked to do where the runbook says it."""
    if run.plan is None or not run.plan.escalate:
        return reason
    return f"{reason}; {run.attempted} of {len(run.plan.steps)} remedies tried; escalate: {run.plan.escalate}"


def _applied(run: Run, happening: Applied) -> Step:
    steps = _steps(run)
    if happening.step != len(run.applied):
        raise ImpossibleHappening(f"step {happening.step} answered out of turn", where=f"run {run.run_id}")
    outcome = happening.outcome
    run = replace(run, applied=(*run.applied, outcome), attempted=happening.step + 1)
    if outcome.status is not Status.OK:
        action = steps[happening.step].action
        return _undo(run, f"{action} did not succeed ({outcome.status.value}): {outcome.detail}")
    return _next(run)


def _next(run: Run) -> Step:
    """After a step that was done: the next one, or the proof."""
    if len(run.applied) < len(_steps(run)) and not (run.plan and run.plan.escalate):
        return _turn(run)
    return replace(run, state=S.VERIFYING, reason="verifying"), Effect.VERIFY


def _answered(run: Run, happening: PersonAnswered) -> Step:
    """Done: on, unless a guard says no by now. Not done, or nobody said so: what was changed is taken back."""
    if run.asked is None or happening.number != run.asked.number:
        raise ImpossibleHappening(f"step {happening.number} was answered out of turn", where=f"run {run.run_id}")
    outcome = _of_a_person(happening, run.asked)
    run = replace(run, answered=(*run.answered, happening), guards=run.guards + happening.guards)
    if run.kept:
        return _finish(replace(run, finished=(*run.finished, Finished(run.after[len(run.finished)], outcome))))
    if not happening.done and not run.attempted:
        return replace(run, state=S.REFUSED, reason=f"person: {outcome.detail}"), None
    run = replace(run, applied=(*run.applied, outcome), attempted=len(run.applied) + 1)
    if not happening.done:
        return _undo(run, outcome.detail)
    for guard in happening.guards:
        if not guard.passed:
            return _undo(run, f"after a person's step {guard.guard} said no: {guard.detail}")
    return _next(run)


def _of_a_person(happening: PersonAnswered, asked: PersonAsked) -> Outcome:
    """What a person said, as the outcome of the step. Who did not do it has left nothing to take back."""
    words = f": {happening.words}" if happening.words else ""
    if happening.done:
        return Outcome(Status.OK, changed=asked.take_back != NOTHING, detail=f"done, says {happening.by}{words}")
    why = f"{happening.by} did not do it{words}" if happening.by else happening.words
    begun = f"; who has begun it: {asked.take_back}" if asked.take_back not in ("", NOTHING) else ""
    detail = f"{why} (asked for: {asked.instruction}{begun})"
    return Outcome(Status.FAILED, result={"refused": f"{why}{begun}"}, detail=detail)


def _undo(run: Run, reason: str, *, goes_on: bool = False) -> Step:
    return replace(run, state=S.UNDOING, reason=reason, goes_on=goes_on), Effect.UNDO


def _next_may_help(run: Run) -> bool:
    """Not after a probe that gave no answer: it could not prove the next remedy either."""
    known = all(result.verdict is not Verdict.UNKNOWN for result in run.results)
    return bool(run.plan and run.plan.escalate) and known and run.attempted < len(_steps(run))


def _verified(run: Run, happening: Verified) -> Step:
    run = replace(run, results=happening.results)
    for result in happening.results:
        if result.verdict is not Verdict.HOLDS:
            detail = f" ({result.detail})" if result.detail else ""
            reason = f"verification {result.verdict.value}: {result.probe} {result.tolerance}{detail}"
            return _undo(run, reason, goes_on=_next_may_help(run))
    if happening.drifted:
        return _undo(run, f"verification drifted: {happening.drifted[0]}; what is not ours any more is left alone")
    if not happening.results:
        return _undo(run, "nothing was verified")
    return replace(run, reason="verified, confirming on the host"), Effect.CONFIRM


def _confirmed(run: Run, happening: Confirmed) -> Step:
    if not happening.confirmed:
        return _undo(run, f"the host did not confirm: {happening.detail}")
    return _finish(replace(run, kept=True))


def _finish(run: Run) -> Step:
    """The next step after success, or the end: nothing here takes a verified repair back."""
    if len(run.finished) < len(run.after):
        step = run.plan.after[run.after[len(run.finished)]] if run.plan else None
        if step and step.action == MANUAL:
            return _ask(run, step)
        return replace(run, state=S.FINISHING, reason="verified and kept, doing what follows"), Effect.FINISH
    left = "".join(f"; TO BE DONE BY HAND: {each}" for each in run.left_to_people)
    return replace(run, state=S.SUCCEEDED, reason=f"every verification held{left}"), None


def _finished(run: Run, happening: Finished) -> Step:
    due = run.after[len(run.finished)]
    if happening.step != due:
        what = f"step {happening.step} after success answered out of turn"
        raise ImpossibleHappening(what, where=f"run {run.run_id}")
    return _finish(replace(run, finished=(*run.finished, happening)))


def _undone(run: Run, happening: Undone) -> Step:
    left = [undo for undo in happening.results if undo.left]
    if run.state is S.COLLECTING and not (run.undoes and left):
        raise ImpossibleHappening("nothing was applied that could be undone", where=f"run {run.run_id}")
    if run.state is S.COLLECTING:
        run = replace(run, reason=f"run {run.undoes} is left as it is")
    run = replace(run, undo=run.undo + happening.results, taken_back=run.attempted)
    if left:
        told = "; ".join(f"{undo.action}: {undo.result}: {undo.detail}" for undo in left)
        reason = f"{run.reason}; NOT taken back: {told}"
        return replace(run, state=S.UNDO_INCOMPLETE, reason=_escalated(run, reason)), None
    if run.undoes:
        return replace(run, state=S.SUCCEEDED, reason=f"run {run.undoes} was taken back"), None
    if run.goes_on:
        return replace(run, state=S.DECIDED, goes_on=False, reason=f"{run.reason}; taken back"), Effect.APPROVE
    return replace(run, state=S.UNDONE, reason=_escalated(run, run.reason)), None


def _recovered(run: Run, happening: Recovered) -> Step:
    """Before the first change: begin again with fresh evidence. After it: what happened on the host is not known, so it
    is taken back; never tried again, and no other remedy after it. After the proof: the step under way is tried once
    more. A person who was asked is waited for again: nothing was under way."""
    if run.state is S.FINISHING:
        return _finish(run)
    if run.state is S.AWAITING_PERSON:
        return run, Effect.ASK
    if run.applied and run.state is S.DECIDED:
        reason = f"the controller stopped between two remedies: {happening.detail}"
        return replace(run, state=S.UNDONE, reason=_escalated(run, reason)), None
    if run.state in (S.RAISED, S.COLLECTING, S.DECIDED, S.AWAITING_APPROVAL):
        fresh = replace(run, state=S.RAISED, plan=None, findings=(), guards=(), bundle="", gaps={}, notes=())
        return replace(fresh, reason=f"recovered: {happening.detail}"), Effect.ADMIT
    if run.state is S.UNDOING:
        return replace(run, goes_on=False), Effect.UNDO
    if run.state is S.APPLYING:  # the step after the last answer may have been under way
        run = replace(run, attempted=min(len(run.applied) + 1, len(_steps(run))))
    return _undo(run, f"the controller stopped in {run.state.value}: {happening.detail}")


_TABLE: dict[type[Any], tuple[frozenset[RunState], Callable[[Run, Any], Step]]] = {
    Admitted: (frozenset({S.RAISED}), _admitted),
    Refused: (frozenset({S.RAISED, S.COLLECTING, S.DECIDED, S.AWAITING_APPROVAL, S.APPLYING}), _refused),
    Collected: (frozenset({S.COLLECTING}), _collected),
    Decided: (frozenset({S.COLLECTING}), _decided),
    Approved: (frozenset({S.DECIDED, S.AWAITING_APPROVAL}), _approved),
    Applied: (frozenset({S.APPLYING}), _applied),
    PersonAnswered: (frozenset({S.AWAITING_PERSON}), _answered),
    Verified: (frozenset({S.VERIFYING}), _verified),
    Confirmed: (frozenset({S.VERIFYING}), _confirmed),
    Finished: (frozenset({S.FINISHING}), _finished),
    Undone: (frozenset({S.UNDOING, S.COLLECTING}), _undone),
    Recovered: (frozenset(set(S) - {S.SUCCEEDED, S.REFUSED, S.UNDONE, S.UNDO_INCOMPLETE}), _recovered),
}


def begin(raised: Raised, now_ns: int) -> Step:
    run = Run(
        run_id=raised.run_id,
        runbook=raised.runbook,
        runbook_digest=raised.runbook_digest,
        event=raised.event,
        state=RunState.RAISED,
        reason="raised",
        raised_ns=now_ns,
        updated_ns=now_ns,
        requested_by=raised.requested_by,
        requested_uid=raised.requested_uid,
        undoes=raised.undoes,
        looks_only=raised.looks_only,
        rules_commit=raised.rules_commit,
        manual_s=raised.manual_s,
    )
    return run, Effect.ADMIT


def advance(run: Run, happening: Happening, now_ns: int) -> Step:
    """The run after the happening, and the effect to try next (None: the run has ended). ImpossibleHappening if this
    state does not allow it."""
    allowed, transition = _TABLE.get(type(happening), (frozenset[RunState](), _refused))
    if run.state not in allowed:
        what = f"{type(happening).__name__} cannot happen in {run.state.value}"
        raise ImpossibleHappening(what, where=f"run {run.run_id}", hint="the run's journal is damaged")
    after, effect = transition(run, happening)
    waited_ns = run.waited_ns + (max(0, now_ns - run.updated_ns) if run.state in _OF_PEOPLE else 0)
    return replace(after, updated_ns=now_ns, asked=_asked(after, now_ns), waited_ns=waited_ns), effect


def replay(happenings: Iterable[tuple[int, Happening]]) -> Step:
    """The run that these (nanoseconds, happening) make, and its open effect. ImpossibleHappening for an empty or
    impossible sequence."""
    step: Step | None = None
    for now_ns, happening in happenings:
        if step is None:
            if not isinstance(happening, Raised):
                raise ImpossibleHappening("a run begins with Raised")
            step = begin(happening, now_ns)
        else:
            step = advance(step[0], happening, now_ns)
    if step is None:
        raise ImpossibleHappening("an empty journal is no run")
    return step
