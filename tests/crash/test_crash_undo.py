"""A run that takes another one back, killed at any line: it goes on, and the host is as it was, byte for byte."""

import subprocess
import sys

import pytest

from osremed.runbook.model import RunState
from osremed.runbook.store import RunStore, open_unfinished
from tests.crash.test_crash import OLD, ROOT
from tests.support.kept import drive_answered, operator_on

#: raised, admitted, collected, decided, approved, undone
LINES = 6
POINTS = [(when, number) for number in range(1, LINES + 1) for when in ("before", "after")]
POINTS += [("inside", 0), ("inside", 1)]


def crash(tmp_path, when, number):
    store, host = str(tmp_path / "runs"), tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    argv = [sys.executable, "-m", "tests.crash.undo_driver", store, str(host), when, str(number)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return store, host, ended


@pytest.mark.parametrize(("when", "number"), POINTS, ids=[f"{when}-line-{number}" for when, number in POINTS])
def test_it_goes_on_where_it_was_killed_and_the_other_run_stays_as_it_was(tmp_path, when, number):
    store, host, ended = crash(tmp_path, when, number)
    assert ended.returncode == -9, ended.stdout + ended.stderr
    where = operator_on(store, host)
    for opened in open_unfinished(where.store, where.clock, "test"):
        assert drive_answered(where, opened).state is RunState.SUCCEEDED
    old = next(run for run in RunStore(store).runs()[0] if not run.undoes)
    assert old.state is RunState.SUCCEEDED
    begun = (when, number) != ("before", 1)
    assert bool(old.undone_by) is begun
    assert ((host / "fastoom.json").read_bytes() == OLD) is begun


def test_without_a_crash_the_run_writes_exactly_these_lines(tmp_path):
    store, _host, ended = crash(tmp_path, "before", 99)
    assert ended.stdout.split() == ["SUCCEEDED", "undone"], ended.stderr
    found = RunStore(store)
    old = next(run for run in found.runs()[0] if not run.undoes)
    assert len(found.happenings(old.undone_by)) == LINES
