"""Levels are told before anything is ended; metrics, journal and service manager get what they can read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.event import Event
from osremed.core.reading import Missing, Reason, Value
from osremed.fastoom import outward, selfcare, status
from osremed.fastoom.guard import Watch
from osremed.fastoom.levels import Announcer, event_of
from osremed.fastoom.model import Level, Scope, Stall
from tests.unit.fastoom.conftest import policy, signals


class Told:
    def __init__(self) -> None:
        self.announcer, self.watch, self.now_ns = Announcer(), Watch(Scope()), 0

    def at(self, level: Level, after_s: float = 0.1) -> str:
        self.now_ns += round(after_s * 1e9)
        self.watch.level, self.watch.reading = level, Value(signals(0.1))
        change = self.announcer.note(self.watch, self.now_ns)
        return f"{change.before.word}>{change.level.word}" if change else ""


def test_a_rise_is_told_at_once_and_a_fall_after_it_held() -> None:
    told = Told()
    assert [told.at(Level.LOW), told.at(Level.MEDIUM)] == ["none>low", "low>medium"]
    assert told.at(Level.LOW) == ""
    assert told.at(Level.LOW, after_s=6) == "medium>low"
    assert told.at(Level.NONE) == ""
    assert told.at(Level.NONE, after_s=6) == "low>none"


def test_a_level_that_swings_tells_its_peak_once() -> None:
    told = Told()
    words = [told.at(level, after_s=1) for level in (Level.LOW, Level.NONE) * 20]
    assert [word for word in words if word] == ["none>low"]


def test_a_scope_that_cannot_be_measured_changes_no_level() -> None:
    told = Told()
    told.at(Level.LOW)
    told.watch.level, told.watch.reading = Level.NONE, Missing(Reason.GONE, "/a")
    assert told.announcer.note(told.watch, told.now_ns + 10**10) is None


def test_the_event_calls_the_highest_level_critical_and_carries_the_stall() -> None:
    told = Told()
    told.watch.level = Level.HIGH
    told.watch.reading = Value(signals(0.02, stall=Stall(0.5, 1e6, 1)))
    event = event_of(told.announcer.note(told.watch, 1), policy(), host="h", time_ns=1)
    assert event.name == "memory.level"
    assert (event.attributes["level"], event.attributes["previous"], event.attributes["rising"]) == (
        "critical",
        "none",
        True,
    )
    assert event.attributes["stall"] == {
        "full_ratio": 0.5,
        "lasting_ratio": None,
        "refault_bytes_per_s": 1_000_000,
        "scan_bytes_per_s": 0,
        "reclaim_bytes_per_s": 0,
    }


def document(**more):
    watch = Watch(Scope('/odd"\n\\name'))
    watch.reading = Value(signals(0.25))
    blind, deaf = Watch(Scope()), Watch(Scope("/deaf"))
    deaf.reading = watch.reading
    return {
        "polls": 3,
        "interventions": 0,
        "killed": 0,
        "events_pending": 0,
        "events_lost": 0,
        "policy_error": "",
        "scopes": [
            status.scope_document(watch, Value(2)),
            status.scope_document(blind, Value(0)),
            status.scope_document(deaf, Missing(Reason.UNSUPPORTED, "vmstat", "no oom_kill")),
        ],
        "rss_bytes": {"missing": "denied"},
        "cpu_s": 0.5,
        **more,
    }


def test_metrics_have_no_sample_for_what_is_unknown() -> None:
    text = outward.metrics(document()).decode()
    assert 'osremed_fastoom_scope_up{scope="node"} 0' in text
    assert 'scope_available_bytes{scope="node"}' not in text
    assert "osremed_fastoom_resident_bytes" not in text
    kills = [line.split()[-1] for line in text.splitlines() if line.startswith("osremed_fastoom_scope_kernel_oom")]
    assert kills == ["2"], "unknown is no sample"
    assert "osremed_fastoom_cpu_seconds_total 0.5" in text
    assert "osremed_fastoom_policy_good 1" in text
    assert "osremed_fastoom_policy_good 0" in outward.metrics(document(policy_error="x")).decode()


def test_a_scopes_name_cannot_break_out_of_its_label() -> None:
    text = outward.metrics(document()).decode()
    assert 'scope="/odd\\"\\n\\\\name"' in text
    assert all(line.startswith(("# ", "osremed_fastoom_")) for line in text.splitlines())


@pytest.fixture
def listener(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(path)
        door.settimeout(5)
        yield path, lambda: door.recv(65536)


def decision(name: str) -> Event:
    facts = {"scope": "node", "action": "killed", "level": "high", "available_bytes": 1, "limit_bytes": 2}
    facts |= {"policy_sha256": "s", "killed": [{"pid": 7, "name": name}]}
    return Event("id", "memory.near_oom", "h", 1, facts)


def fields(data: bytes) -> dict[str, bytes]:
    found = {}
    while data:
        name, rest = data.split(b"\n", 1)
        size = int.from_bytes(rest[:8], "little")
        found[name.decode()], data = rest[8 : 8 + size], rest[8 + size + 1 :]
    return found


def test_the_journal_gets_fields_to_select_by(listener) -> None:
    path, heard = listener
    outward.to_journal(decision("hog"), path)
    got = fields(heard())
    assert got["OSREMED_ACTION"] == b"killed"
    assert got["OSREMED_KILLED"] == b"[7]"
    assert got["PRIORITY"] == b"4"
    assert b"hog[7]" in got["MESSAGE"]


@given(st.text(max_size=30))
def test_a_victims_name_cannot_forge_a_field(name: str) -> None:
    assert fields(outward.journal_entry(decision(name)))["OSREMED_ACTION"] == b"killed"


def test_nobody_listening_is_no_error(tmp_path) -> None:
    outward.to_journal(decision("hog"), str(tmp_path / "none"))


def test_the_service_manager_is_told_and_fed_in_time(listener, monkeypatch) -> None:
    path, heard = listener
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    manager = selfcare.ServiceManager()
    manager.tell("READY=1")
    assert heard() == b"READY=1"
    assert manager.period_ns == 15 * 10**9
    manager.alive(10**9)
    assert heard() == b"WATCHDOG=1"
    manager.alive(2 * 10**9)
    manager.tell("STATUS=x")
    assert heard() == b"STATUS=x", "fed once in a period"


def test_without_a_service_manager_nothing_is_told(monkeypatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
        monkeypatch.delenv(name, raising=False)
    manager = selfcare.ServiceManager()
    manager.tell("READY=1")
    assert manager.period_ns == 0


def _children() -> set[str]:
    """Children of this process, also those that nobody has waited for."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_the_self_test_ends_a_child_of_its_own_and_nobody_else() -> None:
    before = _children()
    assert selfcare.self_test() == "yes"
    assert _children() == before
