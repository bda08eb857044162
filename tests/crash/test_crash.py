"""A run killed at any line ends, after recovery, in an allowed state, and its policy file is old or new, never torn."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osremed.core.clock import SystemClock
from osremed.runbook.model import Recovered, RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from tests.support.acting import acts
from tests.support.module_executor import ModuleExecutor

ROOT = Path(__file__).resolve().parents[2]
OLD = b'{"apiVersion": "osremed/v1",\n  "kind": "FastoomPolicy", "sensitivity": "low",   "scopes": [{"node": true}]}\n'
#: raised, admitted, collected, decided, approved, applied, verified, confirmed or undone
LINES = 8
POINTS = [(when, number) for number in range(1, LINES + 1) for when in ("before", "after")]
POINTS += [("inside", 0), ("inside", 1)]


def crash(tmp_path, helps, when, number):
    store, host = str(tmp_path / "runs"), tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    argv = [sys.executable, "-m", "tests.crash.driver", store, str(host), helps, when, str(number)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return store, host, ended


def finish(operator):
    """Every unfinished run is driven to its end."""
    runs, damaged = operator.store.runs()
    assert damaged == ()
    for run in runs:
        if not run.ended:
            opened = operator.store.open(run.run_id)
            opened.record(Recovered("test"), operator.clock)
            asyncio.run(drive(operator, opened, operator.store.runbook_of(run.run_id)))
            opened.close()


def recover(store, host, helps):
    """What the next dispatcher does: finish every unfinished run."""
    operator = Operator(
        ModuleExecutor(str(host), helps=helps == "helps"),
        RunStore(store),
        SystemClock(),
        frozenset({"node-1"}),
        restrict=acts,
    )
    finish(operator)
    return RunStore(store).runs()[0]


@pytest.mark.parametrize("helps", ["helps", "hurts"])
@pytest.mark.parametrize(("when", "number"), POINTS, ids=[f"{when}-line-{number}" for when, number in POINTS])
def test_a_run_killed_here_recovers_to_an_allowed_end(tmp_path, helps, when, number):
    store, host, ended = crash(tmp_path, helps, when, number)
    assert ended.returncode == -9, ended.stdout + ended.stderr
    runs = recover(store, host, helps)
    policy = (host / "fastoom.json").read_bytes()
    if not runs:  # killed before the run existed: its event would be delivered again
        assert (when, number) == ("before", 1)
        assert policy == OLD
        return
    (run,) = runs
    assert run.state in (RunState.SUCCEEDED, RunState.UNDONE), run.reason
    if run.state is RunState.SUCCEEDED:
        assert helps == "helps"
        assert b'"medium"' in policy
    else:
        assert policy == OLD, "undone means byte for byte"
    assert [name for name in os.listdir(host / "undo") if name != ".lock"] == [], "no deadline is left on the host"
    leftovers = [name for name in os.listdir(host) if name not in ("fastoom.json", "undo", "scratch", "agent.json")]
    assert [name for name in leftovers if not name.endswith("lock")] == []


@pytest.mark.parametrize(("helps", "state"), [("helps", "SUCCEEDED"), ("hurts", "UNDONE")])
def test_without_a_crash_the_run_writes_exactly_these_lines(tmp_path, helps, state):
    store, _host, ended = crash(tmp_path, helps, "before", 99)
    assert ended.stdout.split() == [state, "confirmed" if helps == "helps" else "undone"]
    kinds = [happening.kind for _, happening in RunStore(store).happenings(RunStore(store).run_ids()[0])]
    assert len(kinds) == LINES


def test_a_second_crash_during_recovery_is_recovered_too(tmp_path):
    store, host, _ = crash(tmp_path, "hurts", "after", 6)
    code = (
        "import sys, asyncio; from tests.crash import driver; driver.arm('before', 3);"
        "from tests.crash.test_crash import recover; recover(sys.argv[1], sys.argv[2], 'hurts')"
    )
    again = subprocess.run([sys.executable, "-c", code, store, str(host)], cwd=ROOT, timeout=60, check=False)
    assert again.returncode in (-9, 0)
    (run,) = recover(store, host, "hurts")
    assert run.state is RunState.UNDONE
    assert (host / "fastoom.json").read_bytes() == OLD
