"""Records: the event of the contract, on disk before the next decision, and kept when the disk refuses."""

from __future__ import annotations

import errno
from dataclasses import replace

from osremed.core.event import event_from_json
from osremed.core.journal import Journal, read_journal
from osremed.core.paths import host_name
from osremed.core.reading import Missing, Reason
from osremed.fastoom.model import Candidate, Intervention, Killed, Level, Scope, Spared, Stall
from osremed.fastoom.record import Recorder, event_of
from tests.unit.fastoom.conftest import MIB, policy, process, signals

DONE = Intervention(
    scope=Scope("/app"),
    level=Level.MEDIUM,
    action="killed",
    signals=signals(0.05),
    target_bytes=140 * MIB,
    deficit_bytes=90 * MIB,
    killed=(Killed(Candidate(process(10, 100, name="\\xff)\n", argv=["a", "b" * 900]), 2, "why"), True),),
    spared=(Spared(11, "safe", "protected"),),
    available_after_bytes=150 * MIB,
)


def event(done: Intervention = DONE):
    return event_of(done, policy(), host=host_name(), time_ns=5)


def test_an_event_has_every_attribute_of_the_contract_and_passes_as_one() -> None:
    facts = event_from_json(event().as_json()).attributes
    assert set(facts) == {
        *("level", "sensitivity", "scope", "limit_bytes", "available_bytes", "available_ratio", "target_bytes"),
        *("deficit_bytes", "action", "killed", "spared", "freed_bytes", "available_after_bytes", "policy_sha256"),
        *("crossed_ns", "decided_ns", "signalled_ns", "freed_ns", "missing"),
        *("need", "stall", "grown_bytes", "crept_bytes", "swap_total_bytes", "swap_free_bytes"),
    }
    assert (facts["level"], facts["scope"], facts["freed_bytes"]) == ("medium", "/app", 100 * MIB)
    killed = facts["killed"][0]
    assert set(killed) == {
        *("pid", "start_time_ticks", "name", "cmdline", "oom_score_adj", "heap_bytes", "why", "freed"),
    }
    assert len(killed["cmdline"]) == 500


def test_an_event_says_what_made_the_need() -> None:
    def need(**more) -> str:
        return event(replace(DONE, signals=signals(0.45, **more))).attributes["need"]

    overgrown = Stall(0.6, 0.0, 100 * MIB, 60.0 * MIB, 1.0 * MIB)
    assert event().attributes["need"] == "short"
    assert need(stall=overgrown, grown_bytes=40 * MIB) == "growth into cache in use"
    assert need() == ""
    lasting = replace(DONE, signals=signals(0.25, stall=Stall(0.6, 50.0 * MIB, 100 * MIB)))
    assert event(lasting).attributes["need"] == "thrashing"


def test_an_unreadable_command_line_is_told_as_such() -> None:
    unread = Candidate(process(10, argv=Missing(Reason.DENIED, "/proc/10/cmdline")), 2, "why")
    done = Intervention(DONE.scope, DONE.level, "killed", DONE.signals, 0, 0, killed=(Killed(unread, False),))
    assert event(done).attributes["killed"][0]["cmdline"] == "(denied: /proc/10/cmdline)"


def test_a_recorded_event_is_on_disk(tmp_path) -> None:
    recorder = Recorder(str(tmp_path / "events"), str(tmp_path / "in_flight.json"))
    one = event()
    recorder.tell([one])
    assert [entry.record for entry in read_journal(recorder.directory).entries] == [one.as_json()]
    recorder.close()


def test_events_the_disk_refuses_are_kept_in_order_and_written_later(tmp_path, monkeypatch) -> None:
    recorder = Recorder(str(tmp_path / "events"), str(tmp_path / "in_flight.json"))
    real = Journal.append

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    events = [event() for _ in range(70)]
    for one in events:
        recorder.tell([one])
    assert "No space left" in recorder.failure
    assert (len(recorder.pending), recorder.lost) == (64, 6)
    monkeypatch.setattr(Journal, "append", real)
    recorder.flush()
    assert recorder.failure == ""
    written = [entry.record["id"] for entry in read_journal(recorder.directory).entries]
    assert written == [one.id for one in events[6:]]
    recorder.close()


def test_a_journal_that_cannot_be_opened_stops_no_guard_and_is_opened_later(tmp_path) -> None:
    blocked = tmp_path / "events"
    blocked.write_text("a file where the folder should be")
    recorder = Recorder(str(blocked), str(tmp_path / "in_flight.json"))
    one = event()
    recorder.tell([one])
    assert (len(recorder.pending), bool(recorder.failure)) == (1, True)
    blocked.unlink()
    recorder.flush()
    assert [entry.record["id"] for entry in read_journal(str(blocked)).entries] == [one.id]
    recorder.close()


def test_what_a_dead_guard_left_in_flight_is_told_once_as_interrupted(tmp_path) -> None:
    places = str(tmp_path / "events"), str(tmp_path / "run" / "in_flight.json")
    one = event()
    dead = Recorder(*places)
    dead.in_flight({"/scope": one})
    dead.close()
    for told in (1, 0):
        recorder = Recorder(*places)
        assert recorder.recover() == told
        recorder.close()
    (entry,) = read_journal(places[0]).entries
    assert (entry.record["id"], entry.record["attributes"]["action"]) == (one.id, "interrupted")
