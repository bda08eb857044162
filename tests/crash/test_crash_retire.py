"""Kept runs put in order, killed before any change of the disk: no run is half there, none is forgotten, and the next
time ends it."""

import subprocess
import sys

import pytest

from osremed.core.clock import FakeClock
from osremed.runbook.audit import verify
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import Refused
from osremed.runbook.retention import retired
from osremed.runbook.stats import grades
from osremed.runbook.store import RunStore
from tests.crash.retire_driver import DAYS, put_in_order
from tests.crash.test_crash import ROOT
from tests.unit.runbook.conftest import make_event

OLD, NEW = 2, 2


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Runs that need not be kept, and runs that do, with an index of all."""
    folder = tmp_path_factory.mktemp("state")
    clock, store = FakeClock(), RunStore(str(folder / "runs"))
    entry = load_entry(str(ROOT / "runbooks/near-oom/runbook.yaml"))
    for number in range(OLD + NEW):
        if number == OLD:
            clock.advance((DAYS - 1) * 86400)
        opened = store.create(make_event(number, f"node-{number}"), entry, clock)
        opened.record(Refused("storm", "enough", ()), clock)
        opened.close()
    store.runs()
    store.keep_index()
    return folder


def counted(folder):
    removed, _seq = retired(str(folder / "hands"))
    return grades(RunStore(str(folder / "runs")).runs()[0], removed=removed)


def test_killed_at_any_change_of_the_disk_nothing_is_half_there_and_the_next_time_ends_it(state, tmp_path):
    argv = [sys.executable, "-m", "tests.crash.retire_driver", str(state), str(tmp_path)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    killed, code = map(int, ended.stdout.split())
    assert code == 0
    assert killed > 8 * OLD  # a run is a handful of files, the audit and the index are others
    before = counted(state)
    for number in range(1, killed + 2):
        folder = tmp_path / str(number)
        found, damaged = RunStore(str(folder / "runs")).runs()
        assert damaged == ()
        assert OLD + NEW >= len(found) >= NEW
        assert counted(folder) == before
        where = put_in_order(str(folder))
        assert len(where.store.runs()[0]) == NEW
        assert not [name for name in (folder / "runs").iterdir() if name.name.startswith(".gone-")]
        assert RunStore(where.store.directory).runs() == where.store.runs()
        assert counted(folder) == before
        assert verify(str(folder / "hands")).faults == ()
