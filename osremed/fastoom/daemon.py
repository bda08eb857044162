"""The loop: sleep as long as nothing can happen, step every scope, record, tell the status file."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from typing import Any

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput, Unavailable
from osremed.core.files import exclusive_lock, write_atomic
from osremed.core.log import Log
from osremed.core.paths import HostPaths
from osremed.core.reading import Missing, Value
from osremed.fastoom import collect, guard, outward, pressure, rivals, selfcare, status
from osremed.fastoom.choice import choose
from osremed.fastoom.host import LiveHost
from osremed.fastoom.lastgood import keep_last_good, last_good_path, starting_policy
from osremed.fastoom.ledger import Ledger
from osremed.fastoom.model import Candidate, Intervention, Killed, Level, Scope
from osremed.fastoom.plan import make_plan
from osremed.fastoom.policy import is_glob, parse_policy, read_policy_bytes
from osremed.fastoom.rank import Bounds, rank
from osremed.fastoom.wakeups import Wakeups
from osremed.fastoom.watchdog import Watchdog
from osremed.sensors import process, procfs

_STATUS_EVERY_NS, _STATUS_AT_REST_NS = 10_000_000_000, 30_000_000_000  # telling costs as much as ten looks
_SCOPES_EVERY_NS = 5_000_000_000
_WARM_EVERY_NS, _WARM_SHARE = 500_000_000, 50  # the warm list takes at most a fiftieth of the time
_FLIGHT_S = 0.02  #: between looks at a batch on its way


class Daemon:
    """One guard process. `once` makes a single decision for each scope and follows it to its end."""

    def __init__(
        self, state: status.PolicyState, paths: HostPaths, *, dry_run: bool = False, log: Log | None = None
    ) -> None:
        policy, self.state = state.policy, state
        self.last_good_path = last_good_path(state.policy.path, paths)
        self.dry_run = dry_run
        self.log = log or Log("fastoom")
        self.host = LiveHost(collect.open_source(asked=policy.asked))
        self.status_path = os.path.join(paths.run, status.FILE)
        self.metrics_path = os.path.join(paths.run, outward.METRICS_FILE)
        self.ledger = Ledger(paths, self.log)
        self.watches: list[guard.Watch] = []
        self.storm = guard.Storm()
        self.manager = selfcare.ServiceManager()
        self.polls = 0
        self.locked = self.priority = self.tested = "no"
        self.rivals: tuple[str, ...] = ()
        self.watchdog = Watchdog(self._desperate)
        self.next_victim: Candidate | None = None
        self._entrusted: Candidate | None = None  #: whom the watchdog may end
        self._own_eyes = collect.open_source()  # the watchdog's: it may look while the loop hangs
        self._told: Any = None
        self._status_due_ns = self._scopes_due_ns = self._warm_due_ns = 0
        own = procfs.stat(os.getpid())
        self.start_time_ticks = own.value.start_time_ticks if isinstance(own, Value) else 0
        self.started_ns = self.host.wall_ns()
        self.find_scopes()

    @property
    def flying(self) -> bool:
        """Whether a batch is on its way."""
        return any(watch.flight is not None for watch in self.watches)

    def awaited(self) -> list[int]:
        """Pidfds of victims on their way."""
        flights = [watch.flight for watch in self.watches if watch.flight is not None]
        return [shot.pidfd for flight in flights for shot in flight.waiting]

    # --- start ---

    def find_scopes(self) -> None:
        """Watches what the policy's scopes mean now: groups come and go under a glob. A scope in action stays."""
        source, kept = self.host.source, {watch.scope: watch for watch in self.watches}
        wanted = [scope for entry in self.state.policy.scopes for scope in collect.expand(entry, source)]
        wanted += [watch.scope for watch in self.watches if watch.flight is not None]
        self.watches = [kept.get(scope) or guard.Watch(scope, self.storm) for scope in dict.fromkeys(wanted)]
        self._scopes_due_ns = self.host.monotonic_ns() + _SCOPES_EVERY_NS

    def prepare(self, *, settle: bool) -> None:
        """Walks the whole path to a decision once, so that its pages are there; then takes what footing it may."""
        if settle:
            selfcare.raise_descriptor_limit()
            process.forget_code()
            self.tested = selfcare.self_test()
        for watch in self.watches:
            members = self.host.members(watch.scope)
            pids = frozenset() if isinstance(members, Missing) else members.value
            bounds = Bounds(pids, self.host.own_chain())
            choice = choose(pids, self.state.policy, bounds, 1 << 62, self.host)
            shots, _ = self.host.aim(choice.plan.victims[:1], pids)
            self.host.close(shots)
        process.can_release_memory()
        self.rivals = rivals.running(self.host.source.proc)
        if settle:
            self.locked = selfcare.lock_memory()
            self.priority = selfcare.raise_priority()
            for name, got in (("memory not locked", self.locked), ("no real-time priority", self.priority)):
                if got != "yes":
                    self.log.info(name, why=got)
            if self.tested != "yes":
                self.log.error("the self-test failed: what is chosen may not die", why=self.tested)
            if self.rivals:
                self.log.warning("another guard runs here: both will end processes", names=list(self.rivals))

    # --- one round ---

    def round(self, *, only_follow: bool = False) -> list[dict[str, Any]]:
        """Steps every scope that is due; the events that came of it, already on disk."""
        events = []
        self.polls += 1
        now = self.host.monotonic_ns()
        for watch in self.watches:
            if watch.flight is None and (only_follow or watch.due_ns > now):
                continue
            done = guard.step(watch, self.watches, self.state.policy, self.host, dry_run=self.dry_run)
            if done is not None:
                events.append(self._record(done))
            self.ledger.signalled(watch, self.state.policy, self.host.wall_ns())
            if self.ledger.level(watch, self.state.policy, self.host):
                self._status_due_ns = 0
            watch.due_ns = self.host.monotonic_ns() + round(self._sleep_s(watch) * 1e9)
        return events

    def _record(self, done: Intervention) -> dict[str, Any]:
        self._status_due_ns = 0
        return self.ledger.record(done, self.state.policy, self.host.wall_ns())

    def _sleep_s(self, watch: guard.Watch) -> float:
        thresholds = self.state.policy.of(watch.scope).thresholds
        if watch.flight is not None:
            return _FLIGHT_S
        if isinstance(watch.reading, Missing):
            return thresholds.ceiling_s
        return pressure.sleep_s(watch.reading.value, thresholds, watch.falling_bytes_per_s)

    def sleep_s(self) -> float:
        """Until something could need attention: the shortest of the scopes."""
        now = self.host.monotonic_ns()
        globs = any(map(is_glob, self.state.policy.scopes))
        scopes_due_ns = self._scopes_due_ns if globs else now + 10_000_000_000
        first = min((watch.due_ns for watch in self.watches), default=scopes_due_ns)
        if self.flying:
            first = min(first, now + round(_FLIGHT_S * 1e9))
        if self.manager.period_ns:
            first = min(first, now + self.manager.period_ns)
        return max(0.0, (min(first, scopes_due_ns) - now) / 1e9)

    def warm_up(self) -> None:
        """Before it must, the guard knows who is large, and who grew."""
        now = self.host.monotonic_ns()
        node = self._node()
        if self.flying or now < self._warm_due_ns or node is None or isinstance(node.reading, Missing):
            return
        seen = node.reading.value
        scarce = seen.available_ratio <= collect.PLENTY_RATIO
        growth_due = scarce and self.host.source.growth.due(now, seen.limit_bytes)
        if node.level is Level.NONE and not growth_due:
            return
        members = self.host.members(node.scope)
        if isinstance(members, Missing):
            return
        if growth_due:
            self.host.note_growth(members.value, seen.anon_bytes)
        else:
            self.host.warm_up(members.value, seen.anon_bytes)
        if node.level > Level.NONE:
            self.next_victim = self._first(node, members.value)
            self.rivals = rivals.running(self.host.source.proc)
        took = self.host.monotonic_ns() - now
        self._warm_due_ns = now + max(_WARM_EVERY_NS, took * _WARM_SHARE)

    def _first(self, watch: guard.Watch, members: frozenset[int]) -> Candidate | None:
        """Whom a decision would end first, were it made now."""
        assert isinstance(watch.reading, Value)
        ranking = rank(self.host.roster.known.values(), self.state.policy, Bounds(members, self.host.own_chain()))
        plan = make_plan(
            ranking, pressure.target_bytes(watch.reading.value, self.state.policy.of(watch.scope).thresholds)
        )
        return next(iter(plan.victims), None)

    def _desperate(self) -> bool:
        """The watchdog's question, asked in its thread."""
        reading = collect.signals(Scope(), self._own_eyes)
        enter = self.state.policy.of(Scope()).thresholds.enter_ratio
        return isinstance(reading, Value) and reading.value.headroom_ratio <= enter / 4

    def feed_watchdog(self) -> None:
        """Tells it that the loop goes round; records what it did while the loop did not."""
        node = self._node()
        if self.watchdog.ended and node is not None and self._entrusted is not None:
            self._record_watchdog(node, self._entrusted)
        near = node is not None and node.level > Level.NONE and not self.dry_run
        self._entrusted = self.next_victim if near and not self.flying else None
        self.watchdog.beat(self._entrusted.process.identity if self._entrusted else None, near=near)

    def _record_watchdog(self, node: guard.Watch, victim: Candidate) -> None:
        ended, self.watchdog.ended = self.watchdog.ended, []
        self.next_victim = None
        if victim.process.identity not in ended or isinstance(node.reading, Missing):
            self.log.error("the loop hung, and the watchdog ended somebody", identities=ended)
            return
        why = ("the loop hung; its watchdog acted",)
        draft = guard.drafted(node, self.state.policy, node.reading.value, why)
        seen = self.host.look(victim.process.pid)
        gone = isinstance(seen, Missing) or seen.value.identity != victim.process.identity
        now = self.host.wall_ns()
        self._record(
            replace(draft, action="watchdog", killed=(Killed(victim, gone),), decided_ns=now, signalled_ns=now)
        )

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
            self.state = status.PolicyState(policy)
            self.host.source.asked = policy.asked
            self.find_scopes()
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
            "scopes": [self._scope_document(watch) for watch in self.watches],
            "dry_run": self.dry_run,
            "polls": self.polls,
            "interventions": self.ledger.interventions,
            "killed": self.ledger.killed,
            "events_pending": len(self.ledger.recorder.pending),
            "events_lost": self.ledger.recorder.lost,
            "events_failure": self.ledger.recorder.failure,
            "memory_locked": self.locked,
            "real_time": self.priority,
            "self_test": self.tested,
            "other_guards": list(self.rivals),
            **status.cost_document(),
        }

    def _scope_document(self, watch: guard.Watch) -> dict[str, Any]:
        return status.scope_document(watch, collect.kernel_kills(watch.scope, self.host.source))

    def tell(self) -> None:
        """Rewrites the status file when a level changed, after a reload or a decision, and every 10 s; at rest 30 s."""
        seen = [(watch.scope, watch.level, isinstance(watch.reading, Value)) for watch in self.watches]
        now = self.host.monotonic_ns()
        self.manager.alive(now)
        if self.ledger.recorder.pending and not self.flying and not self.ledger.recorder.failure:
            self.ledger.recorder.flush()
        if seen == self._told and now < self._status_due_ns:
            return
        if seen != self._told:
            word = status.level_word(self.watches)
            done = self.ledger.interventions
            self.manager.tell(f"STATUS=level {word}, {len(self.watches)} scopes, {done} interventions")
        at_rest = all(watch.level is Level.NONE for watch in self.watches)
        self._told, self._status_due_ns = seen, now + (_STATUS_AT_REST_NS if at_rest else _STATUS_EVERY_NS)
        self.ledger.recorder.flush()
        if at_rest:
            self.ledger.know_host()
        try:
            document = self.document()
            # The status last: whoever sees it finds the metrics of the same moment.
            write_atomic(self.metrics_path, outward.metrics(document))
            status.write(self.status_path, document)
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
            if self.host.monotonic_ns() >= self._scopes_due_ns and any(map(is_glob, self.state.policy.scopes)):
                self.find_scopes()
            self.round(only_follow=stopping)
            self.warm_up()
            self.feed_watchdog()
            self.tell()
            self.rest(wakeups)

    def rest(self, wakeups: Wakeups) -> None:
        """Sleeps until something may need attention. While memory is plentiful and stays so, glances at it in between:
        a glance costs a fifth of a look."""
        if wakeups.wait(self.sleep_s(), self.awaited()):
            return
        quiet_bytes, node = self._quiet_bytes(), self._node()
        if not quiet_bytes or node is None:
            return
        sleep_s, until_ns, glance = self._sleep_s(node), self._next_chore_ns(), self.host.source.files.glance
        while (glance() or 0) >= quiet_bytes and self.host.monotonic_ns() < until_ns:
            self.polls += 1
            if wakeups.wait(sleep_s):
                return

    def _node(self) -> guard.Watch | None:
        return next((watch for watch in self.watches if not watch.scope.cgroup), None)

    def _quiet_bytes(self) -> int:
        """MemAvailable from which on a look would say what the last one said; 0 when only a look can tell."""
        node = self._node()
        if node is None or self.flying or isinstance(node.reading, Missing) or node.told:
            return 0
        seen = node.reading.value
        plentiful = node.level is Level.NONE and seen.available_ratio > collect.PLENTY_RATIO
        return seen.available_bytes * 15 // 16 if plentiful else 0

    def _next_chore_ns(self) -> int:
        """When something besides the host's memory is due."""
        due = [watch.due_ns for watch in self.watches if watch.scope.cgroup]
        due += [self._scopes_due_ns] if any(map(is_glob, self.state.policy.scopes)) else []
        due += [self.manager.due_ns] if self.manager.period_ns else []
        return min([self._status_due_ns, *due])

    def once(self, wakeups: Wakeups) -> list[dict[str, Any]]:
        events = self.round()
        while self.flying:
            wakeups.wait(_FLIGHT_S, self.awaited())
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
        daemon.ledger.recorder.recover()
        daemon.prepare(settle=not once)
        if once:
            events = daemon.once(wakeups)
        else:
            daemon.log.info("guarding", scopes=[w.scope.label for w in daemon.watches], locked=daemon.locked)
            daemon.round()
            daemon.tell()
            daemon.watchdog.start()
            daemon.manager.tell("READY=1")
            daemon.loop(wakeups)
            daemon.manager.tell("STOPPING=1")
        return {**daemon.document(), "events": events}
    finally:
        wakeups.close()
        daemon.ledger.recorder.close()
