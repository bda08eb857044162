"""What the guard tells of levels, signals and decisions: to its record on disk, the system's journal and the log."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import Any

from osremed.core.clock import Clock
from osremed.core.event import Event
from osremed.core.log import Log
from osremed.core.paths import HostPaths, host_name, host_paths
from osremed.fastoom import levels, outward
from osremed.fastoom.guard import Watch
from osremed.fastoom.model import Intervention, Level
from osremed.fastoom.policy import Policy
from osremed.fastoom.record import Recorder, event_of

_IN_FLIGHT = "fastoom.in_flight.json"


class Ledger:
    """Each is told once. `interventions` and `killed` count since the start of this guard."""

    def __init__(self, paths: HostPaths, log: Log) -> None:
        self.log = log
        self.recorder = Recorder(os.path.join(paths.events, "fastoom"), os.path.join(paths.run, _IN_FLIGHT))
        self.interventions = self.killed = 0
        self._announcer = levels.Announcer()
        self._in_flight: dict[str, Event] = {}
        self._host = host_name(paths)
        self._paths = paths
        at_home = paths.run == host_paths("").run  # a guard of a test or demo is not this host's
        self._journal_socket = outward.JOURNAL_SOCKET if at_home else ""

    def know_host(self) -> None:
        """A rollout writes the inventory's name after the guard has started. Only in calm: it reads a file."""
        with contextlib.suppress(OSError):  # the name of before stays
            self._host = host_name(self._paths)

    def level(self, watch: Watch, policy: Policy, clock: Clock) -> bool:
        """Whether there was a change to tell. It is on disk at once while there is room, and after the batch when there
        is none: a disk that hangs must not come between a need and its answer."""
        change = self._announcer.note(watch, clock.monotonic_ns())
        if change is None:
            return False
        event = levels.event_of(change, policy, host=self._host, time_ns=clock.wall_ns())
        self.recorder.pending.append(event)
        outward.to_journal(event, self._journal_socket)
        self.log.info("level", scope=change.scope.label, level=levels.WORDS[change.level], event=event.id)
        if watch.level <= Level.LOW:
            self.recorder.flush()
        return True

    def signalled(self, watch: Watch, policy: Policy, time_ns: int) -> None:
        """Says at once who was signalled, if anybody was; the record with what came of it follows."""
        if watch.flight is None or watch.pending is None or watch.scope.label in self._in_flight:
            return
        signalled = replace(watch.pending, action="killed", killed=watch.flight.killed)
        event = event_of(signalled, policy, host=self._host, time_ns=time_ns)
        self._in_flight[watch.scope.label] = event
        self.recorder.in_flight(self._in_flight)
        pids = [one.candidate.process.pid for one in watch.flight.killed]
        self.log.warning("signalled", scope=watch.scope.label, pids=pids, event=event.id)

    def record(self, done: Intervention, policy: Policy, time_ns: int) -> dict[str, Any]:
        """The event that came of it, on disk, or kept in memory because that failed."""
        begun = self._in_flight.pop(done.scope.label, None) if done.action == "killed" else None
        event = event_of(done, policy, host=self._host, time_ns=time_ns, event_id=begun.id if begun else "")
        self.recorder.tell([event])
        outward.to_journal(event, self._journal_socket)
        if begun:
            self.recorder.in_flight(self._in_flight)
        self.interventions += done.action == "killed"
        self.killed += sum(one.freed for one in done.killed)
        names = [f"{one.candidate.process.name}[{one.candidate.process.pid}]" for one in done.killed]
        write = self.log.info if done.action == "recovered" else self.log.warning
        write(
            done.action,
            scope=done.scope.label,
            level=done.level.word,
            available_bytes=done.signals.available_bytes,
            available_after_bytes=str(done.available_after_bytes),
            deficit_bytes=done.deficit_bytes,
            killed=names,
            event=event.id,
        )
        if self.recorder.failure:
            self.log.error("event kept in memory", failure=self.recorder.failure)
        return event.as_json()
