"""Canaries that are over go when they are old or many, never one that goes on or that a kept run is of; then what
requests left behind."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from osremed.core.clock import FakeClock
from osremed.core.journal import read_journal
from osremed.runbook import canaryretention
from osremed.runbook.audit import Audit, verify
from osremed.runbook.canary import Ended, HostEnded, Planned, Stop, WaveBegan
from osremed.runbook.canaryretention import forget_requests, outlived_canaries, retire_canaries
from osremed.runbook.fanout import _line, begin, canary_ids, driving, event_id_of, write_stop
from osremed.runbook.model import Refused, RunState
from osremed.runbook.retention import Keep, retire
from osremed.runbook.store import RunStore
from tests.support.kept import operator_on
from tests.unit.runbook.conftest import BEGIN_NS, make_event

DAY_NS = 86400 * 10**9
DAY = 86400
NOW_NS = BEGIN_NS + 1000 * DAY_NS


def gone(days_ago, keep, counted=()):
    written = {str(days): NOW_NS - days * DAY_NS for days in days_ago}
    return [int(name) for name in outlived_canaries(written, keep, counted=counted, now_ns=NOW_NS)]


def test_what_is_too_old_or_too_many_goes_the_oldest_first():
    assert gone(range(2, 8), Keep(most=0, age_s=5 * DAY)) == [7, 6, 5]
    assert gone(range(2, 8), Keep(most=4, age_s=0)) == [7, 6]
    assert gone(range(2, 8), Keep(most=0, age_s=0)) == []


def test_one_of_today_stays_and_one_that_a_kept_run_is_of():
    assert gone([0, 1, 2, 3], Keep(most=1, age_s=1), counted={"3"}) == [2, 1]


class Place:
    """A control plane's state with canaries; `now` is a thousand days after they began."""

    def __init__(self, path, entry):
        (path / "host").mkdir()
        self.entry, self.state = entry, path
        self.where = operator_on(path / "runs", path / "host", clock=FakeClock())
        self.canaries, self.hands, self.requests = (str(path / each) for each in ("canaries", "hands", "requests"))
        os.mkdir(self.requests)

    def canary(self, number, *lines, days_ago=500):
        """Its id; without lines one that has not ended."""
        name = f"{number:016x}"
        planned = Planned(name, "near-oom", self.entry.digest, ("a", "b"), {}, 0.0, 0.0, "ann", at_ns=7)
        begin(self.canaries, planned, self.entry)
        with driving(self.canaries, name) as journal:
            for line in lines:
                journal.append(_line(line))
        at_ns = self.where.clock.wall_ns() - days_ago * DAY_NS
        os.utime(f"{self.canaries}/{name}/journal/{0:020d}.jsonl", ns=(at_ns, at_ns))
        os.utime(f"{self.canaries}/{name}/journal/lock", ns=(at_ns, at_ns))
        return name

    def run_of(self, canary):
        event = replace(make_event(1), id=event_id_of(canary))
        opened = self.where.store.create(event, self.entry, self.where.clock)
        opened.record(Refused("storm", "enough", ()), self.where.clock)
        opened.close()
        return opened.run

    def paper(self, name, *, days_ago=2):
        path, at_ns = os.path.join(self.requests, name), self.where.clock.wall_ns() - days_ago * DAY_NS
        with open(path, "w", encoding="utf-8") as file:
            file.write("said")
        os.utime(path, ns=(at_ns, at_ns))

    def retire(self, keep=None):
        return retire_canaries(self.where, self.canaries, self.hands, keep or Keep())

    def forget(self):
        now_ns = self.where.clock.wall_ns()
        return forget_requests(self.requests, self.where.store.directory, self.canaries, now_ns=now_ns)


@pytest.fixture
def place(tmp_path, entry):
    return Place(tmp_path, entry)


def test_a_canary_that_goes_on_stays_however_old_it_is_and_one_that_cannot_be_read(place):
    going_on, over, spoilt = place.canary(1), place.canary(2, Ended("")), place.canary(3, Ended(""))
    with open(f"{place.canaries}/{spoilt}/journal/{0:020d}.jsonl", "r+b") as file:
        file.write(b"xx")
    os.utime(f"{place.canaries}/{spoilt}/journal/{0:020d}.jsonl", ns=(0, 0))
    assert place.retire() == 1
    assert canary_ids(place.canaries) == [going_on, spoilt]
    assert not os.path.exists(f"{place.canaries}/{over}")


def test_a_canary_goes_after_the_last_run_of_it_that_is_kept(place):
    name = place.canary(1, Ended(""))
    place.run_of(name)
    assert place.retire() == 0
    place.where.clock.advance(400 * DAY)
    assert retire(place.where, place.hands, {}, Keep()) == 1
    assert place.retire() == 1
    assert canary_ids(place.canaries) == []


def test_none_goes_while_a_run_cannot_be_read_that_may_be_of_it(place):
    name, run = place.canary(1, Ended("")), place.run_of("2" * 16)
    with open(f"{place.where.store.of(run.run_id).journal}/{0:020d}.jsonl", "r+b") as file:
        file.seek(200)
        file.write(b"X")
    place.where = replace(place.where, store=RunStore(place.where.store.directory))
    assert (place.retire(), canary_ids(place.canaries)) == (0, [name])


def test_a_removal_is_in_the_audit_with_what_the_list_told(place):
    ended = (
        WaveBegan(("a",)),
        HostEnded("a", "f" * 16, RunState.UNDONE, "no help"),
        Ended("ben stopped it: late"),
    )
    name = place.canary(1, *ended)
    write_stop(place.canaries, name, Stop("ben", "late", 1))
    assert place.retire() == 1
    assert verify(place.hands).faults == ()
    (entry,) = read_journal(place.hands).entries
    assert [entry.record[each] for each in ("verb", "by", "canary")] == ["canary-retire", "retention", name]
    told = entry.record["told"]
    assert [told[each] for each in ("by", "state", "failed", "untouched")] == ["ann", "stopped", 1, 1]
    assert told["stopped"] == "ben stopped it: late"


def test_a_removal_that_broke_off_leaves_no_damaged_canary_and_is_done_to_its_end(place, monkeypatch):
    first, second = place.canary(1, Ended(""), days_ago=600), place.canary(2, Ended(""))
    with monkeypatch.context() as broken:
        broken.setattr("osremed.runbook.removal.shutil.rmtree", lambda _path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            place.retire()
    assert canary_ids(place.canaries) == [second]
    assert f".gone-{first}" in os.listdir(place.canaries)
    assert place.retire() == 1
    assert os.listdir(place.canaries) == []


def test_what_a_killed_start_left_half_made_goes_once_nobody_begins_one(place):
    place.canary(1)
    os.makedirs(f"{place.canaries}/.new-{2:016x}/journal")
    audit = Audit(place.hands)
    with pytest.raises(BlockingIOError):
        place.retire()
    audit.close()
    assert place.retire() == 0
    assert os.listdir(place.canaries) == [f"{1:016x}"]


def test_nothing_is_removed_that_the_audit_does_not_take(place, monkeypatch):
    name = place.canary(1, Ended(""))

    def full(_audit, _entries):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(canaryretention.Audit, "append_all", full)
    with pytest.raises(OSError, match="No space"):
        place.retire()
    assert canary_ids(place.canaries) == [name]


def test_what_requests_left_stays_as_long_as_its_run_or_canary(place):
    canary, run = place.canary(1, Ended("")), place.run_of("3" * 16).run_id
    mine = (f"canary-{canary}.log", f"{run}.log", f"{run}.json")
    for name in (*mine, f"canary-{run}.log", f"{canary}.log", f"{4:016x}.json", "notes.txt", f"{4:016x}.log.bak"):
        place.paper(name)
    place.paper(f"{5:016x}.log", days_ago=0)  # its run begins in a moment
    assert place.forget() == 3
    assert sorted(os.listdir(place.requests)) == sorted(
        (*mine, "notes.txt", f"{4:016x}.log.bak", f"{5:016x}.log"),
    )
    place.where.clock.advance(400 * DAY)
    assert retire(place.where, place.hands, {}, Keep()) == 1
    assert place.retire() == 1
    assert place.forget() == 4
    assert sorted(os.listdir(place.requests)) == sorted(("notes.txt", f"{4:016x}.log.bak"))


def test_without_requests_and_canaries_there_is_nothing_to_do(tmp_path, place):
    assert place.retire() == 0
    assert forget_requests(str(tmp_path / "none"), "runs", "canaries", now_ns=NOW_NS) == 0
