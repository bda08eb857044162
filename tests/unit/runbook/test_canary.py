"""A change meets one host first, then two, then more; it stops where it does not help, and says where that was."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.action import Outcome, Status
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput, NotFound
from osremed.core.journal import Journal, read_journal
from osremed.runbook import fanout
from osremed.runbook.canary import (
    HostEnded,
    Planned,
    Stop,
    WaveBegan,
    describe,
    fold,
    state_of,
    waves_if_all_goes_well,
)
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.catalog import load_entry
from osremed.runbook.fanout import begin, canary_event, canary_of, driving, load, read_stop, roll, write_stop
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator
from osremed.runbook.store import RunStore, run_id_for
from tests.support.acting import acts
from tests.support.cost import cpu_s

CASE = load_case("runbooks/near-oom/cases/policy-too-low.yaml").given
HOSTS = tuple(f"web-{number:02}" for number in range(1, 13))
ID = "0123456789abcdef"


class Fleet:
    """Replayed hosts; `bad`: their change does not apply, `well`: are as wanted already, `stuck`: cannot be undone."""

    def __init__(self, *, bad=(), well=(), stuck=(), dies_at=None, at=None):
        self.bad, self.well, self.stuck, self.dies_at = set(bad), set(well), set(stuck), dies_at
        self.at = at or {}
        self.host, self.touched, self.running, self.most = ReplayedHost(CASE), [], 0, 0

    def run(self, call):
        name = call.module.rpartition(".")[2]
        if name == "undo" and call.host in self.stuck:
            return Outcome(Status.FAILED, result={"result": "conflict"}, detail="changed by somebody")
        if name != "fastoom_policy":
            return self.host.run(call)
        if call.check and call.host in self.well:
            return Outcome(Status.OK, changed=False)
        if call.check:
            return self.host.run(call)
        if call.host == self.dies_at:
            raise KeyboardInterrupt
        self.touched.append(call.host)
        self.at.get(call.host, lambda: None)()
        return Outcome(Status.FAILED, detail="no") if call.host in self.bad | self.stuck else self.host.run(call)


class Canaries:
    def __init__(self, directory, entry):
        self.path, self.clock, self.rests = str(directory / "canaries"), FakeClock(), []
        # Hosts of a wave run beside each other: a breaker that opened among them would refuse whoever was last.
        text, wide = entry.content.decode(), "fleet: 50%}\n  breaker: {failed: 100%, of: 100}"
        path = directory / "near-oom" / "runbook.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text.replace("fleet: 5%}", wide).replace("max_runs: 20", "max_runs: 100"))
        self.entry = load_entry(str(path))
        self.store = RunStore(str(directory / "runs"))

    def operator(self, fleet):
        async def rest(seconds):
            self.rests.append(seconds)

        return Operator(fleet, self.store, self.clock, frozenset(HOSTS), pause=rest, restrict=acts)

    def start(self, fleet, hosts=HOSTS, stop_share=0.0):
        attributes = CASE.event["attributes"]
        self.planned = Planned(ID, "near-oom", self.entry.digest, hosts, attributes, stop_share, 30.0, "ann", by_uid=7)
        begin(self.path, self.planned, self.entry)
        return self.go_on(fleet)

    def go_on(self, fleet):
        return asyncio.run(roll(self.operator(fleet), self.path, ID))


@pytest.fixture
def canaries(tmp_path, entry):
    return Canaries(tmp_path, entry)


def test_waves_double_and_each_rests_before_the_next(canaries):
    canary = canaries.start(Fleet())
    assert [len(wave) for wave in canary.waves] == [1, 2, 4, 5]
    assert canaries.rests == [30.0, 30.0, 30.0]
    assert canary.ended
    assert not canary.stopped
    assert {each.state for each in canary.outcomes.values()} == {RunState.SUCCEEDED}
    assert canary.waves == tuple(waves_if_all_goes_well(HOSTS))


@given(st.integers(1, 500))
def test_every_host_is_in_one_wave_and_only_the_last_is_short(count):
    hosts = tuple(str(number) for number in range(count))
    waves = waves_if_all_goes_well(hosts)
    assert tuple(host for wave in waves for host in wave) == hosts
    assert [len(wave) for wave in waves[:-1]] == [2**number for number in range(len(waves) - 1)]


def test_the_first_host_that_is_not_helped_stops_it_and_no_other_is_touched(canaries):
    fleet = Fleet(bad={"web-01"})
    canary = canaries.start(fleet)
    assert fleet.touched == ["web-01"]
    assert canary.untouched == HOSTS[1:]
    told = describe(canary)
    assert "stopped in wave 1: 1 of 1 hosts were not kept, more than 0%; web-01: fastoom_policy did not succeed" in told
    assert "TAKEN BACK  run" in told
    assert "UNDONE: fastoom_policy" in told
    assert "untouched: web-02, web-03" in told


def test_a_share_of_failures_that_was_allowed_does_not_stop_it_and_one_more_does(canaries):
    canary = canaries.start(Fleet(bad={"web-03", "web-05", "web-06"}), stop_share=0.4)
    assert [len(wave) for wave in canary.waves] == [1, 2, 4]
    assert canary.stopped.startswith("3 of 7 hosts were not kept, more than 40%")


def test_a_host_that_could_not_be_taken_back_stops_it_whatever_is_allowed(canaries):
    canary = canaries.start(Fleet(stuck={"web-02"}), stop_share=1.0)
    assert canary.stopped.startswith("web-02 could not be taken back completely")
    assert len(canary.waves) == 2


def test_a_host_that_is_as_wanted_is_no_failure_but_proves_nothing(canaries):
    canary = canaries.start(Fleet(well={"web-01", "web-02"}))
    assert [len(wave) for wave in canary.waves] == [1, 1, 1, 2, 4, 3]
    assert not canary.stopped
    assert "as wanted already" in describe(canary)


def test_what_a_guard_refuses_is_not_known_to_be_well(canaries):
    hosts = ("web-01", "stranger")
    canary = canaries.start(Fleet(), hosts)
    assert canary.stopped.startswith("1 of 2 hosts were not kept")
    assert "scope: stranger is not in the inventory" in canary.stopped


def test_a_canary_that_was_killed_goes_on_where_it_was_and_runs_nothing_twice(canaries):
    with pytest.raises(KeyboardInterrupt):
        canaries.start(Fleet(dies_at="web-02"))
    left = load(canaries.path, ID).left
    assert left in (("web-02", "web-03"), ("web-02",))  # web-03 goes on beside it, and may have ended
    fleet = Fleet()
    canary = canaries.go_on(fleet)
    assert "web-01" not in fleet.touched
    assert canary.outcomes["web-02"].state is RunState.UNDONE
    assert "the controller stopped in APPLYING" in canary.outcomes["web-02"].reason
    runs = canaries.store.runs()[0]
    assert len({run.run_id for run in runs}) == len(runs) == 3


def test_a_canary_that_has_ended_is_only_read_again(canaries):
    first = canaries.start(Fleet())
    fleet = Fleet()
    assert canaries.go_on(fleet) == first
    assert fleet.touched == []


def test_a_disk_that_fails_at_any_line_of_the_journal_leaves_a_canary_that_goes_on_to_the_same_end(
    tmp_path, entry, monkeypatch
):
    hosts, lines = HOSTS[:4], 1 + 3 + 4 + 1

    class Fails(Journal):
        left = 0

        def append(self, rec):
            if Fails.left == 0:
                raise OSError(28, "No space left on device")
            Fails.left -= 1
            return super().append(rec)

    for written in range(1, lines):
        canaries, fleet = Canaries(tmp_path / str(written), entry), Fleet()
        with monkeypatch.context() as disk:
            disk.setattr(fanout, "Journal", Fails)
            Fails.left = written
            with pytest.raises(OSError, match="No space"):
                canaries.start(fleet, hosts)
        canary = canaries.go_on(fleet)
        assert sorted(fleet.touched) == list(hosts)
        assert [each.state for each in canary.outcomes.values()] == [RunState.SUCCEEDED] * 4
        assert (canary.ended, canary.stopped) == (True, "")
        assert len(read_journal(f"{canaries.path}/{ID}/journal").entries) == lines


def test_a_host_has_one_run_of_a_canary_however_often_it_is_asked(canaries):
    canaries.start(Fleet(), HOSTS[:1])
    (run,) = canaries.store.runs()[0]
    event = canary_event(canaries.planned, "memory.near_oom", "web-01", 1)
    assert run_id_for(event, "near-oom") == run.run_id
    assert (run.requested_by, run.requested_uid) == ("ann", 7)


def test_no_canary_of_that_name_and_a_journal_without_a_plan_are_told(canaries, tmp_path):
    with pytest.raises(NotFound, match="no canary"):
        load(canaries.path, "../../../../etc")
    with pytest.raises(BadInput, match="empty journal"):
        fold([])


def stop_by_ben(canaries):
    return write_stop(canaries.path, ID, Stop("ben", "the release is wrong", 7))


def test_a_person_stops_it_runs_under_way_end_and_no_other_begins(canaries):
    canary = canaries.start(Fleet(at={"web-02": lambda: stop_by_ben(canaries)}))
    assert canary.stopped == "ben stopped it: the release is wrong"
    assert canary.outcomes["web-02"].state is RunState.SUCCEEDED
    assert len(canary.waves) == 2
    assert canary.untouched == tuple(host for host in HOSTS if host not in canary.outcomes)
    assert set(canary.outcomes) <= {"web-01", "web-02", "web-03"}
    assert {run.host for run in canaries.store.runs()[0]} == set(canary.outcomes)


def test_hosts_of_a_wave_that_wait_for_their_turn_are_left_alone_when_it_is_stopped(canaries, monkeypatch):
    monkeypatch.setattr(fanout, "_AT_ONCE", 1)
    canary = canaries.start(Fleet(at={"web-04": lambda: stop_by_ben(canaries)}))
    assert list(canary.outcomes) == ["web-01", "web-02", "web-03", "web-04"]
    assert canary.waves[-1] == HOSTS[3:7]
    assert canary.untouched == HOSTS[4:]
    assert "web-05                   untouched" in describe(canary)


def test_a_rest_between_two_waves_ends_when_it_is_stopped(canaries, monkeypatch):
    monkeypatch.setattr(fanout, "_POLL_S", 0.01)

    async def rest(_seconds):
        stop_by_ben(canaries)
        await asyncio.sleep(600)

    operator = replace(canaries.operator(Fleet()), pause=rest)
    monkeypatch.setattr(canaries, "operator", lambda _fleet: operator)
    canary = canaries.start(Fleet())
    assert (len(canary.waves), canary.stopped) == (1, "ben stopped it: the release is wrong")


def test_who_stops_it_first_is_who_stopped_it_and_words_that_cannot_be_read_stop_it_too(canaries):
    with pytest.raises(KeyboardInterrupt):
        canaries.start(Fleet(dies_at="web-01"), stop_share=1.0)
    assert read_stop(canaries.path, ID) is None
    assert write_stop(canaries.path, ID, Stop("ann", "", 8)).said == "ann stopped it"
    assert stop_by_ben(canaries).by == "ann"
    assert state_of(load(canaries.path, ID), read_stop(canaries.path, ID)) == "stopping"
    with open(f"{canaries.path}/{ID}/stop.json", "w") as file:
        file.write("{")
    fleet = Fleet()
    canary = canaries.go_on(fleet)
    assert canary.stopped.startswith("somebody stopped it: their words cannot be read")
    assert (fleet.touched, list(canary.outcomes)) == ([], ["web-01"])  # what was under way there is taken back


def test_a_stop_when_every_host_has_had_its_run_changes_nothing(canaries):
    canary = canaries.start(Fleet(at={"web-01": lambda: stop_by_ben(canaries)}), HOSTS[:1])
    assert (canary.ended, canary.stopped) == (True, "")


def test_nobody_drives_a_canary_that_another_drives(canaries):
    with pytest.raises(KeyboardInterrupt):
        canaries.start(Fleet(dies_at="web-01"))
    with driving(canaries.path, ID), pytest.raises(BlockingIOError):
        canaries.go_on(Fleet())


def test_a_canary_that_was_killed_while_it_was_put_on_disk_is_none_and_its_name_is_free(canaries, monkeypatch):
    rename = os.rename

    def dies(here, there):
        if there.endswith(ID):
            raise KeyboardInterrupt
        rename(here, there)

    with monkeypatch.context() as disk:
        disk.setattr(fanout.os, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            canaries.start(Fleet())
    assert os.listdir(canaries.path) == [f".new-{ID}"]
    assert fanout.canary_ids(canaries.path) == []
    assert canaries.start(Fleet(), HOSTS[:1]).ended


@pytest.mark.parametrize("text", ["canary-", "canary-../../etc", "e-web-1", f"x-{ID}", f"canary-{ID}0"])
def test_the_event_of_any_other_run_is_of_no_canary(text):
    assert canary_of(text) == ""
    assert canary_of(fanout.event_id_of(ID)) == ID


def test_who_follows_a_canary_reads_its_journal_when_it_has_grown_and_only_then(canaries, monkeypatch):
    planned = Planned(ID, "near-oom", canaries.entry.digest, HOSTS, {}, 0.0, 30.0, "ann")
    begin(canaries.path, planned, canaries.entry)
    followed, read = fanout.Followed(canaries.path, ID), []
    real = fanout.load
    monkeypatch.setattr(fanout, "load", lambda *place: read.append(1) or real(*place))
    assert (followed.now(), followed.now()) == (real(canaries.path, ID),) * 2
    assert len(read) == 1
    with driving(canaries.path, ID) as journal:
        journal.append(fanout._line(WaveBegan(HOSTS[:1])))
    assert followed.now().waves == (HOSTS[:1],)
    assert len(read) == 2


def test_a_canary_that_has_ended_is_not_read_again_for_what_goes_on(canaries, monkeypatch):
    canaries.start(Fleet(), HOSTS[:1])
    other = replace(canaries.planned, canary_id="f" * 16)
    begin(canaries.path, other, canaries.entry)
    ended, read = set(), []
    real = fanout.load
    monkeypatch.setattr(fanout, "load", lambda path, name: read.append(name) or real(path, name))
    for _ in range(2):
        assert fanout.events_going_on(canaries.path, ended) == {fanout.event_id_of("f" * 16)}
    assert (read.count(ID), read.count("f" * 16)) == (1, 2)


def test_to_read_a_canary_of_ten_thousand_hosts_costs_about_ten_times_one_of_a_thousand():
    def looked(count):
        hosts = tuple(f"h{number}" for number in range(count))
        planned = Planned(ID, "near-oom", "d" * 64, hosts, {}, 0.0, 0.0, "ann")
        lines = [planned, WaveBegan(hosts), *(HostEnded(host, "f" * 16, RunState.SUCCEEDED, "") for host in hosts)]
        assert len(fold(lines).outcomes) == count
        return cpu_s(lambda: fold(lines))

    assert min(looked(10_000) for _ in range(3)) < 30 * max(min(looked(1_000) for _ in range(3)), 0.001)


def test_runs_of_a_canary_have_the_commit_that_it_was_begun_under(canaries):
    attributes, commit = CASE.event["attributes"], "c3" * 20
    planned = Planned(
        ID, "near-oom", canaries.entry.digest, HOSTS[:2], attributes, 0.0, 0.0, "ann", rules_commit=commit
    )
    begin(canaries.path, planned, canaries.entry)
    canaries.go_on(Fleet())
    assert [run.rules_commit for run in canaries.store.runs()[0]] == [commit] * 2
