"""Steps after success: only once it is proven, only if their step changed the host, and never against the repair."""

from __future__ import annotations

import pytest

from osremed.core.action import Outcome, Status
from osremed.core.probe import Verdict
from osremed.notify.message import of_run
from osremed.runbook.lint import lint_text
from osremed.runbook.model import (
    AfterStep,
    Applied,
    Approved,
    Confirmed,
    Decided,
    Finished,
    Plan,
    ProbeResult,
    Recovered,
    RunState,
    StepUndo,
    Undone,
    Verified,
)
from osremed.runbook.state import Effect, ImpossibleHappening
from osremed.runbook.text import parse_text
from tests.unit.runbook.test_irreversible import HEAD, LIMIT, Host, run_of
from tests.unit.runbook.test_state import APPROVED, FAILED, HOLDS, OK, START, step, walk

BACK = """
after_success:
  - {if_changed: limit, action: gpu_drain, with: {scheduler: slurm, node: n1, state: resumed}, timeout: 2m}
"""
ASKED = "    approval: {required: risk >= 'medium', timeout: 30s}\n"
UNASKED = '    approval: {required: "false", timeout: 30s}\n'
NAMED = LIMIT.replace("- when:", "- id: limit\n    when:") + UNASKED
SAME = Outcome(Status.OK)


def plan(*follows):
    after = tuple(AfterStep("gpu_drain", {"state": "resumed"}, "high", 60, number) for number in follows)
    return Plan((step(), step()), "digest", "", after)


def proven(*follows, first=OK, second=OK):
    return [
        *START,
        Decided((), plan(*follows)),
        APPROVED,
        Applied(0, first),
        Applied(1, second),
        HOLDS,
        Confirmed(True),
    ]


def test_only_what_follows_a_change_is_done_and_in_its_order():
    run, effect = walk(*proven(1, 0, 1, first=SAME))
    assert (run.state, effect, run.after) == (RunState.FINISHING, Effect.FINISH, (0, 2))
    run, effect = walk(*proven(1, 0, 1, first=SAME), Finished(0, OK), Finished(2, OK))
    assert (run.state, effect, run.reason) == (RunState.SUCCEEDED, None, "every verification held")
    assert walk(*proven(0, first=SAME))[0].state is RunState.SUCCEEDED, "nothing follows what changed nothing"


def test_what_follows_a_remedy_that_was_taken_back_is_not_done():
    chain = Plan((step(), step()), "digest", "ask ann", plan(0, 1).after)
    fails = Verified((ProbeResult("p", "t", Verdict.FAILS, ()),))
    first = [*START, Decided((), chain), APPROVED, Applied(0, OK), fails, Undone((StepUndo("a", "restored"),))]
    run, _ = walk(*first, Approved("policy", "digest", ()), Applied(1, OK), HOLDS, Confirmed(True))
    assert run.after == (1,)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_step_that_fails_undoes_nothing_and_a_person_is_told_what_is_left(status):
    run, effect = walk(*proven(0, 1), Finished(0, Outcome(status, detail="no answer")), Finished(1, OK))
    assert (run.state, effect, run.undo) == (RunState.SUCCEEDED, None, ())
    assert f"TO BE DONE BY HAND: gpu_drain (state: resumed): {status.value}: no answer" in run.reason
    message = of_run(run)
    assert message.severity == "warning"
    assert "left to do by hand" in message.title


def test_after_a_crash_the_step_under_way_is_tried_once_more_and_nothing_is_undone():
    run, effect = walk(*proven(0, 1), Finished(0, FAILED), Recovered("killed"))
    assert (run.state, effect, len(run.finished)) == (RunState.FINISHING, Effect.FINISH, 1)


@pytest.mark.parametrize("happening", [Finished(1, OK), HOLDS, Confirmed(False), Applied(2, OK)])
def test_nothing_else_can_happen_to_a_repair_that_is_proven(happening):
    with pytest.raises(ImpossibleHappening):
        walk(*proven(0, 1), happening)


def test_the_engine_does_it_after_the_host_keeps_the_change(tmp_path):
    host = Host()
    run = run_of(tmp_path, HEAD + NAMED + BACK, host)
    assert run.state is RunState.SUCCEEDED, run.reason
    assert [name for name, _ in host.asked] == ["sysctl", "undo", "gpu_drain"]
    assert host.asked[-1][1] == {"scheduler": "slurm", "node": "n1", "state": "resumed"}


def test_an_approver_sees_what_will_follow_and_approves_it_too(tmp_path):
    with_it = run_of(tmp_path / "a", HEAD + NAMED + BACK, Host()).plan
    without = run_of(tmp_path / "b", HEAD + NAMED, Host()).plan
    assert with_it.digest != without.digest
    assert with_it.order == (
        "once verified, if sysctl changed the host: gpu_drain (scheduler: slurm, node: n1, state: resumed)",
    )


def test_when_it_does_not_help_nothing_follows(tmp_path):
    host = Host(holds=False)
    assert run_of(tmp_path, HEAD + NAMED + BACK, host).state is RunState.UNDONE
    assert "gpu_drain" not in dict(host.asked)


def test_nothing_is_changed_when_what_has_to_follow_cannot_be_told(tmp_path):
    host = Host()
    run = run_of(tmp_path, HEAD + NAMED + BACK.replace("node: n1", "node: '{{ event.nowhere }}'"), host)
    assert (run.state, host.asked) == (RunState.REFUSED, [])
    assert "what follows success" in run.reason


@pytest.mark.parametrize("asks", [ASKED, UNASKED, ASKED.replace("risk >= 'medium'", "event.level == 'high'")])
def test_lint_lets_what_follows_be_of_high_risk_where_somebody_is_asked_or_it_is_said_that_nobody_is(asks):
    text = HEAD + NAMED.replace(UNASKED, asks) + BACK
    assert lint_text(parse_text(text.encode(), "rb.yaml"))[1] == ()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (NAMED + BACK.replace("if_changed: limit", "if_changed: limits"), "unknown step 'limits'"),
        (LIMIT + BACK, "unknown step 'limit'"),
        (NAMED + NAMED + BACK, "two steps have the id 'limit'"),
        (NAMED.replace(UNASKED, "") + BACK, "gpu_drain is of high risk and no approval is asked for"),
        (NAMED.replace('"false"', "risk > 'high'") + BACK, "gpu_drain is of high risk and no approval is asked for"),
        (NAMED + BACK.replace("gpu_drain", "gpu_reset"), "gpu_reset does something each time"),
        (NAMED + BACK.replace("gpu_drain", "gpu_drains"), "unknown action 'gpu_drains'"),
        (NAMED + BACK.replace("node: n1", "nodes: n1"), "gpu_drain has no argument 'nodes'"),
        (NAMED + BACK.replace("n1", "'{{ nothing.here }}'"), "nothing"),
        (NAMED + BACK.replace("timeout: 2m", "timeout: 2"), "has no unit"),
    ],
)
def test_lint_holds_what_follows_to_what_an_action_takes(text, what):
    errors = [str(error) for error in lint_text(parse_text((HEAD + text).encode(), "rb.yaml"))[1]]
    assert any(what in error for error in errors), errors
