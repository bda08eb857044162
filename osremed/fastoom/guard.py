"""One step of guarding one scope: measure, follow what is on its way, or decide. Effects go through a Host."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.fastoom import pressure
from osremed.fastoom.kill import Flight, Shot, spare
from osremed.fastoom.model import (
    Candidate,
    Intervention,
    Level,
    Plan,
    Ranking,
    Scan,
    Scope,
    Signals,
    Spared,
    Thresholds,
)
from osremed.fastoom.plan import FLOOR_BYTES, make_plan, why_left
from osremed.fastoom.policy import Policy
from osremed.fastoom.rank import Bounds, rank

_REST_NS = 250_000_000  # between scans while nothing can be killed: a full scan costs as much as it may save
_SPARED_SHOWN = 20


class Host(Protocol):
    """What a step needs of the world; live in host.py, scripted in tests."""

    def wall_ns(self) -> int: ...
    def monotonic_ns(self) -> int: ...
    def signals(self, scope: Scope) -> Reading[Signals]: ...
    def members(self, scope: Scope) -> Reading[frozenset[int]]: ...
    def own_chain(self) -> frozenset[int]: ...
    def scan(self, pids: Collection[int], floor_bytes: int) -> Scan: ...
    def aim(self, victims: Sequence[Candidate], members: Collection[int]) -> tuple[list[Shot], list[Spared]]: ...
    def fire(self, shots: list[Shot], thresholds: Thresholds, *, urgent: bool) -> Flight: ...
    def follow(self, flight: Flight, *, urgent: bool) -> bool: ...
    def close(self, shots: Sequence[Shot]) -> None: ...


class Watch:
    """What the guard remembers of one scope between steps. An episode runs from enter until above leave."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.level = Level.NONE
        self.reading: Reading[Signals] = Missing(Reason.NO_DATA, scope.label, "not measured yet")
        self.crossed_ns = 0
        self.rest_until_ns = 0
        self.told: set[str] = set()  #: actions recorded in this episode
        self.flight: Flight | None = None
        self.pending: Intervention | None = None
        self.stuck: set[tuple[int, int]] = set()  #: signalled, and still there after the deadline


@record
class Choice:
    ranking: Ranking
    plan: Plan
    missing: tuple[str, ...]


def choose(processes: Collection[int], policy: Policy, bounds: Bounds, deficit_bytes: int, host: Host) -> Choice:
    """The plan over processes of at least 1 MiB; over all of them if these do not cover the deficit."""
    for floor_bytes in (FLOOR_BYTES, 1):
        seen = host.scan(processes, floor_bytes)
        ranking = rank(seen.processes, policy, bounds)
        plan = make_plan(ranking, deficit_bytes)
        if plan.covers:
            break
    return Choice(ranking, plan, seen.missing)


def step(
    watch: Watch, watches: Sequence[Watch], policy: Policy, host: Host, *, dry_run: bool = False
) -> Intervention | None:
    """Measures the scope and does what that calls for; an Intervention when there is something to record.

    A scope that cannot be measured is never acted on. While its batch is on its way, nothing else is chosen."""
    watch.reading = host.signals(watch.scope)
    if isinstance(watch.reading, Value):
        watch.level = pressure.next_level(watch.level, watch.reading.value, policy.thresholds)
    if watch.flight is not None:
        return _follow(watch, watch.flight, host)
    if isinstance(watch.reading, Missing):
        return None
    signals = watch.reading.value
    if pressure.needs_action(signals, policy.thresholds):
        return _act(watch, watches, policy, host, dry_run=dry_run)
    watch.crossed_ns = 0
    return _end_episode(watch, policy, host, signals) if watch.level < Level.MEDIUM else None


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
        target_bytes=pressure.target_bytes(signals, policy.thresholds),
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
        return _tell(watch, host, "nothing_to_kill", _draft(watch, policy, signals, (str(members),)))
    draft = _draft(watch, policy, signals, ())
    dying, coming_bytes = _on_their_way(watches, members.value)
    deficit = draft.deficit_bytes - coming_bytes
    if deficit <= 0:
        return None
    bounds = Bounds(members.value, host.own_chain(), dying)
    choice = choose(members.value, policy, bounds, deficit, host)
    draft = replace(
        draft,
        deficit_bytes=deficit,
        spared=_spared(choice),
        decided_ns=host.wall_ns(),
        missing=signals.missing + choice.missing,
    )
    if not choice.plan.victims:
        return _tell(watch, host, "nothing_to_kill", draft)
    if dry_run:
        return _tell(watch, host, "dry_run", draft)
    return _shoot(watch, policy, host, choice.plan, draft)


def _shoot(watch: Watch, policy: Policy, host: Host, plan: Plan, draft: Intervention) -> Intervention | None:
    """Aims, looks once more whether it must be, and fires."""
    now_in_scope = host.members(watch.scope)
    if isinstance(now_in_scope, Missing):
        return None
    shots, lost = host.aim(plan.victims, now_in_scope.value)
    again = host.signals(watch.scope)
    if not shots or isinstance(again, Missing) or not pressure.needs_action(again.value, policy.thresholds):
        host.close(shots)
        return None
    watch.flight = host.fire(shots, policy.thresholds, urgent=watch.level >= Level.HIGH)
    spared = (*lost, *watch.flight.refused, *draft.spared)
    watch.pending = replace(draft, signalled_ns=host.wall_ns(), spared=spared)
    if watch.flight.killed:
        return None
    host.close(shots)
    watch.flight = None
    return _tell(watch, host, "nothing_to_kill", watch.pending)


def _follow(watch: Watch, flight: Flight, host: Host) -> Intervention | None:
    if not host.follow(flight, urgent=watch.level >= Level.HIGH):
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
    watch.told.add("killed")
    return done


def _tell(watch: Watch, host: Host, action: str, draft: Intervention) -> Intervention | None:
    """The record of a decision without effect, once in an episode; then the guard rests a moment."""
    watch.rest_until_ns = host.monotonic_ns() + _REST_NS
    if action in watch.told:
        return None
    watch.told.add(action)
    return replace(draft, action=action, available_after_bytes=draft.signals.available_bytes)


def _draft(watch: Watch, policy: Policy, signals: Signals, missing: tuple[str, ...]) -> Intervention:
    target = pressure.target_bytes(signals, policy.thresholds)
    return Intervention(
        scope=watch.scope,
        level=watch.level,
        action="",
        signals=signals,
        target_bytes=target,
        deficit_bytes=target - signals.available_bytes,
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
