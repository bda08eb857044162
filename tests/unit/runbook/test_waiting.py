"""What is refused because another run works on the host is asked again when that has ended: once, and while it is
fresh."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from osremed.runbook.deciding import Deciding
from osremed.runbook.model import Admitted, RunState
from osremed.runbook.operate import drive
from osremed.runbook.store import run_id_for
from osremed.runbook.waiting import again, original_id, waits
from tests.unit.runbook.test_deciding import Control, event, with_trigger


def named(entry, name):
    metadata = entry.runbook.metadata.model_copy(update={"name": name})
    content = entry.content.replace(b"name: near-oom\n", f"name: {name}\n".encode(), 1)
    return replace(entry, runbook=entry.runbook.model_copy(update={"metadata": metadata}), content=content)


class Busy(Control):
    """A host on which a run of another runbook is under way."""

    def __init__(self, directory, entry):
        super().__init__(directory, entry)
        self.other = named(entry, "other")
        self.blocker = self.store.create(event(0), self.other, self.clock)
        self.blocker.record(Admitted(()), self.clock)
        self.deciding.begun(self.blocker)
        self.clock.advance(1)

    def end_the_other(self):
        asyncio.run(drive(self.operator, self.blocker, self.other.runbook))
        self.blocker.close()
        self.deciding.ended(self.blocker)

    def ask_again(self):
        questions = self.deciding.again()
        count = len(questions)
        asyncio.run(self.deciding.answer(questions))
        return count

    def start_again(self):
        """As the next dispatcher does."""
        self.deciding = Deciding(self.operator, self.audit, self.deciding.matcher.catalog, self.opened.append)
        self.deciding.recover(self.store.runs()[0])


@pytest.fixture
def busy(tmp_path, entry):
    return Busy(tmp_path, entry)


def test_the_event_begins_its_run_when_the_other_one_has_ended(busy):
    refused = busy.take(event(1))
    assert refused["why"].startswith("target-busy: ")
    assert busy.ask_again() == 0
    busy.end_the_other()
    assert busy.ask_again() == 1
    line = busy.lines()[-1]
    assert (line["event"], line["admitted"]) == ("e1", True)
    assert line["why"].startswith(f"asked again, for its host was busy at run {refused['run_id']}: ")
    busy.finish()
    assert busy.store.load(line["run_id"])[0].state is RunState.SUCCEEDED
    assert busy.ask_again() == 0


def test_a_dispatcher_that_starts_again_asks_again_too_and_only_once(busy):
    busy.take(event(1))
    busy.end_the_other()
    busy.start_again()
    assert busy.ask_again() == 1
    busy.finish()
    busy.start_again()
    assert busy.ask_again() == 0


def test_an_event_that_is_too_old_by_now_begins_nothing(busy):
    age_s = busy.entry.runbook.guards.max_event_age
    busy.take(event(1))
    busy.end_the_other()
    busy.clock.advance(age_s + 1)
    assert busy.ask_again() == 1
    assert "fresh: the event is " in busy.lines()[-1]["why"]
    assert busy.ask_again() == 0


def test_a_dispatcher_that_starts_does_not_ask_what_is_too_old(busy):
    busy.take(event(1))
    busy.end_the_other()
    busy.clock.advance(busy.entry.runbook.guards.max_event_age + 1)
    busy.start_again()
    assert busy.ask_again() == 0


def test_a_storm_on_a_busy_host_is_asked_again_as_one(busy):
    busy.take(*(event(number) for number in range(1, 40)))
    busy.end_the_other()
    assert busy.ask_again() == 1
    assert len(busy.opened) == 1


def test_a_host_that_is_busy_again_is_waited_for_again(busy):
    first = busy.take(event(1))
    busy.end_the_other()
    asked = busy.deciding.again()
    another = busy.store.create(event(2), busy.other, busy.clock)
    another.record(Admitted(()), busy.clock)
    busy.clock.advance(1)
    asyncio.run(busy.deciding.answer(asked))
    second = busy.lines()[-1]
    assert "target-busy" in second["why"]
    assert second["run_id"] != first["run_id"]
    asyncio.run(drive(busy.operator, another, busy.other.runbook))
    another.close()
    assert busy.ask_again() == 1
    line = busy.lines()[-1]
    assert (line["event"], line["admitted"]) == ("e1", True)


def test_what_a_person_asked_for_is_not_asked_again_for_they_saw_the_answer(busy):
    busy.take(event(1))
    refused = busy.store.load(run_id_for(event(1), "near-oom"))[0]
    assert waits(refused)
    assert not waits(replace(refused, requested_by="ann"))
    assert not waits(replace(refused, undoes="0123456789abcdef"))
    assert not waits(replace(refused, state=RunState.UNDONE))


def test_the_id_under_which_a_host_told_an_event_is_found_however_often_it_was_asked(busy):
    busy.take(event(1))
    refused = busy.store.load(run_id_for(event(1), "near-oom"))[0]
    once = again(refused)
    twice = again(replace(refused, event=once, run_id="f" * 16))
    assert (original_id(once.id), original_id(twice.id)) == ("e1", "e1")
    assert len({"e1", once.id, twice.id}) == 3
    assert once.time_ns == refused.event.time_ns


def test_a_dispatcher_that_starts_again_does_not_ask_what_a_newer_event_of_the_host_has_replaced(busy):
    busy.take(event(1))
    busy.clock.advance(20)
    busy.take(event(2))
    busy.end_the_other()
    assert busy.ask_again() == 1
    busy.finish()
    busy.start_again()
    assert busy.ask_again() == 0


def test_a_host_does_not_get_past_a_refusal_that_holds_by_the_name_of_its_event(busy):
    first = busy.take(event(1))
    forged = replace(event(2), id=f"e2:again-{'0' * 16}")
    assert busy.take(forged)["run_id"] == first["run_id"]
    assert len(busy.store.run_ids()) == 2


def test_an_event_that_a_rule_of_today_does_not_want_is_not_asked_again_by_that_of_yesterday(busy):
    busy.take(event(1))
    busy.end_the_other()
    today = with_trigger(busy.entry, where="event.level == 'none'")
    busy.deciding.use({"near-oom": replace(today, digest="d" * 64)})
    assert busy.ask_again() == 1
    assert "`event.level == 'none'` is false" in busy.lines()[-1]["why"]
    assert busy.opened == []
