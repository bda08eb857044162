"""Events that the disk does not take wait, in order, and are told when it takes them."""

from __future__ import annotations

import os

import pytest

from osremed.core.event import Event, new_event_id
from osremed.core.journal import read_journal
from osremed.core.outbox import Outbox


def some(count):
    return [Event(new_event_id(), "some.event", "web1", number, {}) for number in range(count)]


def told(directory):
    return [entry.record["id"] for entry in read_journal(str(directory)).entries]


@pytest.fixture
def blocked(tmp_path):
    """A folder that cannot be made: a file has its name."""
    path = tmp_path / "events"
    path.write_text("")
    return path


def test_what_could_not_be_written_is_told_in_order_once_it_can(blocked):
    outbox, events = Outbox(str(blocked)), some(3)
    outbox.tell(events[:2])
    outbox.tell(events[2:])
    assert (outbox.pending, str(blocked) in outbox.failure, outbox.lost) == (events, True, 0)
    blocked.unlink()
    outbox.flush()
    assert (outbox.pending, outbox.failure) == ([], "")
    outbox.close()
    assert told(blocked) == [each.id for each in events]


def test_the_oldest_are_dropped_when_too_many_wait_and_they_are_counted(blocked):
    outbox, events = Outbox(str(blocked), most=4), some(6)
    for event in events:
        outbox.tell([event])
    assert outbox.lost == 2
    blocked.unlink()
    outbox.close()
    assert told(blocked) == [each.id for each in events[2:]]


def test_a_journal_that_could_not_be_opened_when_it_began_is_no_failure_once_it_can(blocked):
    outbox = Outbox(str(blocked))
    outbox.open()
    assert outbox.failure
    blocked.unlink()
    outbox.flush()
    assert outbox.failure == ""


def test_who_has_nothing_to_tell_makes_nothing(tmp_path):
    outbox = Outbox(str(tmp_path / "events"))
    outbox.tell([])
    outbox.close()
    assert os.listdir(tmp_path) == []
