"""Who would die for a deficit: from the warm list if it can be trusted, else from a look at everybody."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from osremed.core.reading import Missing, Reading, Value
from osremed.core.record import record
from osremed.fastoom.model import Candidate, Plan, Process, Ranking, Scan
from osremed.fastoom.plan import FLOOR_BYTES, MAX_BATCH, make_plan
from osremed.fastoom.policy import Policy
from osremed.fastoom.rank import Bounds, rank

_SLACK_BYTES, _SLACK_PARTS = 32 << 20, 8


class Processes(Protocol):
    """What a choice needs of the world."""

    def scan(self, pids: Collection[int], floor_bytes: int, *, warm: bool = False) -> Scan: ...
    def unexplained_bytes(self, processes: Collection[Process], anon_bytes: int) -> int: ...
    def look(self, pid: int) -> Reading[Process]: ...


class Looks(Protocol):
    def look(self, pid: int) -> Reading[Process]: ...


class Units(Looks, Protocol):
    def group_of(self, process: Process, *, whole_group: bool) -> Reading[tuple[str, tuple[int, ...]]]: ...


@record
class Choice:
    """`groups`: control groups that are ended as wholes, by path."""

    ranking: Ranking
    plan: Plan
    missing: tuple[str, ...]
    groups: tuple[str, ...] = ()


def choose(
    processes: Collection[int],
    policy: Policy,
    bounds: Bounds,
    deficit_bytes: int,
    host: Processes,
    *,
    anon_bytes: int = 0,
    most: int = MAX_BATCH,
) -> Choice:
    """The plan over processes of at least 1 MiB; over all of them if only that covers the deficit. `anon_bytes`: the
    scope's anonymous memory now, when the warm list may be used. What it says is believed only as far as it accounts
    for what grew since, and each victim is looked at afresh."""

    def chosen(seen: Scan) -> Choice:
        ranking = rank(seen.processes, policy, bounds)
        return Choice(ranking, make_plan(ranking, deficit_bytes, most=most), seen.missing)

    warm = anon_bytes > 0
    seen = host.scan(processes, FLOOR_BYTES, warm=warm)
    choice = chosen(seen)
    slack = max(_SLACK_BYTES, deficit_bytes // _SLACK_PARTS)
    doubtful = warm and (not choice.plan.covers or host.unexplained_bytes(seen.processes, anon_bytes) > slack)
    if doubtful and seen.passed:
        seen = _together(seen, host.scan(seen.passed, FLOOR_BYTES))
        choice = chosen(seen)
    if warm and not all(_still(one, policy, bounds, host) for one in choice.plan.victims):
        seen = host.scan(processes, FLOOR_BYTES)
        choice = chosen(seen)
    heap = sum(one.process.heap_bytes for one in choice.ranking.candidates)
    if not choice.plan.covers and heap + seen.small_bytes >= deficit_bytes:
        choice = chosen(host.scan(processes, 1))
    return choice


def _together(one: Scan, other: Scan) -> Scan:
    return Scan(
        one.processes + other.processes, one.small_bytes + other.small_bytes, one.missing + other.missing, other.passed
    )


def _still(victim: Candidate, policy: Policy, bounds: Bounds, host: Processes) -> bool:
    fresh = host.look(victim.process.pid)
    if isinstance(fresh, Missing) or fresh.value.identity != victim.process.identity:
        return False
    again = rank((fresh.value,), policy, bounds).candidates
    return bool(again) and again[0].tier == victim.tier and fresh.value.heap_bytes * 2 >= victim.process.heap_bytes


def with_groups(
    choice: Choice, policy: Policy, bounds: Bounds, host: Units, *, whole_group: bool, most: int = MAX_BATCH
) -> Choice:
    """The choice with every victim's companions: all of its control group, when the policy says so or the group's owner
    told the kernel (memory.oom.group). A group that holds somebody who must live, or more than `most` leaves room for,
    loses only the victim itself."""
    victims = {one.process.pid: one for one in choice.plan.victims}
    groups: list[str] = []
    missing: list[str] = list(choice.missing)
    for victim in choice.plan.victims:
        unit = host.group_of(victim.process, whole_group=whole_group)
        if isinstance(unit, Missing) or unit.value[0] in groups:
            continue
        path, pids = unit.value
        companions, why = companions_in(path, pids, policy, bounds, host)
        together = len(victims.keys() | {one.process.pid for one in companions})
        if not why and together > most:
            why = f"group {path} is not ended as a whole: that would be {together} at once, {most} may be"
        if why:
            missing.append(why)
            continue
        groups.append(path)
        for one in companions:
            victims.setdefault(one.process.pid, replace(one, why=f"in one group with {victim.process.name}: {path}"))
    expected = sum(one.process.heap_bytes for one in victims.values())
    plan = Plan(tuple(victims.values()), choice.plan.deficit_bytes, expected)
    return Choice(choice.ranking, plan, tuple(missing), tuple(groups))


def companions_in(
    path: str, pids: Collection[int], policy: Policy, bounds: Bounds, host: Looks
) -> tuple[tuple[Candidate, ...], str]:
    """Who ends with the group, and, when somebody in it must live, why it is not ended."""
    looks = [look.value for pid in pids if isinstance(look := host.look(pid), Value)]
    ranked = rank(looks, policy, bounds)
    lives = ranked.spared[0] if ranked.spared else None
    why = f"group {path} is not ended as a whole: {lives.name}[{lives.pid}] in it is {lives.why}" if lives else ""
    return ranked.candidates, why
