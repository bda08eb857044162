"""What people answer a run that waits, on the command line: once, and to the plan they saw."""

from __future__ import annotations

import os

import pytest

from osremed.cli.main import main
from osremed.core.journal import read_journal
from osremed.flows.settings import ControlPaths
from osremed.runbook.approvals import read_approval
from osremed.runbook.audit import person
from osremed.runbook.store import RunStore
from osremed.runbook.ticks import read_tick
from tests.support.asking import DIGEST, OTHER, asking_run, waiting_run, with_another_plan


@pytest.fixture
def state(tmp_path):
    return str(tmp_path / "control")


def audited(state):
    hands = ControlPaths(state).hands
    entries = read_journal(hands).entries if os.path.isdir(hands) else ()
    return [(entry.record["verb"], entry.record["run_id"]) for entry in entries]


def answer_of(state, run):
    runs = ControlPaths(state).runs
    return read_approval(RunStore(runs).of(run.run_id), RunStore(runs).load(run.run_id)[0].plan.digest)


@pytest.mark.parametrize(("first", "second", "said"), [("approve", "deny", "approved"), ("deny", "approve", "denied")])
def test_the_second_answer_is_refused_and_in_no_record(state, capsys, first, second, said):
    run = waiting_run(ControlPaths(state).runs)
    assert main(["runs", first, run.run_id, "--state", state, "--reason", "seen"]) == 0
    assert main(["runs", second, run.run_id, "--state", state]) == 2
    told = capsys.readouterr().err
    assert f"run {run.run_id} has its answer already: {said} by " in told
    assert "the first answer holds" in told
    assert answer_of(state, run).approved is (first == "approve")
    assert audited(state) == [(first, run.run_id)]


def test_a_step_that_was_refused_is_not_ticked_afterwards(state, capsys):
    run = asking_run(ControlPaths(state).runs)
    assert main(["runs", "refuse", run.run_id, "1", "--state", state, "--words", "a training ends tonight"]) == 0
    assert main(["runs", "tick", run.run_id, "1", "--state", state]) == 2
    assert "has its answer already: not done, says " in capsys.readouterr().err
    assert read_tick(RunStore(ControlPaths(state).runs).of(run.run_id), 1, "digest").done is False
    assert audited(state) == [("refuse", run.run_id)]


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_a_plan_that_came_after_the_one_that_was_seen_is_not_answered(state, capsys, verb):
    """The run was recovered between the look and the answer."""
    runs = ControlPaths(state).runs
    run = waiting_run(runs)
    assert main(["runs", "show", run.run_id, "--state", state]) == 6
    assert f"osremed runs approve {run.run_id} --plan {DIGEST[:12]}" in capsys.readouterr().out
    with_another_plan(runs, run.run_id)
    assert main(["runs", verb, run.run_id, "--plan", DIGEST[:12], "--state", state]) == 2
    told = capsys.readouterr().err
    assert f"waits with plan {OTHER[:12]}, not with '{DIGEST[:12]}'" in told
    assert f"look again: osremed runs show {run.run_id}" in told
    assert (answer_of(state, run), audited(state)) == (None, [])
    assert main(["runs", verb, run.run_id, "--plan", OTHER[:12], "--state", state]) == 0
    assert f"by {person()}: plan {OTHER[:12]} of run {run.run_id}" in capsys.readouterr().out
    assert answer_of(state, run).plan_digest == OTHER


@pytest.mark.parametrize("seen", [DIGEST[:11], "0", OTHER, OTHER[:12], DIGEST + "c", DIGEST[1:], DIGEST.upper()])
def test_what_does_not_name_the_plan_answers_nothing(state, capsys, seen):
    run = waiting_run(ControlPaths(state).runs)
    assert main(["runs", "approve", run.run_id, "--plan", seen, "--state", state]) == 2
    assert f"waits with plan {DIGEST[:12]}, not with '{seen}'" in capsys.readouterr().err
    assert (answer_of(state, run), audited(state)) == (None, [])


@pytest.mark.parametrize("seen", [DIGEST, DIGEST[:12], DIGEST[:40]])
def test_the_whole_digest_or_how_it_begins_names_the_plan(state, seen):
    run = waiting_run(ControlPaths(state).runs)
    assert main(["runs", "approve", run.run_id, "--plan", seen, "--state", state]) == 0
    assert answer_of(state, run).plan_digest == DIGEST


def test_who_sits_at_the_command_line_may_leave_it_out_and_is_told_which_plan_it_was(state, capsys):
    run = waiting_run(ControlPaths(state).runs)
    assert main(["runs", "approve", run.run_id, "--state", state]) == 0
    assert f"plan {DIGEST[:12]} of run {run.run_id}" in capsys.readouterr().out
