"""One step of guarding one scope: measure, follow what is on its way, or decide. Effects go through a Host."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.fastoom import pressure
from osremed.fastoom.choice import Choice, choose, companions_in, with_groups
from osremed.fastoom.kill import Flight, Shot, spare
from osremed.fastoom.model import (
    Candidate,
    Intervention,
    Level,
    Plan,
    Process,
    Scan,
    Scope,
    Signals,
    Spared,
    Thresholds,
)
from osremed.fastoom.plan import MAX_BATCH, why_left
from osremed.fastoom.policy import Policy
from osremed.fastoom.rank import Bounds

_REST_NS = 250_000_000  # between scans while nothing can be killed: a full scan costs as much as it may save
_SPARED_SHOWN = 20


class Host(Protocol):
    """What a step needs of the world; live in host.py, scripted in tests."""

    def wall_ns(self) -> int: ...
    def monotonic_ns(self) -> int: ...
    def signals(self, scope: Scope) -> Reading[Signals]: ...
    def settle(self, scope: Scope) -> None: ...
    def members(self, scope: Scope) -> Reading[frozenset[int]]: ...
    def own_chain(self) -> frozenset[int]: ...
    def scan(self, pids: Collection[int], floor_bytes: int, *, warm: bool = False) -> Scan: ...
    def unexplained_bytes(self, processes: Collection[Process], anon_bytes: int) -> int: ...
    def look(self, pid: int) -> Reading[Process]: ...
    def heaps_before(self) -> Mapping[tuple[int, int], int] | None: ...
    def group_of(self, process: Process, *, whole_group: bool) -> Reading[tuple[str, tuple[int, ...]]]: ...
    def group_members(self, path: str) -> Reading[tuple[int, ...]]: ...
    def end_group(self, path: str) -> Missing | None: ...
    def aim(self, victims: Sequence[Candidate], members: Collection[int]) -> tuple[list[Shot], list[Spared]]: ...
    def fire(self, shots: list[Shot], thresholds: Thresholds, *, urgent: bool) -> Flight: ...
    def follow(self, flight: Flight, *, urgent: bool) -> bool: ...
    def close(self, shots: Sequence[Shot]) -> None: ...


class Storm:
    """How many were signalled lately, over all scopes, those of groups that are gone, too."""

    def __init__(self) -> None:
        self._signalled: list[tuple[int, int]] = []  #: (monotonic ns, how many)

    def note(self, now_ns: int, count: int) -> None:
        self._signalled.append((now_ns, count))

    def since(self, ns: int) -> int:
        self._signalled = [one for one in self._signalled if one[0] > ns]
        return sum(count for _, count in self._signalled)


class Watch:
    """What the guard remembers of one scope between steps. An episode runs from enter until above leave."""

    def __init__(self, scope: Scope, storm: Storm | None = None) -> None:
        """`storm`: of all scopes; without one this is the only one."""
        self.scope, self.storm = scope, storm or Storm()
        self.level = Level.NONE
        self.reading: Reading[Signals] = Missing(Reason.NO_DATA, scope.label, "not measured yet")
        self.crossed_ns = 0
        self.rest_until_ns = 0
        self.told: set[str] = set()  #: actions recorded in this episode
        self.flight: Flight | None = None
        self.pending: Intervention | None = None
        self.stuck: set[tuple[int, int]] = set()  #: signalled, and still there after the deadline
        self.groups: tuple[str, ...] = ()  #: control groups that end with the flight
        self.ended_ns = 0  #: when the last flight ended, monotonic
        self.due_ns = 0  #: when to look next, monotonic
        self.falling_bytes_per_s = 0.0
        self._room: tuple[int, int] = (0, 0)

    def note_trend(self, now_ns: int, room_bytes: int) -> None:
        """How fast the room shrank since the last look; 0 when it did not."""
        before_ns, before = self._room
        self._room = now_ns, room_bytes
        if before_ns and now_ns > before_ns:
            self.falling_bytes_per_s = max(0.0, (before - room_bytes) * 1e9 / (now_ns - before_ns))


def step(
    watch: Watch, watches: Sequence[Watch], policy: Policy, host: Host, *, dry_run: bool = False
) -> Intervention | None:
    """Measures the scope and does what that calls for; an Intervention when there is something to record.

    A scope that cannot be measured is never acted on. While its batch is on its way, nothing else is chosen."""
    watch.reading = host.signals(watch.scope)
    thresholds = policy.of(watch.scope).thresholds
    if isinstance(watch.reading, Value):
        watch.level = pressure.next_level(watch.level, watch.reading.value, thresholds)
        watch.note_trend(host.monotonic_ns(), pressure.room_bytes(watch.reading.value, thresholds))
    if watch.flight is not None:
        return _follow(watch, watch.flight, policy, host, urgent=_urgent(watch, thresholds))
    if isinstance(watch.reading, Missing):
        return None
    signals = watch.reading.value
    if pressure.needs_action(signals, thresholds):
        return _act(watch, watches, policy, host, dry_run=dry_run)
    watch.crossed_ns = 0
    return _end_episode(watch, policy, host, signals) if watch.level < Level.MEDIUM else None


def _urgent(watch: Watch, thresholds: Thresholds) -> bool:
    """Whether there is no time for a grace: next to nothing is left, or every moment of it stalls the whole host."""
    stalls = isinstance(watch.reading, Value) and pressure.thrashes(watch.reading.value, thresholds)
    return watch.level >= Level.HIGH or stalls


def _end_episode(watch: Watch, policy: Policy, host: Host, signals: Signals) -> Intervention | None:
    """The record that the need is over, if anything was recorded of it. Its level is low: nothing is left to act on."""
    told, watch.told = watch.told, set()
    watch.rest_until_ns = 0
    watch.stuck.clear()
    if not told:
        return None
    return Intervention(
        scope=watch.scope,
        level=Level.LOW,
        action="recovered",
        signals=signals,
        target_bytes=pressure.target_bytes(signals, policy.of(watch.scope).thresholds),
        deficit_bytes=0,
        available_after_bytes=signals.available_bytes,
        decided_ns=host.wall_ns(),
        missing=signals.missing,
    )


def _act(watch: Watch, watches: Sequence[Watch], policy: Policy, host: Host, *, dry_run: bool) -> Intervention | None:
    assert isinstance(watch.reading, Value)
    signals = watch.reading.value
    watch.crossed_ns = watch.crossed_ns or host.wall_ns()
    if host.monotonic_ns() < watch.rest_until_ns:
        return None
    members = host.members(watch.scope)
    if isinstance(members, Missing):
        return _tell(watch, host, "nothing_to_kill", drafted(watch, policy, signals, (str(members),)))
    draft = drafted(watch, policy, signals, ())
    dying, coming_bytes = _on_their_way(watches, members.value)
    draft = replace(draft, deficit_bytes=draft.deficit_bytes - coming_bytes)
    if draft.deficit_bytes <= 0:
        return None
    left, why = _allowance(watch, policy, host.monotonic_ns())
    if not left:
        return _tell(watch, host, "held_back", replace(draft, missing=(*draft.missing, why)))
    before = None
    if pressure.for_growers_alone(signals, policy.of(watch.scope).thresholds):
        before = host.heaps_before()
        if before is None:
            why = "who grew is not known: nobody looked at the processes before"
            return _tell(watch, host, "nothing_to_kill", replace(draft, missing=(*draft.missing, why)))
    bounds = Bounds(members.value, host.own_chain(), dying, before)
    return _decide(watch, policy, host, bounds, draft, most=min(left, MAX_BATCH), dry_run=dry_run)


def _decide(
    watch: Watch, policy: Policy, host: Host, bounds: Bounds, draft: Intervention, *, most: int, dry_run: bool
) -> Intervention | None:
    """Chooses, and acts on it."""
    anon, deficit = draft.signals.anon_bytes, draft.deficit_bytes
    choice = choose(bounds.members, policy, bounds, deficit, host, anon_bytes=anon, most=most)
    whole, everybody = policy.of(watch.scope).whole_group, replace(bounds, before=None)
    choice = with_groups(choice, policy, everybody, host, whole_group=whole, most=most)
    missing = (*draft.missing, *choice.missing)
    draft = replace(draft, spared=_spared(choice), decided_ns=host.wall_ns(), missing=missing)
    if not choice.plan.victims:
        return _tell(watch, host, "nothing_to_kill", draft)
    if dry_run:
        return _tell(watch, host, "dry_run", draft)
    watch.groups = choice.groups
    return _shoot(watch, policy, host, choice.plan, draft)


def _allowance(watch: Watch, policy: Policy, now_ns: int) -> tuple[int, str]:
    """How many may be signalled now, and, when nobody may, why."""
    limits = policy.limits
    rest_s = watch.ended_ns / 1e9 + limits.cooldown_s - now_ns / 1e9
    if watch.ended_ns and rest_s > 0 and watch.level < Level.HIGH:
        return 0, f"cooldown: {rest_s:.1f} s are left"
    spent = watch.storm.since(now_ns - round(limits.window_s * 1e9))
    if spent >= limits.max_kills:
        return 0, f"storm breaker: {spent} processes were ended within {limits.window_s:g} s"
    return limits.max_kills - spent, ""


def _shoot(watch: Watch, policy: Policy, host: Host, plan: Plan, draft: Intervention) -> Intervention | None:
    """Aims, looks once more whether it must be, and fires."""
    now_in_scope = host.members(watch.scope)
    if isinstance(now_in_scope, Missing):
        return None
    shots, lost = host.aim(plan.victims, now_in_scope.value)
    again = host.signals(watch.scope)
    thresholds = policy.of(watch.scope).thresholds
    if not shots or isinstance(again, Missing) or not pressure.needs_action(again.value, thresholds):
        host.close(shots)
        return None
    watch.flight = host.fire(shots, thresholds, urgent=_urgent(watch, thresholds))
    watch.storm.note(host.monotonic_ns(), len(watch.flight.killed))
    spared = (*lost, *watch.flight.refused, *draft.spared)
    watch.pending = replace(draft, signalled_ns=host.wall_ns(), spared=spared)
    if watch.flight.killed:
        return None
    host.close(shots)
    watch.flight = None
    return _tell(watch, host, "nothing_to_kill", watch.pending)


def _end_groups(watch: Watch, flight: Flight, policy: Policy, host: Host) -> None:
    """What forked meanwhile ends as well. Nobody has asked yet about those who came in a grace: where one of them must
    live the group is left alone."""
    paths, watch.groups = watch.groups, ()
    signalled = {shot.candidate.process.pid for shot in flight.shots}
    for path in paths:
        now = host.group_members(path)
        if isinstance(now, Missing):
            continue
        pids = frozenset(now.value) - signalled
        _, why = companions_in(path, pids, policy, Bounds(pids, host.own_chain()), host)
        if not why:
            host.end_group(path)
        elif watch.pending is not None:
            watch.pending = replace(watch.pending, missing=(*watch.pending.missing, why))


def _follow(watch: Watch, flight: Flight, policy: Policy, host: Host, *, urgent: bool) -> Intervention | None:
    if flight.killed_ns and watch.groups:
        _end_groups(watch, flight, policy, host)
    if not host.follow(flight, urgent=urgent):
        return None
    assert watch.pending is not None
    watch.reading = reading = host.signals(watch.scope)  # the one taken before the victims were looked at is too old
    missing = watch.pending.missing
    after = reading.value.available_bytes if isinstance(reading, Value) else reading
    if isinstance(reading, Missing):
        missing = (*missing, f"available after: {reading}")
    done = replace(
        watch.pending,
        action="killed",
        killed=flight.killed,
        available_after_bytes=after,
        freed_ns=host.wall_ns() if all(one.freed for one in flight.killed) else 0,
        missing=missing,
    )
    watch.stuck.update(shot.identity for shot in flight.waiting)
    host.close(flight.shots)
    watch.flight, watch.pending, watch.crossed_ns = None, None, 0
    watch.ended_ns = host.monotonic_ns()
    host.settle(watch.scope)
    watch.told.add("killed")
    return done


def _tell(watch: Watch, host: Host, action: str, draft: Intervention) -> Intervention | None:
    """The record of a decision without effect, once in an episode; then the guard rests a moment."""
    watch.rest_until_ns = host.monotonic_ns() + _REST_NS
    if action in watch.told:
        return None
    watch.told.add(action)
    return replace(draft, action=action, available_after_bytes=draft.signals.available_bytes)


def drafted(watch: Watch, policy: Policy, signals: Signals, missing: tuple[str, ...]) -> Intervention:
    thresholds = policy.of(watch.scope).thresholds
    return Intervention(
        scope=watch.scope,
        level=watch.level,
        action="",
        signals=signals,
        target_bytes=pressure.target_bytes(signals, thresholds),
        deficit_bytes=pressure.deficit_bytes(signals, thresholds),
        crossed_ns=watch.crossed_ns,
        missing=signals.missing + missing,
    )


def _on_their_way(watches: Sequence[Watch], members: Collection[int]) -> tuple[frozenset[tuple[int, int]], int]:
    """Identities of everyone signalled and not gone, and the heap of those in flight that belong to this scope. What
    outlived its deadline is not counted on any more."""
    identities: set[tuple[int, int]] = set()
    coming = 0
    for watch in watches:
        identities.update(watch.stuck)
        for shot in watch.flight.waiting if watch.flight else ():
            identities.add(shot.identity)
            if shot.candidate.process.pid in members:
                coming += shot.candidate.process.heap_bytes
    return frozenset(identities), coming


def _spared(choice: Choice) -> tuple[Spared, ...]:
    chosen = frozenset(one.process.pid for one in choice.plan.victims)
    rest = [one for one in choice.ranking.candidates if one.process.pid not in chosen]
    left = tuple(spare(one, why_left(choice.plan, one)) for one in rest[:_SPARED_SHOWN])
    return choice.ranking.spared[:_SPARED_SHOWN] + left
