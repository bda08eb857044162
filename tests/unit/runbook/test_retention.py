"""Finished runs go when they are old or many, never one that somebody may still ask for, and nothing forgets them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from osremed.core.clock import FakeClock
from osremed.flows.control_verbs import stats
from osremed.runbook.audit import Audit, verify
from osremed.runbook.guardpolicy import Restriction
from osremed.runbook.model import Refused, RunState
from osremed.runbook.retention import Keep, looks_back_s, outlived, retire, retired
from osremed.runbook.stats import grades
from osremed.runbook.store import RunStore
from tests.support.kept import ask, drive_answered, kept_run, operator_on
from tests.unit.runbook.conftest import BEGIN_NS, make_event, make_run

DAY = 86400
OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'
NOW_NS = BEGIN_NS + 1000 * DAY * 10**9


def ended(number, state=RunState.REFUSED, *, days_ago, undoes="", acted=False, host="node-1"):
    at_ns = NOW_NS - days_ago * DAY * 10**9
    run = replace(make_run(number, host), state=state, raised_ns=at_ns, updated_ns=at_ns, undoes=undoes)
    return replace(run, applied=("x",) if acted else ())


def gone(runs, keep, acknowledged=()):
    return [
        [int(run.run_id, 16) for run in family]
        for family in outlived(runs, keep, acknowledged=acknowledged, now_ns=NOW_NS)
    ]


def test_what_is_too_old_or_too_many_goes_the_oldest_first():
    runs = [ended(number, days_ago=number) for number in range(2, 12)]
    assert gone(runs, Keep(most=0, age_s=9 * DAY)) == [[11], [10], [9]]
    assert gone(runs, Keep(most=6, age_s=0)) == [[11], [10], [9], [8]]
    assert gone(runs, Keep(most=0, age_s=0)) == []


def test_one_that_goes_on_or_ended_today_stays_however_many_there_are():
    runs = [ended(1, RunState.AWAITING_APPROVAL, days_ago=900), ended(2, days_ago=0), ended(3, days_ago=2)]
    assert gone(runs, Keep(most=1, age_s=1)) == [[3]]


def test_one_that_is_half_undone_stays_until_somebody_has_seen_to_it():
    runs = [ended(1, RunState.UNDO_INCOMPLETE, days_ago=900)]
    assert gone(runs, Keep(age_s=DAY)) == []
    assert gone(runs, Keep(age_s=DAY), acknowledged=[runs[0].run_id]) == [[1]]


def test_a_run_and_what_took_it_back_go_together_and_it_goes_first():
    old = ended(1, RunState.SUCCEEDED, days_ago=500)
    back = ended(2, RunState.SUCCEEDED, days_ago=400, undoes=old.run_id)
    assert gone([back, old], Keep(age_s=450 * DAY)) == []  # without it the other would look as if it were kept
    assert gone([back, old], Keep(age_s=400 * DAY)) == [[1, 2]]


@pytest.fixture
def where(tmp_path):
    host = tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    return operator_on(tmp_path / "runs", host, clock=FakeClock())


@pytest.fixture
def hands(tmp_path):
    return str(tmp_path / "hands")


def refused(where, entry, number):
    opened = where.store.create(make_event(number, f"node-{number}"), entry, where.clock)
    opened.record(Refused("storm", "enough", ()), where.clock)
    opened.close()
    return opened.run


def ids(where):
    return {run.run_id for run in where.store.runs()[0]}


def test_one_that_can_be_taken_back_stays_for_its_window(where, hands, entry):
    old = kept_run(where, entry, make_event(0))
    other = refused(where, entry, 1)
    where.clock.advance(29 * DAY)
    assert retire(where, hands, {}, Keep(most=1, undo_s=30 * DAY)) == 0
    assert retire(where, hands, {}, Keep(age_s=DAY, undo_s=30 * DAY)) == 1
    assert (old.run_id in ids(where), other.run_id in ids(where)) == (True, False)
    where.clock.advance(2 * DAY)
    assert retire(where, hands, {}, Keep(age_s=DAY, undo_s=30 * DAY)) == 1
    assert ids(where) == set()


def with_guards(book, **guards):
    return {"near-oom": book.model_copy(update={"guards": book.guards.model_copy(update=guards)})}


def test_what_guards_look_back_at_stays(where, hands, entry, tmp_path):
    book = entry.runbook
    ten_days = with_guards(book, recurrence=book.guards.recurrence.model_copy(update={"per": 10.0 * DAY}))
    old = kept_run(where, entry, make_event(0))
    refused(where, entry, 1)
    where.clock.advance(9 * DAY)
    assert looks_back_s(ten_days["near-oom"].guards) == 10 * DAY
    assert retire(where, hands, ten_days, Keep(age_s=1, undo_s=0)) == 0
    where.clock.advance(2 * DAY)
    assert retire(where, hands, ten_days, Keep(age_s=1, undo_s=0)) == 1
    assert ids(where) == {old.run_id}  # it acted: the breaker asks for the last ten of those
    (tmp_path / "host/fastoom.json").write_bytes(OLD)
    kept_run(where, entry, replace(make_event(7), time_ns=where.clock.wall_ns()))
    where.clock.advance(2 * DAY)
    last_one = with_guards(book, breaker=book.guards.breaker.model_copy(update={"of": 1}))
    assert retire(where, hands, last_one, Keep(age_s=1, undo_s=0)) == 1
    assert old.run_id not in ids(where)


def test_what_the_guards_of_a_group_look_back_at_stays(where, hands, entry):
    kept_run(where, entry, make_event(0))
    policy = Restriction("careful", entry.runbook.guards, frozenset({"breaker"}), frozenset({"node-1"}))
    there = replace(where, restrict=lambda host, _runbook: (policy,) if host == "node-1" else ())
    where.clock.advance(100 * DAY)
    assert retire(there, hands, {}, Keep(age_s=1)) == 0
    assert retire(where, hands, {}, Keep(age_s=1)) == 1


def test_runs_that_a_canary_counts_on_stay(where, hands, entry):
    refused(where, entry, 1)
    where.clock.advance(400 * DAY)
    assert retire(where, hands, {}, Keep(), held=frozenset({"e1"})) == 0
    assert retire(where, hands, {}, Keep()) == 1


def test_nothing_goes_while_a_run_cannot_be_read_or_what_people_said(where, hands, entry, tmp_path):
    refused(where, entry, 1)
    spoilt = refused(where, entry, 2)
    where.clock.advance(400 * DAY)
    (tmp_path / "controls.json").write_text("{")
    assert retire(replace(where, controls=str(tmp_path / "controls.json")), hands, {}, Keep()) == 0
    journal = where.store.of(spoilt.run_id).journal
    with open(os.path.join(journal, min(os.listdir(journal))), "r+b") as stream:
        stream.seek(200)
        stream.write(b"X")
    fresh = replace(where, store=RunStore(where.store.directory))
    assert len(fresh.store.runs()[1]) == 1
    assert retire(fresh, hands, {}, Keep()) == 0


def test_each_removal_is_in_the_audit_which_stays_whole(where, hands, entry):
    audit = Audit(hands)
    audit.append({"verb": "freeze", "by": "ana"})
    audit.close()
    run = refused(where, entry, 1)
    where.clock.advance(400 * DAY)
    assert retire(where, hands, {}, Keep()) == 1
    checked = verify(hands)
    assert (checked.entries, checked.faults) == (2, ())
    (found,), seq = retired(hands)
    assert (found.run_id, found.state, seq) == (run.run_id, RunState.REFUSED, 1)


def test_a_removal_that_broke_off_after_its_entry_is_done_again_and_counts_once(where, hands, entry, monkeypatch):
    for number in range(1, 4):
        refused(where, entry, number)
    before = grades(where.store.runs()[0])
    where.clock.advance(400 * DAY)
    with monkeypatch.context() as broken:
        broken.setattr(where.store, "remove", lambda _run_id: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            retire(where, hands, {}, Keep())
    assert len(ids(where)) == 3
    assert grades(where.store.runs()[0], removed=retired(hands)[0]) == before
    assert retire(where, hands, {}, Keep()) == 3
    assert grades(where.store.runs()[0], removed=retired(hands)[0]) == before


def test_statistics_are_the_same_after_a_removal(tmp_path, entry):
    host = tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    where = operator_on(tmp_path / "state/runs", host, clock=FakeClock())
    kept_run(where, entry, make_event(0))
    refused(where, entry, 1)
    before = stats(state=str(tmp_path / "state"), since="99999d").document
    where.clock.advance(400 * DAY)
    assert retire(where, str(tmp_path / "state/hands"), {}, Keep()) == 2
    assert (ids(where), stats(state=str(tmp_path / "state"), since="99999d").document) == (set(), before)


def test_a_taken_back_run_is_not_taken_back_again_while_it_is_there(where, hands, entry):
    old = kept_run(where, entry, make_event(0))
    back = drive_answered(where, ask(where, old))
    where.clock.advance(100 * DAY)
    assert retire(where, hands, {}, Keep(most=1)) == 0
    assert where.store.load(old.run_id)[0].undone_by == back.run_id
    assert retire(where, hands, {}, Keep(age_s=DAY)) == 2


def test_somebody_who_gives_a_command_is_not_disturbed(where, hands, entry):
    refused(where, entry, 1)
    where.clock.advance(400 * DAY)
    audit = Audit(hands)
    with pytest.raises(BlockingIOError):
        retire(where, hands, {}, Keep())
    audit.close()
    assert len(ids(where)) == 1
