"""Guards: may this run go on? Pure functions of the event, the runbook, the other runs and the time, with figures.

Checked twice: when the event arrives, and again, in the same breath as the first change, after evidence and approval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import get_args
from zoneinfo import ZoneInfo

from osremed.core.record import field, record
from osremed.core.units import format_duration
from osremed.runbook.controls import Controls
from osremed.runbook.document import Runbook, Window
from osremed.runbook.fields import Day
from osremed.runbook.guardpolicy import Restriction
from osremed.runbook.model import GuardResult, Run, RunState

#: A breaker that opens after the first bad run would be a cooldown.
_BREAKER_NEEDS = 4


@record
class Situation:
    """What the guards look at. `others` are all other known runs; `fleet_hosts` the number of hosts in the inventory;
    `host_known` whether the event's host is one of them."""

    run: Run
    runbook: Runbook
    others: Sequence[Run]
    fleet_hosts: int
    host_known: bool
    now_ns: int
    damaged: Sequence[str] = ()  #: runs whose journal cannot be read: they may be changing any host
    controls: Controls | None = Controls()  #: what people have said; None: it cannot be read
    restrictions: Sequence[Restriction] = ()  #: of the groups its host is in
    unrestricted_why: str = ""  #: why the restrictions cannot be told
    here: Sequence[Run] = field(init=False)  #: other runs of its host, whatever the runbook
    siblings: Sequence[Run] = field(init=False)  #: of the same runbook, let in: each cost a collection at least
    siblings_here: Sequence[Run] = field(init=False)
    kept_or_not: Sequence[Run] = field(init=False)  #: ended siblings that may have changed something, oldest first
    kept_or_not_here: Sequence[Run] = field(init=False)

    def seconds_since(self, wall_ns: int) -> float:
        return (self.now_ns - wall_ns) / 1e9

    def __post_init__(self) -> None:
        """Sorts the other runs once for all guards."""
        host, runbook = self.run.host, self.run.runbook
        siblings = [run for run in self.others if run.runbook == runbook and run.admitted]
        kept_or_not = sorted((run for run in siblings if run.ended and run.acted), key=lambda run: run.updated_ns)
        sorted_out = {
            "here": [run for run in self.others if run.event.host == host],
            "siblings": siblings,
            "siblings_here": [run for run in siblings if run.event.host == host],
            "kept_or_not": kept_or_not,
            "kept_or_not_here": [run for run in kept_or_not if run.event.host == host],
        }
        for name, runs in sorted_out.items():
            object.__setattr__(self, name, runs)


def _frozen(now: Situation) -> tuple[bool, str]:
    if now.controls is None:
        return False, "the file of freezes cannot be read, so everything is frozen"
    for freeze in now.controls.freezes:
        if freeze.covers(now.run.runbook, now.run.host, now.now_ns):
            return False, f"{freeze.scope} is frozen by {freeze.by}: {freeze.reason}"
    return True, "nothing is frozen here"


def _scope(now: Situation) -> tuple[bool, str]:
    if now.host_known:
        return True, f"{now.run.host} is in the inventory"
    return False, f"{now.run.host} is not in the inventory, which has {now.fleet_hosts} hosts"


def _policies(now: Situation) -> tuple[bool, str]:
    if now.unrestricted_why:
        return False, f"the guards of its groups cannot be told: {now.unrestricted_why}"
    names = ", ".join(each.policy for each in now.restrictions)
    return True, f"also asked: {names}" if names else "no policy of a group restricts it"


def _fresh(now: Situation) -> tuple[bool, str]:
    age_s, limit_s = now.seconds_since(now.run.event.time_ns), now.runbook.guards.max_event_age
    text = f"the event is {format_duration(max(age_s, 0.0))} old, at most {format_duration(limit_s)}"
    return age_s <= limit_s, text


def _journals(now: Situation) -> tuple[bool, str]:
    if now.damaged:
        return False, f"{len(now.damaged)} runs cannot be read, what they changed is not known: {now.damaged[0]}"
    return True, "every run can be read"


def _half_undone(now: Situation) -> tuple[bool, str]:
    """A host on which a change could not be taken back is a human's until one has seen to it."""
    seen = now.controls.acknowledged if now.controls else ()
    for run in now.here:
        if run.state is RunState.UNDO_INCOMPLETE and run.run_id not in seen:
            return False, f"run {run.run_id} was not taken back completely; osremed runs acknowledge {run.run_id}"
    return True, f"nothing is half undone on {now.run.host}"


def _busy(now: Situation) -> tuple[bool, str]:
    """One change at a time on one host, whatever the runbook."""
    for run in now.here:
        if not run.ended and (run.acted or run.raised_ns < now.run.raised_ns):
            return False, f"run {run.run_id} ({run.runbook}) is {run.state.value} on {run.host}"
    return True, f"no other run on {now.run.host}"


def _per_host(now: Situation) -> tuple[bool, str]:
    limit = now.runbook.guards.concurrency.per_host
    active = [run for run in now.siblings_here if not run.ended]
    return len(active) < limit, f"{len(active)} active on {now.run.host}, at most {limit}"


def _cooldown(now: Situation) -> tuple[bool, str]:
    limit_s = now.runbook.guards.cooldown
    ended = [run for run in now.siblings_here if run.ended]
    if not ended:
        return True, f"no earlier run of {now.run.runbook} on {now.run.host}"
    last = max(ended, key=lambda run: run.updated_ns)
    since_s = now.seconds_since(last.updated_ns)
    text = f"run {last.run_id} ended {format_duration(since_s)} ago, cooldown {format_duration(limit_s)}"
    return since_s >= limit_s, text


def _failed_in_a_row(now: Situation) -> list[Run]:
    failed = itertools.takewhile(lambda run: run.state is not RunState.SUCCEEDED, reversed(now.kept_or_not_here))
    return list(failed)


def _backoff(now: Situation) -> tuple[bool, str]:
    """After each failure in a row the cooldown doubles; after too many there is the long pause."""
    limits, failed = now.runbook.guards.failures, _failed_in_a_row(now)
    if not failed:
        return True, f"the last run on {now.run.host} did not fail"
    wait_s = min(now.runbook.guards.cooldown * 2 ** min(len(failed), 20), limits.pause)
    if len(failed) >= limits.max:
        wait_s = limits.pause
    since_s = now.seconds_since(failed[0].updated_ns)
    text = (
        f"{len(failed)} failed in a row, the last {format_duration(since_s)} ago; next after {format_duration(wait_s)}"
    )
    return since_s >= wait_s, text


def _recurrence(now: Situation) -> tuple[bool, str]:
    """What helps and comes back again and again needs a human, not another turn."""
    limit = now.runbook.guards.recurrence
    helped = [
        run
        for run in now.kept_or_not_here
        if run.state is RunState.SUCCEEDED and now.seconds_since(run.updated_ns) < limit.per
    ]
    text = f"helped {len(helped)} times in {format_duration(limit.per)} on {now.run.host}, at most {limit.max}"
    return len(helped) < limit.max, text


def _breaker(now: Situation) -> tuple[bool, str]:
    """Opens when too many of the fleet's last runs were not kept; closed by hand only."""
    limit = now.runbook.guards.breaker
    reset_ns = now.controls.resets.get(now.run.runbook, 0) if now.controls else 0
    last = [run for run in now.kept_or_not if run.updated_ns > reset_ns][-limit.of :]
    failed = [run for run in last if run.state is not RunState.SUCCEEDED]
    text = f"{len(failed)} of the last {len(last)} runs were not kept, the breaker opens at {limit.failed:.0%}"
    if len(last) >= min(_BREAKER_NEEDS, limit.of) and len(failed) >= limit.failed * len(last):
        return False, f"{text}; osremed runs reset-breaker {now.run.runbook}"
    return True, text


def hosts_in(share: float, fleet_hosts: int) -> int:
    """How many hosts a number (int) or a share of the fleet (float) is; a share is at least one."""
    return share if isinstance(share, int) else max(1, math.floor(share * fleet_hosts))


def _blast_radius(now: Situation) -> tuple[bool, str]:
    radius = now.runbook.guards.blast_radius
    if radius is None:
        return True, "not declared"
    limit = hosts_in(radius.hosts, now.fleet_hosts)
    acted = [run for run in now.siblings if run.acted and now.seconds_since(run.updated_ns) < radius.per]
    hosts = {run.host for run in acted} | {now.run.host}
    text = f"{len(hosts)} hosts changed in {format_duration(radius.per)} with this one, at most {limit}"
    return len(hosts) <= limit, text


_DAYS = get_args(Day)


def _in_window(window: Window, now_ns: int) -> bool:
    local = datetime.fromtimestamp(now_ns / 1e9, ZoneInfo(window.timezone))
    time, today, yesterday = local.strftime("%H:%M"), _DAYS[local.weekday()], _DAYS[local.weekday() - 1]
    if window.begin < window.to:
        return today in window.days and window.begin <= time < window.to
    return (today in window.days and time >= window.begin) or (yesterday in window.days and time < window.to)


def _window(now: Situation) -> tuple[bool, str]:
    windows = now.runbook.guards.windows
    if not windows:
        return True, "no window is declared"
    shown = ", ".join(f"{'/'.join(each.days)} {each.begin}-{each.to} {each.timezone}" for each in windows)
    return any(_in_window(each, now.now_ns) for each in windows), f"changes only {shown}"


def _fleet(now: Situation) -> tuple[bool, str]:
    limit = hosts_in(now.runbook.guards.concurrency.fleet, now.fleet_hosts)
    active = [run for run in now.siblings if not run.ended]
    return len(active) < limit, f"{len(active)} active in the fleet, at most {limit} of {now.fleet_hosts} hosts"


def _storm(now: Situation) -> tuple[bool, str]:
    storm = now.runbook.guards.storm
    recent = [run for run in now.siblings if now.seconds_since(run.raised_ns) < storm.per]
    text = f"{len(recent)} runs in the last {format_duration(storm.per)}, at most {storm.max_runs}"
    return len(recent) < storm.max_runs, text


GUARDS: tuple[tuple[str, Callable[[Situation], tuple[bool, str]]], ...] = (
    ("freeze", _frozen),
    ("scope", _scope),
    ("policies", _policies),
    ("fresh", _fresh),
    ("journals", _journals),
    ("half-undone", _half_undone),
    ("target-busy", _busy),
    ("per-host", _per_host),
    ("cooldown", _cooldown),
    ("backoff", _backoff),
    ("recurrence", _recurrence),
    ("fleet", _fleet),
    ("storm", _storm),
    ("blast-radius", _blast_radius),
    ("breaker", _breaker),
    ("window", _window),
)


#: Key of `guards` -> the guards that look at it.
_OF_KEY: Mapping[str, frozenset[str]] = {
    "cooldown": frozenset({"cooldown"}),
    "concurrency": frozenset({"per-host", "fleet"}),
    "storm": frozenset({"storm"}),
    "max_event_age": frozenset({"fresh"}),
    "failures": frozenset({"backoff"}),
    "recurrence": frozenset({"recurrence"}),
    "breaker": frozenset({"breaker"}),
    "blast_radius": frozenset({"blast-radius"}),
    "windows": frozenset({"window"}),
}


def _in_group(now: Situation, restriction: Restriction) -> Situation:
    """As its policy sees it: with its guards, and its group for the fleet."""
    runbook = now.runbook.model_copy(update={"guards": restriction.guards})
    others = [run for run in now.others if run.host in restriction.hosts]
    return replace(now, runbook=runbook, others=others, fleet_hosts=len(restriction.hosts))


def _asked(now: Situation) -> Iterator[tuple[str, Callable[[Situation], tuple[bool, str]], Situation]]:
    for name, guard in GUARDS:
        yield name, guard, now
    for each in now.restrictions:
        wanted = frozenset(name for key in each.names for name in _OF_KEY[key])
        there = _in_group(now, each)
        yield from ((f"{name} of {each.policy}", guard, there) for name, guard in GUARDS if name in wanted)


def refusing_guard(now: Situation) -> str:
    """The first guard that says no; "" if none does: `check_guards` without its words, for a replay of many."""
    return next((name for name, guard, situation in _asked(now) if not guard(situation)[0]), "")


def check_guards(now: Situation) -> tuple[GuardResult, ...]:
    """The results in order, up to and including the first that says no."""
    results: list[GuardResult] = []
    for name, guard, situation in _asked(now):
        passed, detail = guard(situation)
        results.append(GuardResult(name, passed, detail))
        if not passed:
            break
    return tuple(results)
