"""The loop: sleep as long as nothing can happen, step every scope, record, tell the status file."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
from collections.abc import Collection
from dataclasses import replace
from types import FrameType
from typing import Any

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput, Unavailable
from osremed.core.event import Event
from osremed.core.files import exclusive_lock
from osremed.core.log import Log
from osremed.core.paths import HostPaths, host_name
from osremed.core.reading import Missing, Value
from osremed.fastoom import collect, guard, pressure, status
from osremed.fastoom.host import LiveHost
from osremed.fastoom.lastgood import keep_last_good, last_good_path, starting_policy
from osremed.fastoom.model import Intervention
from osremed.fastoom.policy import parse_policy, read_policy_bytes
from osremed.fastoom.rank import Bounds
from osremed.fastoom.record import Recorder, event_of
from osremed.sensors import process, procfs

_IN_FLIGHT = "fastoom.in_flight.json"
_STATUS_EVERY_NS = 10_000_000_000
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class Wakeups:
    """Signals and victims' ends, awaited in one place: a handler only notes its signal, a pipe ends the sleep."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.seen.add(number)

    def wait(self, timeout_s: float, pidfds: Collection[int]) -> None:
        poller = select.poll()
        for fd in (self._read, *pidfds):
            poller.register(fd, select.POLLIN)
        ready = poller.poll(timeout_s * 1000)
        if any(fd == self._read for fd, _ in ready):
            os.read(self._read, 512)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)


class Daemon:
    """One guard process. `once` makes a single decision for each scope and follows it to its end."""

    def __init__(
        self, state: status.PolicyState, paths: HostPaths, *, dry_run: bool = False, log: Log | None = None
    ) -> None:
        policy, self.state = state.policy, state
        self.last_good_path = last_good_path(paths)
        self.dry_run = dry_run
        self.log = log or Log("fastoom")
        self.host = LiveHost(collect.open_source())
        self.host_name = host_name()
        self.status_path = os.path.join(paths.run, status.FILE)
        self.recorder = Recorder(os.path.join(paths.events, "fastoom"), os.path.join(paths.run, _IN_FLIGHT))
        self.in_flight: dict[str, Event] = {}
        self.watches = [guard.Watch(scope) for scope in policy.scopes]
        self.polls = self.interventions = self.killed = 0
        self.locked = "no"
        self._told: Any = None
        self._status_due_ns = 0
        own = procfs.stat(os.getpid())
        self.start_time_ticks = own.value.start_time_ticks if isinstance(own, Value) else 0
        self.started_ns = self.host.wall_ns()

    @property
    def flying(self) -> bool:
        """Whether a batch is on its way."""
        return any(watch.flight is not None for watch in self.watches)

    def awaited(self) -> list[int]:
        """Pidfds of victims on their way."""
        flights = [watch.flight for watch in self.watches if watch.flight is not None]
        return [shot.pidfd for flight in flights for shot in flight.waiting]

    # --- start ---

    def prepare(self, *, lock: bool) -> None:
        """Walks the whole path to a decision once, so that its pages are there; then pins them, where allowed."""
        for watch in self.watches:
            members = self.host.members(watch.scope)
            pids = frozenset() if isinstance(members, Missing) else members.value
            bounds = Bounds(pids, self.host.own_chain())
            choice = guard.choose(pids, self.state.policy, bounds, 1 << 62, self.host)
            shots, _ = self.host.aim(choice.plan.victims[:1], pids)
            self.host.close(shots)
        process.can_release_memory()
        gc.collect()
        gc.freeze()
        if lock:
            failure = process.lock_memory()
            self.locked = "yes" if failure is None else str(failure)

    # --- one round ---

    def round(self, *, only_follow: bool = False) -> list[dict[str, Any]]:
        """Steps every scope once; the events that came of it, already on disk."""
        events = []
        self.polls += 1
        for watch in self.watches:
            if only_follow and watch.flight is None:
                continue
            done = guard.step(watch, self.watches, self.state.policy, self.host, dry_run=self.dry_run)
            if done is not None:
                events.append(self._record(done))
            self._note_in_flight(watch)
        return events

    def _note_in_flight(self, watch: guard.Watch) -> None:
        """Says at once who was signalled; the record with what came of it follows."""
        if watch.flight is None or watch.pending is None or watch.scope.label in self.in_flight:
            return
        signalled = replace(watch.pending, action="killed", killed=watch.flight.killed)
        event = event_of(signalled, self.state.policy, host=self.host_name, time_ns=self.host.wall_ns())
        self.in_flight[watch.scope.label] = event
        self.recorder.in_flight(self.in_flight)
        pids = [one.candidate.process.pid for one in watch.flight.killed]
        self.log.warning("signalled", scope=watch.scope.label, pids=pids, event=event.id)

    def _record(self, done: Intervention) -> dict[str, Any]:
        begun = self.in_flight.pop(done.scope.label, None) if done.action == "killed" else None
        event = event_of(
            done,
            self.state.policy,
            host=self.host_name,
            time_ns=self.host.wall_ns(),
            event_id=begun.id if begun else "",
        )
        self.recorder.record(event)
        if begun:
            self.recorder.in_flight(self.in_flight)
        self.interventions += done.action == "killed"
        self.killed += sum(one.freed for one in done.killed)
        self._status_due_ns = 0
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

    def sleep_s(self) -> float:
        """Until something could need attention: the shortest of the scopes."""
        sleeps = [pressure.MAX_SLEEP_S]
        for watch in self.watches:
            if watch.flight is not None:
                sleeps.append(pressure.MIN_SLEEP_S)
            elif isinstance(watch.reading, Value):
                sleeps.append(pressure.sleep_s(watch.reading.value, self.state.policy.thresholds))
        return min(sleeps)

    # --- policy ---

    def reload(self) -> None:
        """Obeys the file if it is right as a whole; else keeps the policy obeyed so far and says why."""
        path = self.state.policy.path
        data = b""
        try:
            data = read_policy_bytes(path)
            policy = parse_policy(data, path)
        except BadInput as error:
            sha = sha256_hex(data) if data else ""
            text = f"{error} (rejected file: sha256 {sha or 'unknown, not read'})"
            self.state = status.PolicyState(self.state.policy, text, sha)
            self.log.error("policy rejected, the last good one stays", error=text, kept=self.state.policy.sha256)
        else:
            kept = {watch.scope: watch for watch in self.watches}
            self.watches = [kept.get(scope) or guard.Watch(scope) for scope in policy.scopes]
            self.state = status.PolicyState(policy)
            keep_last_good(self.last_good_path, data, self.log)
            self.log.info("policy loaded", path=path, sha256=policy.sha256, sensitivity=policy.sensitivity)
        self._status_due_ns = 0

    # --- status ---

    def document(self) -> dict[str, Any]:
        policy = self.state.policy
        return {
            "pid": os.getpid(),
            "start_time_ticks": self.start_time_ticks,
            "started_ns": self.started_ns,
            "updated_ns": self.host.wall_ns(),
            "policy_path": policy.path,
            "policy_sha256": policy.sha256,
            "policy_error": self.state.error,
            "policy_rejected_sha256": self.state.rejected_sha256,
            "sensitivity": policy.sensitivity,
            "level": status.level_word(self.watches),
            "scopes": [status.scope_document(watch) for watch in self.watches],
            "dry_run": self.dry_run,
            "polls": self.polls,
            "interventions": self.interventions,
            "killed": self.killed,
            "events_pending": len(self.recorder.pending),
            "events_lost": self.recorder.lost,
            "events_failure": self.recorder.failure,
            "memory_locked": self.locked,
            **status.cost_document(),
        }

    def tell(self) -> None:
        """Rewrites the status file when a level changed, after a reload or a decision, and every 10 s."""
        levels = [(watch.level, isinstance(watch.reading, Value)) for watch in self.watches]
        now = self.host.monotonic_ns()
        if levels == self._told and now < self._status_due_ns:
            return
        if levels != self._told:
            self.log.info("level", level=status.level_word(self.watches))
        self._told, self._status_due_ns = levels, now + _STATUS_EVERY_NS
        if self.recorder.pending:
            self.recorder.flush()
        try:
            status.write(self.status_path, self.document())
        except OSError as error:
            self.log.error("status not written", path=self.status_path, error=error.strerror)

    # --- the loop ---

    def loop(self, wakeups: Wakeups) -> None:
        """Until SIGTERM or SIGINT. A batch on its way is followed to its end before a reload or the exit."""
        while True:
            stopping = not wakeups.seen.isdisjoint((signal.SIGTERM, signal.SIGINT))
            if stopping and not self.flying:
                return
            if signal.SIGHUP in wakeups.seen and not self.flying:
                wakeups.seen.discard(signal.SIGHUP)
                self.reload()
            self.round(only_follow=stopping)
            self.tell()
            wakeups.wait(self.sleep_s(), self.awaited())

    def once(self, wakeups: Wakeups) -> list[dict[str, Any]]:
        events = self.round()
        while self.flying:
            wakeups.wait(pressure.MIN_SLEEP_S, self.awaited())
            events.extend(self.round(only_follow=True))
        return events


def run(policy_path: str, paths: HostPaths, *, once: bool, dry_run: bool) -> dict[str, Any]:
    """Guards until told to stop; the last status, with the events of `once`. BadInput for the policy; Unavailable when
    another guard has these paths or they cannot be written."""
    log = Log("fastoom")
    state = starting_policy(os.path.abspath(policy_path), paths, log)
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(paths.run, exist_ok=True)
            stack.enter_context(exclusive_lock(os.path.join(paths.run, "fastoom.lock"), wait=False))
            daemon = Daemon(state, paths, dry_run=dry_run, log=log)
        except BlockingIOError:
            raise Unavailable("another fastoom guards here", where=paths.run, hint="osremed fastoom status") from None
        except OSError as error:
            raise Unavailable(str(error.strerror), where=str(error.filename), hint="run as root") from error
        return _run(daemon, once)


def _run(daemon: Daemon, once: bool) -> dict[str, Any]:
    wakeups = Wakeups()
    events: list[dict[str, Any]] = []
    try:
        daemon.recorder.recover()
        daemon.prepare(lock=not once)
        if once:
            events = daemon.once(wakeups)
        else:
            daemon.log.info("guarding", scopes=[w.scope.label for w in daemon.watches], locked=daemon.locked)
            daemon.loop(wakeups)
        return {**daemon.document(), "events": events}
    finally:
        wakeups.close()
        daemon.recorder.close()
