"""A run that asks people, killed at any line: it goes on, nobody is asked twice for what they answered, and a no, or a
change whose outcome is not known, is taken back byte for byte."""

import subprocess
import sys

import pytest

from osremed.runbook.model import PersonAnswered, RunState
from osremed.runbook.store import RunStore, open_unfinished
from tests.crash.ask_driver import drive_answered, operator_on
from tests.crash.test_crash import OLD, ROOT

#: raised, admitted, collected, decided, approved, applied, answered, then verified, confirmed, answered, or undone
LINES = {("helps", "yes"): 10, ("hurts", "yes"): 9, ("helps", "no"): 8}
POINTS = [
    (*kind, when, number)
    for kind, count in LINES.items()
    for number in range(1, count + 1)
    for when in ("before", "after")
]
POINTS += [("helps", "yes", "ticked", 2), ("helps", "yes", "ticked", 3), ("helps", "no", "ticked", 2)]


def crash(tmp_path, *how):
    store, host = str(tmp_path / "runs"), tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    argv = [sys.executable, "-m", "tests.crash.ask_driver", store, str(host), *map(str, how)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return store, host, ended


def recover(store, host, helps, says):
    operator = operator_on(store, str(host), helps)
    for opened in open_unfinished(operator.store, operator.clock, "test"):
        drive_answered(operator, opened, says)
    return RunStore(store).runs()[0]


@pytest.mark.parametrize(
    ("helps", "says", "when", "number"), POINTS, ids=["-".join(map(str, point)) for point in POINTS]
)
def test_a_run_killed_here_goes_on_and_keeps_what_people_said(tmp_path, helps, says, when, number):
    store, host, ended = crash(tmp_path, helps, says, when, number)
    assert ended.returncode == -9, ended.stdout + ended.stderr
    before = [each for _, each in lines(store)]
    runs = recover(store, host, helps, says)
    policy = (host / "fastoom.json").read_bytes()
    if not runs:
        assert (when, number) == ("before", 1)
        return
    (run,) = runs
    if run.state is RunState.SUCCEEDED:
        assert (helps, says) == ("helps", "yes")
        assert b'"medium"' in policy
        assert [(each.number, each.done, each.by) for each in run.answered] == [(2, True, "ana"), (3, True, "ana")]
    else:
        assert run.state is RunState.UNDONE, run.reason
        assert policy == OLD
    if "confirmed" in [each.kind for each in before]:
        assert run.state is RunState.SUCCEEDED, "a proven repair is never taken back"
    said = [each for each in before if isinstance(each, PersonAnswered)]
    assert list(run.answered[: len(said)]) == said


@pytest.mark.parametrize("number", [2, 3])
def test_while_it_waits_the_change_stays_and_an_answer_given_meanwhile_counts(tmp_path, number):
    store, host, _ended = crash(tmp_path, "helps", "yes", "ticked", number)
    (run,) = RunStore(store).runs()[0]
    assert (run.state, run.asked.number) == (RunState.AWAITING_PERSON, number)
    (after,) = recover(store, host, "helps", "no" if number == 3 else "yes")
    assert after.state is RunState.SUCCEEDED
    assert all(each.done for each in after.answered), "what was said first is what counts"


def lines(store):
    found = RunStore(store)
    return [line for run_id in found.run_ids() for line in found.happenings(run_id)]


@pytest.mark.parametrize("kind", LINES, ids="-".join)
def test_without_a_crash_the_run_writes_exactly_these_lines(tmp_path, kind):
    store, _host, ended = crash(tmp_path, *kind, "before", 99)
    told = ["SUCCEEDED", "answered"] if kind == ("helps", "yes") else ["UNDONE", "undone"]
    assert ended.stdout.split() == told, ended.stderr
    assert len(lines(store)) == LINES[kind]
