"""What a look at all runs reads: what is new or has moved, and at a start what the index does not tell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.clock import FakeClock
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import Refused
from osremed.runbook.store import RunStore
from tests.support.kept import ask, drive_answered, kept_run, operator_on
from tests.unit.runbook.conftest import ROOT, make_event

ENDED, GOING_ON = 6, 3
_OPENED: list[str] = []
_LISTENS = [False]


def _hear(event, arguments):
    if _LISTENS[0] and event == "open" and isinstance(arguments[0], str):
        _OPENED.append(arguments[0])


sys.addaudithook(_hear)  # Python's own: it hears each open, whoever asks


def read_while(work):
    """(what `work` gives, the journals it opened)."""
    _OPENED.clear()
    _LISTENS[0] = True
    try:
        told = work()
    finally:
        _LISTENS[0] = False
    return told, [path for path in _OPENED if path.endswith(".jsonl")]


@pytest.fixture
def runs(tmp_path, entry, clock):
    """Six runs that ended, one of them taken back and one that takes back, and three that go on."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(
        b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'
    )
    where = operator_on(tmp_path / "runs", host, clock=FakeClock())
    drive_answered(where, ask(where, kept_run(where, entry, make_event(0))))
    for number in range(1, ENDED + GOING_ON - 1):
        opened = where.store.create(make_event(number, f"node-{number}"), entry, clock)
        if number < ENDED - 1:
            opened.record(Refused("storm", "enough", ()), clock)
        opened.close()
    return where.store.directory


def indexed(directory):
    store = RunStore(directory)
    store.runs()
    while store.keep_index(2):
        pass
    return store


def test_a_second_look_reads_no_journal(runs):
    store = RunStore(runs)
    first, read = read_while(store.runs)
    assert (len(first[0]), len(read) >= ENDED + GOING_ON) == (ENDED + GOING_ON, True)
    again, read = read_while(store.runs)
    assert (again, read) == (first, [])


def test_a_look_reads_what_moved_and_what_is_new_and_nothing_else(runs, entry, clock):
    store, other = RunStore(runs), RunStore(runs)
    going_on = [run for run in store.runs()[0] if not run.ended]
    opened = other.open(going_on[0].run_id)
    opened.record(Refused("storm", "enough", ()), clock)
    opened.close()
    new = other.create(make_event(99), entry, clock)
    new.close()
    told, read = read_while(store.runs)
    assert {os.path.basename(os.path.dirname(os.path.dirname(path))) for path in read} == {
        going_on[0].run_id,
        new.run.run_id,
    }
    assert told == RunStore(runs).runs()
    assert [run.ended for run in told[0] if run.run_id == going_on[0].run_id] == [True]


def test_who_starts_reads_the_index_and_only_those_journals_that_go_on(runs):
    plain = RunStore(runs).runs()
    indexed(runs)
    told, read = read_while(RunStore(runs).runs)
    assert told == plain
    assert len({os.path.dirname(path) for path in read}) == GOING_ON
    assert [run.undone_by != "" for run in told[0]].count(True) == 1


def test_a_journal_that_was_touched_since_is_read_again_and_its_damage_is_told(runs):
    indexed(runs)
    run = next(run for run in RunStore(runs).runs()[0] if run.ended)
    journal = RunStore(runs).of(run.run_id).journal
    segment = os.path.join(journal, min(os.listdir(journal)))
    seen = os.stat(segment)
    with open(segment, "r+b") as stream:
        stream.seek(40)
        stream.write(b"X")
    os.utime(segment, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # who hides it cannot hide that it was changed
    found, damaged = RunStore(runs).runs()
    assert run.run_id not in {each.run_id for each in found}
    assert len(damaged) == 1


def test_a_run_that_was_removed_is_told_by_nobody(runs):
    store = indexed(runs)
    gone = next(run for run in store.runs()[0] if run.ended and not run.undoes and not run.undone_by)
    store.remove(gone.run_id)
    for each in (store, RunStore(runs)):
        assert gone.run_id not in {run.run_id for run in each.runs()[0]}
        assert each.runs()[1] == ()
    assert not [name for name in os.listdir(runs) if gone.run_id in name]


def test_what_a_removal_left_is_no_run_and_is_swept(runs):
    store = RunStore(runs)
    gone = next(run for run in store.runs()[0] if run.ended).run_id
    os.rename(store.of(gone).path, os.path.join(runs, f".gone-{gone}"))  # killed after its first step
    found = store.runs()
    assert (gone in {run.run_id for run in found[0]}, found[1]) == (False, ())
    store.sweep()
    assert not os.path.exists(os.path.join(runs, f".gone-{gone}"))


@pytest.mark.parametrize("spoil", ["another release", "torn", "unreadable", "other files"])
def test_an_index_that_is_wrong_costs_a_reading_and_no_more(runs, spoil):
    plain = RunStore(runs).runs()
    indexed(runs)
    path = os.path.join(runs, "index")
    with open(path, "rb") as stream:
        content = stream.read()
    if spoil == "other files":  # as after a restored backup
        shutil.copytree(runs, f"{runs}-copy")
        runs, path = f"{runs}-copy", os.path.join(f"{runs}-copy", "index")
    else:
        with open(path, "wb") as stream:
            texts = {"torn": content[:-300], "unreadable": b"\xff" * 500}
            stream.write(texts.get(spoil, content.replace(b"osremed runs", b"another runs", 1)))
    assert RunStore(runs).runs() == plain
    indexed(runs)
    told, read = read_while(RunStore(runs).runs)
    assert told == plain
    assert len({os.path.dirname(each) for each in read}) == GOING_ON


@given(noise=st.binary(max_size=200), at=st.integers(0, 20_000))
def test_no_byte_of_the_index_can_change_what_is_told(tmp_path_factory, noise, at):
    directory, plain, content = _whole(tmp_path_factory)
    at %= len(content)
    with open(os.path.join(directory, "index"), "wb") as stream:
        stream.write(content[:at] + noise + content[at + len(noise) // 2 :])
    assert RunStore(directory).runs() == plain


_WHOLE: list = []


def _whole(tmp_path_factory):
    """One store for all examples, with its index."""
    if not _WHOLE:
        directory = str(tmp_path_factory.mktemp("noise"))
        store, clock = RunStore(directory), FakeClock()
        entry = load_entry(str(ROOT / "runbooks/near-oom/runbook.yaml"))
        for number in range(3):
            opened = store.create(make_event(number), entry, clock)
            opened.record(Refused("storm", "enough", ()), clock)
            opened.close()
        plain = indexed(directory).runs()
        with open(os.path.join(directory, "index"), "rb") as stream:
            _WHOLE.extend((directory, plain, stream.read()))
    return _WHOLE


WRITES = """
import sys
from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.runbook.catalog import load_entry
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import Refused
from osremed.runbook.store import RunStore
store, entry = RunStore(sys.argv[1]), load_entry("runbooks/near-oom/runbook.yaml")
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    opened = store.create(Event(f"e{number}", "memory.near_oom", "web-1", 1), entry, SystemClock())
    opened.record(Refused("storm", "enough", ()), SystemClock())
    opened.close()
    store.runs()
    store.keep_index(1)
    if number % 3 == 2:
        store.remove(opened.run.run_id)
print("done", flush=True)
"""


def test_who_reads_while_another_writes_indexes_and_removes_sees_only_runs_that_were(tmp_path):
    argv = [sys.executable, "-c", WRITES, str(tmp_path), "60"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        writer.stdin.write("go\n")
        writer.stdin.flush()
        warm = RunStore(str(tmp_path))
        while writer.poll() is None:
            for store in (warm, RunStore(str(tmp_path))):
                found, damaged = store.runs()
                assert damaged == ()
                assert {run.reason for run in found} <= {"raised", "storm: enough"}
        assert writer.returncode == 0
    assert warm.runs() == RunStore(str(tmp_path)).runs()
    assert len(warm.runs()[0]) == 40
