"""The state machine: only the drawn arrows, undo before rest, and recovery that never tries an ambiguous act again."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.core.action import Outcome, Status
from osremed.core.probe import Verdict
from osremed.runbook.model import (
    ENDED,
    Admitted,
    AfterStep,
    Applied,
    ApprovalNeed,
    Approved,
    Collected,
    Confirmed,
    Decided,
    Finished,
    GuardResult,
    PersonAnswered,
    Plan,
    PlannedStep,
    ProbeResult,
    Recovered,
    Refused,
    RunState,
    StepUndo,
    Undone,
    Verified,
)
from osremed.runbook.state import Effect, ImpossibleHappening, advance
from tests.unit.runbook.conftest import make_run


def step(approval=None):
    return PlannedStep("fastoom_policy", {}, "medium", 60, 300, "", {"state": "present"}, {}, "diff", approval)


def plan(count=1, approval=None, escalate=""):
    return Plan(tuple(step(approval) for _ in range(count)), "digest", escalate)


OK, FAILED = Outcome(Status.OK, changed=True), Outcome(Status.FAILED, detail="no")
HOLDS = Verified((ProbeResult("p", "t", Verdict.HOLDS, ()),))
START = [Admitted(()), Collected("b", {})]
APPROVED = Approved("policy", "digest", ())


def walk(*happenings):
    run, effect = make_run(), Effect.ADMIT
    for happening in happenings:
        run, effect = advance(run, happening, 1)
    return run, effect


def test_the_good_way():
    run, effect = walk(*START, Decided((), plan(2)), APPROVED, Applied(0, OK), Applied(1, OK), HOLDS, Confirmed(True))
    assert (run.state, effect) == (RunState.SUCCEEDED, None)


def test_the_time_that_people_were_waited_for_is_counted_and_no_other():
    asking = plan(approval=ApprovalNeed("why", 60.0))
    happenings = [*START, Decided((), asking), APPROVED, Applied(0, OK), HOLDS, Confirmed(True)]
    times_s = (0, 10, 20, 320, 350, 400, 410)  # asked at 20, answered at 320

    def waited_s(last_s):
        run = make_run()
        for happening, at_s in zip(happenings, (*times_s[:3], last_s, *times_s[4:]), strict=True):
            run, _effect = advance(run, happening, run.raised_ns + at_s * 10**9)
        return run.waited_ns / 1e9

    assert waited_s(320) == 300
    assert waited_s(5) == 0, "a clock that was set back is no time"


@pytest.mark.parametrize("verdict", [Verdict.FAILS, Verdict.UNKNOWN])
def test_a_verification_that_does_not_hold_is_undone(verdict):
    verified = Verified((ProbeResult("p", "t", Verdict.HOLDS, ()), ProbeResult("q", "t", verdict, ())))
    run, effect = walk(*START, Decided((), plan()), APPROVED, Applied(0, OK), verified)
    assert (run.state, effect) == (RunState.UNDOING, Effect.UNDO)
    assert verdict.value in run.reason


def test_nothing_verified_is_not_success():
    run, _ = walk(*START, Decided((), plan()), APPROVED, Applied(0, OK), Verified(()))
    assert run.state is RunState.UNDOING


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_step_that_does_not_succeed_stops_the_rest_and_undoes_all_tried(status):
    run, effect = walk(*START, Decided((), plan(3)), APPROVED, Applied(0, OK), Applied(1, Outcome(status)))
    assert (run.state, effect, run.attempted) == (RunState.UNDOING, Effect.UNDO, 2)


@pytest.mark.parametrize("result", ["conflict", "failed"])
def test_an_undo_that_leaves_something_pages_a_human(result):
    done = Undone((StepUndo("a", "restored"), StepUndo("b", result, "why")))
    run, effect = walk(*START, Decided((), plan()), APPROVED, Applied(0, FAILED), done)
    assert (run.state, effect) == (RunState.UNDO_INCOMPLETE, None)
    assert "NOT taken back" in run.reason


def test_an_unconfirmed_change_is_undone_for_the_host_will_take_it_back():
    run, effect = walk(*START, Decided((), plan()), APPROVED, Applied(0, OK), HOLDS, Confirmed(False, "gone"))
    assert (run.state, effect) == (RunState.UNDOING, Effect.UNDO)


def test_a_plan_that_needs_approval_waits_for_it():
    run, effect = walk(*START, Decided((), plan(1, ApprovalNeed("risk", 60))))
    assert (run.state, effect) == (RunState.AWAITING_APPROVAL, Effect.APPROVE)


def test_an_approval_of_another_plan_does_not_count():
    with pytest.raises(ImpossibleHappening, match="another plan"):
        walk(*START, Decided((), plan()), Approved("eve", "other digest", ()))


@pytest.mark.parametrize(
    ("happenings", "state", "effect", "attempted"),
    [
        ([], RunState.RAISED, Effect.ADMIT, 0),
        (START, RunState.RAISED, Effect.ADMIT, 0),
        ([*START, Decided((), plan(2))], RunState.RAISED, Effect.ADMIT, 0),
        ([*START, Decided((), plan(2)), APPROVED], RunState.UNDOING, Effect.UNDO, 1),
        ([*START, Decided((), plan(2)), APPROVED, Applied(0, OK)], RunState.UNDOING, Effect.UNDO, 2),
        ([*START, Decided((), plan()), APPROVED, Applied(0, OK)], RunState.UNDOING, Effect.UNDO, 1),
        ([*START, Decided((), plan()), APPROVED, Applied(0, OK), HOLDS], RunState.UNDOING, Effect.UNDO, 1),
    ],
)
def test_recovery_begins_again_before_the_first_change_and_undoes_after_it(happenings, state, effect, attempted):
    run, open_effect = walk(*happenings, Recovered("killed"))
    assert (run.state, open_effect, run.attempted) == (state, effect, attempted)


FOLLOWED = replace(plan(2), after=tuple(AfterStep("gpu_drain", {}, "high", 60, number) for number in (0, 1)))
_PERSON = PlannedStep("manual", {"instruction": "look", "take_back": "nothing"}, "low", 60, 0, "", {}, {}, "")
_TOLD = AfterStep("manual", {"instruction": "tell"}, "low", 60, 0)
MIXED = Plan((step(), _PERSON), "digest", "", (_TOLD,))
ANY = st.sampled_from(
    [
        Admitted(()),
        Refused("g", "d"),
        Collected("b", {}),
        Decided((), plan(2)),
        Decided((), plan(1, ApprovalNeed("r", 1))),
        Decided((), plan(2, escalate="call ann")),
        Decided((), FOLLOWED),
        Decided((), MIXED),
        Decided((), replace(MIXED, steps=MIXED.steps[::-1])),
        Decided((), replace(MIXED, escalate="call ann")),
        *(PersonAnswered(number, done, "ana") for number in (1, 2, 3) for done in (True, False)),
        PersonAnswered(1, True, "ana", "", (GuardResult("freeze", False, "fair"),)),
        Finished(0, OK),
        Finished(1, FAILED),
        Verified(HOLDS.results, ("a: somebody changed it",)),
        APPROVED,
        Applied(0, OK),
        Applied(1, OK),
        Applied(0, FAILED),
        Applied(1, Outcome(Status.TIMED_OUT)),
        HOLDS,
        Verified((ProbeResult("p", "t", Verdict.FAILS, ()),)),
        Verified(()),
        Confirmed(True),
        Confirmed(False),
        Undone((StepUndo("a", "restored"),)),
        Undone((StepUndo("a", "failed"),)),
        Recovered("killed"),
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(ANY, max_size=25))
def test_whatever_happens_the_laws_hold(happenings):
    run, effect = make_run(), Effect.ADMIT
    for happening in happenings:
        try:
            run, effect = advance(run, happening, 1)
        except ImpossibleHappening:
            continue
        assert (effect is None) == run.ended
    if run.state is RunState.SUCCEEDED:
        assert run.plan is not None
        assert {outcome.status for outcome in run.applied} == {Status.OK}
        assert [each.step for each in run.finished] == list(run.after), "what follows was tried, each once"
        kept = run.attempted - run.taken_back
        assert kept == (1 if run.plan.escalate else len(run.plan.steps)), "all of a plan is kept, or one of a chain"
        assert all(result.verdict is Verdict.HOLDS for result in run.results)
        assert run.results
    if run.state is RunState.REFUSED:
        assert not run.applied, "refused means nothing was changed"
    if run.finished:
        on = (RunState.FINISHING, RunState.AWAITING_PERSON, RunState.SUCCEEDED)
        assert run.state in on, "what follows never takes a repair back"
    assert (run.asked is None) == (run.state is not RunState.AWAITING_PERSON)
    if run.attempted and run.ended and run.state is not RunState.SUCCEEDED:
        assert run.undo, "what was tried is undone or says why not"


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY, max_size=25))
def test_a_run_that_takes_another_one_back_applies_nothing_and_ends_only_by_what_it_took_back(happenings):
    run, effect = replace(make_run(), undoes="a" * 16), Effect.ADMIT
    for happening in happenings:
        try:
            run, effect = advance(run, happening, 1)
        except ImpossibleHappening:
            continue
        assert (effect is None) == run.ended
        assert effect not in (Effect.ASK, Effect.APPLY, Effect.VERIFY, Effect.CONFIRM, Effect.FINISH)
    assert not run.applied
    if run.state is RunState.SUCCEEDED:
        assert run.approved_by
        assert {undo.result for undo in run.undo} <= {"restored", "nothing_to_do"}


@pytest.mark.parametrize("state", sorted(ENDED))
def test_an_ended_run_stays_ended(state):
    run = replace(make_run(), state=state)
    for happening in (Admitted(()), Recovered("x"), Applied(0, OK), Undone(())):
        with pytest.raises(ImpossibleHappening):
            advance(run, happening, 1)
