"""A run with a step after success, killed at any line: the node is always given back, and a proven repair stays."""

import json
import subprocess
import sys

import pytest

from osremed.runbook.model import RunState
from osremed.runbook.store import RunStore
from tests.crash.test_crash import OLD, ROOT, recover

RUNBOOK = "tests/crash/cordons.yaml"
#: raised, admitted, collected, decided, approved, applied, applied, verified, confirmed and finished, or undone
LINES = {"helps": 10, "hurts": 9}
POINTS = [
    (helps, when, number)
    for helps, count in LINES.items()
    for number in range(1, count + 1)
    for when in ("before", "after")
]
#: Of the two changes of the scheduler: before each, after each.
POINTS += [(helps, "scheduler", number) for helps in LINES for number in (1, 2, 3, 4)]


def crash(tmp_path, helps, when, number):
    store, host = str(tmp_path / "runs"), tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    argv = [sys.executable, "-m", "tests.crash.driver", store, str(host), helps, when, str(number), RUNBOOK]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return store, host, ended


def takes_work(host):
    node = host / "node.json"
    return not node.exists() or not json.loads(node.read_text())["spec"]["unschedulable"]


@pytest.mark.parametrize(("helps", "when", "number"), POINTS, ids=["-".join(map(str, point)) for point in POINTS])
def test_a_run_killed_here_gives_the_node_back_and_keeps_what_was_proven(tmp_path, helps, when, number):
    store, host, ended = crash(tmp_path, helps, when, number)
    assert ended.returncode == -9, ended.stdout + ended.stderr
    kinds = [happening.kind for _, happening in kept(store)]
    runs = recover(store, host, helps)
    assert takes_work(host)
    if not runs:
        assert (when, number) == ("before", 1)
        return
    (run,) = runs
    if "confirmed" in kinds:
        assert run.state is RunState.SUCCEEDED, "a proven repair is never taken back"
    if run.state is RunState.SUCCEEDED:
        assert b'"medium"' in (host / "fastoom.json").read_bytes()
        assert [each.step for each in run.finished] == [0]
    else:
        assert run.state is RunState.UNDONE, run.reason
        assert (host / "fastoom.json").read_bytes() == OLD


def kept(store):
    found = RunStore(store)
    return [line for run_id in found.run_ids() for line in found.happenings(run_id)]


@pytest.mark.parametrize("helps", sorted(LINES))
def test_without_a_crash_the_run_writes_exactly_these_lines(tmp_path, helps):
    store, host, ended = crash(tmp_path, helps, "before", 99)
    assert ended.stdout.split() == (["SUCCEEDED", "finished"] if helps == "helps" else ["UNDONE", "undone"])
    assert len(kept(store)) == LINES[helps]
    assert takes_work(host)
