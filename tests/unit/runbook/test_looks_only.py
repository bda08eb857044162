"""A run that only looks holds no change back and is held by none; what looking costs is asked of it as of any."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from osremed.core.clock import FakeClock
from osremed.core.event import Event
from osremed.runbook.catalog import load_entry
from osremed.runbook.document import Window
from osremed.runbook.guardpolicy import Restriction
from osremed.runbook.guards import GUARDS, Situation, check_guards
from osremed.runbook.model import Admitted, Refused, RunState
from osremed.runbook.operate import attempt
from osremed.runbook.store import RunStore
from tests.support.kept import operator_on
from tests.unit.runbook.conftest import BEGIN_NS, ROOT, make_event, make_run

S = 10**9
TRAP = {
    "trap": "lock-contention",
    "state": "raised",
    "who": "app",
    "summary": "they wait",
    "where": "",
    "fix": "mend it",
}


@pytest.fixture
def looks():
    return load_entry(str(ROOT / "runbooks/lock-contention/runbook.yaml"))


@pytest.fixture
def where(tmp_path):
    host = tmp_path / "host"
    host.mkdir()
    fleet = frozenset(f"node-{number}" for number in range(1, 41))
    return replace(operator_on(tmp_path / "runs", host, clock=FakeClock()), hosts=fleet)


def admit(where, event, entry):
    """The run with the guards' answer in its journal, as the dispatcher has it."""
    opened = where.store.create(event, entry, where.clock)
    happening = asyncio.run(attempt(where, opened.effect, opened.run, entry.runbook, opened.directory))
    opened.record(happening, where.clock)
    opened.close()
    where.clock.advance(1)
    return happening


def trap(number):
    return Event(f"t{number}", "hotspot.trap", "node-1", BEGIN_NS, {**TRAP, "second_ns": BEGIN_NS})


def test_a_repair_is_let_in_beside_a_look_and_a_look_beside_a_repair(where, entry, looks):
    assert isinstance(admit(where, trap(1), looks), Admitted)
    assert isinstance(admit(where, make_event(1), entry), Admitted)
    assert isinstance(admit(where, trap(2), looks), Admitted)  # two at once on one host, as its runbook says
    assert [run.state for run in where.store.runs()[0]] == [RunState.COLLECTING] * 3


def test_a_second_repair_still_waits_for_the_first(where, entry, looks):
    admit(where, trap(1), looks)
    admit(where, make_event(1), entry)
    refused = admit(where, make_event(2), replace(entry, runbook=renamed(entry.runbook, "another")))
    assert (type(refused), refused.guard) == (Refused, "target-busy")


def renamed(book, name):
    return book.model_copy(update={"metadata": book.metadata.model_copy(update={"name": name})})


def test_what_looking_costs_is_asked_of_a_look_too(where, looks):
    for number in (1, 2):
        assert isinstance(admit(where, trap(number), looks), Admitted)
    assert admit(where, trap(3), looks).guard == "per-host"


def test_a_look_is_cooled_down_like_any(where, looks):
    ended = replace(make_run(1, runbook="lock-contention"), state=RunState.REFUSED, admitted=True, looks_only=True)
    now = Situation(make_run(2, runbook="lock-contention"), looks.runbook, (ended,), 9, True, BEGIN_NS + 3599 * S)
    assert {each.guard for each in check_guards(now) if not each.passed} <= {"fresh", "cooldown"}
    asked = dict(GUARDS)
    assert not asked["cooldown"](now)[0]


def situation(book, *others, **more):
    run = make_run(99, runbook=book.name)
    return Situation(run, book, others, 9, True, BEGIN_NS, **more)


NEVER = [Window.model_validate({"days": ["wed"], "from": "00:00", "to": "00:01"})]


@pytest.mark.parametrize(
    ("guard", "others", "more"),
    [
        ("journals", (), {"damaged": ("run x: damaged",)}),
        ("half-undone", (replace(make_run(1), state=RunState.UNDO_INCOMPLETE),), {}),
        ("target-busy", (replace(make_run(1), state=RunState.APPLYING),), {}),
        ("window", (), {}),
        ("freeze", (), {"controls": None}),
    ],
)
def test_questions_about_changes_do_not_hold_a_look_and_what_people_say_does(entry, looks, guard, others, more):
    if guard == "window":
        entry, looks = (
            replace(each, runbook=each.runbook.model_copy(update={"guards": windowed(each.runbook.guards)}))
            for each in (entry, looks)
        )
    repair = check_guards(situation(entry.runbook, *others, **more))[-1]
    assert (repair.guard, repair.passed) == (guard, False)
    assert check_guards(situation(looks.runbook, *others, **more))[-1].passed is (guard != "freeze")


def windowed(guards):
    return guards.model_copy(update={"windows": NEVER})


def test_a_group_whose_changes_are_for_the_night_is_looked_at_by_day(entry, looks):
    for each, passes in ((entry, False), (looks, True)):
        policy = Restriction("night", windowed(each.runbook.guards), frozenset({"windows"}), frozenset({"node-1"}))
        assert check_guards(situation(each.runbook, restrictions=(policy,)))[-1].passed is passes


def test_a_run_begun_by_a_release_that_did_not_say_so_holds_others_as_it_did_then(where, looks):
    admit(where, trap(1), looks)
    (run,) = RunStore(where.store.directory).runs()[0]
    assert run.looks_only
    busy = dict(GUARDS)["target-busy"]
    later = replace(make_run(99), raised_ns=run.raised_ns + 1)
    for each, free in ((run, True), (replace(run, looks_only=False), False)):
        assert busy(Situation(later, looks.runbook, (each,), 9, True, BEGIN_NS))[0] is free
