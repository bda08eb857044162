"""What people answer a run that waits, on the command line: once, and to the plan they saw."""

from __future__ import annotations

import pytest

from osremed.cli.main import main
from osremed.core.journal import read_journal
from osremed.flows.settings import ControlPaths
from osremed.runbook.approvals import read_approval
from osremed.runbook.store import RunStore
from osremed.runbook.ticks import read_tick
from tests.support.asking import asking_run, waiting_run


@pytest.fixture
def state(tmp_path):
    return str(tmp_path / "control")


def audited(state):
    return [(entry.record["verb"], entry.record["run_id"]) for entry in read_journal(ControlPaths(state).hands).entries]


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
