"""Guards: may this run go on? Pure functions of the event, the runbook, the other runs and the time, with figures.

Checked twice: when the event arrives, and again after evidence, approval and what is measured before the change; both
times in the same breath in which the answer is kept (`gate`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import Protocol, get_args
from zoneinfo import ZoneInfo

from osremed.core.event import Event
from osremed.core.record import field, record
from osremed.core.units import format_duration
from osremed.runbook.controls import Controls, frozen_by
from osremed.runbook.document import Runbook, Window
from osremed.runbook.fields import Day
from osremed.runbook.guardpolicy import Restriction
from osremed.runbook.model import GuardResult, RunState
from osremed.runbook.modes import mode_of

#: A breaker that opens after the first bad run would be a cooldown.
_BREAKER_NEEDS = 4
#: By so much a host's clock may be ahead of ours: an event of tomorrow would be fresh for a day.
_AHEAD_S = 60.0
_UPDATED = attrgetter("updated_ns")
#: Looked up once: up to Python 3.11 a member of an enum costs as much as the rest of a look at a run.
_KEPT, _HALF_UNDONE = RunState.SUCCEEDED, RunState.UNDO_INCOMPLETE


class KnownRun(Protocol):
    """What guards look at of a run: `model.Run`, or a stand-in where there are very many."""

    @property
    def run_id(self) -> str: ...
    @property
    def runbook(self) -> str: ...
    @property
    def event(self) -> Event: ...
    @property
    def host(self) -> str: ...
    @property
    def state(self) -> RunState: ...
    @property
    def raised_ns(self) -> int: ...
    @property
    def updated_ns(self) -> int: ...
    @property
    def admitted(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    @property
    def acted(self) -> bool: ...
    @property
    def looks_only(self) -> bool: ...


@record
class Situation:
    """What the guards look at. `others` are all other known runs; `fleet_hosts` the number of hosts in the inventory;
    `host_known` whether the event's host is one of them."""

    run: KnownRun
    runbook: Runbook
    others: Sequence[KnownRun]
    fleet_hosts: int
    host_known: bool
    now_ns: int
    damaged: Sequence[str] = ()  #: runs whose journal cannot be read: they may be changing any host
    controls: Controls | None = Controls()  #: what people have said; None: it cannot be read
    restrictions: Sequence[Restriction] = ()  #: of the groups its host is in
    unrestricted_why: str = ""  #: why the restrictions cannot be told
    unasked: bool = False  #: it is about to change something, and no person was asked
    here: Sequence[KnownRun] = field(init=False)  #: other runs of its host, whatever the runbook
    siblings: Sequence[KnownRun] = field(init=False)  #: of the same runbook, let in: each cost a collection at least
    siblings_here: Sequence[KnownRun] = field(init=False)
    kept_or_not: Sequence[KnownRun] = field(init=False)  #: ended siblings that may have changed something, oldest first
    kept_or_not_here: Sequence[KnownRun] = field(init=False)

    def seconds_since(self, wall_ns: int) -> float:
        return (self.now_ns - wall_ns) / 1e9

    def __post_init__(self) -> None:
        """Sorts the other runs once for all guards."""
        host, runbook = self.run.host, self.run.runbook
        siblings = [run for run in self.others if run.runbook == runbook and run.admitted]
        here = [run for run in self.others if run.host == host]
        siblings_here = [run for run in here if run.runbook == runbook and run.admitted]
        keep = object.__setattr__
        keep(self, "here", here)
        keep(self, "siblings", siblings)
        keep(self, "siblings_here", siblings_here)
        keep(self, "kept_or_not", _kept_or_not(siblings))
        keep(self, "kept_or_not_here", _kept_or_not(siblings_here))


def _kept_or_not(runs: Sequence[KnownRun]) -> list[KnownRun]:
    return sorted([run for run in runs if run.ended and run.acted], key=_UPDATED)


#: Whether it may go on, and the words for it, made only for who reads them.
Said = tuple[bool, Callable[[], str]]
Guard = Callable[[Situation], Said]


def _frozen(now: Situation) -> Said:
    why = frozen_by(now.controls, now.run.runbook, now.run.host, now.now_ns)
    return not why, lambda: why or "nothing is frozen here"


def unknown_words(host: str, fleet_hosts: int) -> str:
    return f"{host} is not in the inventory, which has {fleet_hosts} hosts"


def _scope(now: Situation) -> Said:
    if now.host_known:
        return True, lambda: f"{now.run.host} is in the inventory"
    return False, lambda: unknown_words(now.run.host, now.fleet_hosts)


def _policies(now: Situation) -> Said:
    if now.unrestricted_why:
        return False, lambda: f"the guards of its groups cannot be told: {now.unrestricted_why}"
    if not now.restrictions:
        return True, lambda: "no policy of a group restricts it"
    return True, lambda: f"also asked: {', '.join(each.policy for each in now.restrictions)}"


def _mode(now: Situation) -> Said:
    """Says from the beginning whether a person will be asked; and no where one should have been, because the rules
    have become more careful since the run was decided."""
    mode = mode_of(now.runbook, now.restrictions, now.unrestricted_why)
    if mode.auto:
        return True, lambda: f"{mode.why}: it asks only where a step does"
    if now.unasked:
        return False, lambda: f"{mode.why} by now, and nobody was asked"
    return True, lambda: f"{mode.why}: a person is asked before anything is changed"


def _fresh(now: Situation) -> Said:
    age_s, limit_s = now.seconds_since(now.run.event.time_ns), now.runbook.guards.max_event_age
    if age_s < -_AHEAD_S:

        def ahead() -> str:
            by, most = format_duration(-age_s), format_duration(_AHEAD_S)
            return f"the event is dated {by} ahead of the clock here, at most {most}: one of the two clocks is wrong"

        return False, ahead
    return (
        age_s <= limit_s,
        lambda: f"the event is {format_duration(max(age_s, 0.0))} old, at most {format_duration(limit_s)}",
    )


def _journals(now: Situation) -> Said:
    if now.damaged:
        first = now.damaged[0]
        return False, lambda: f"{len(now.damaged)} runs cannot be read, what they changed is not known: {first}"
    return True, lambda: "every run can be read"


def _half_undone(now: Situation) -> Said:
    """A host on which a change could not be taken back is a human's until one has seen to it."""
    seen = now.controls.acknowledged if now.controls else ()
    left = [run.run_id for run in now.here if run.state is _HALF_UNDONE and run.run_id not in seen]
    if left:
        return False, lambda: f"run {left[0]} was not taken back completely; osremed runs acknowledge {left[0]}"
    return True, lambda: f"nothing is half undone on {now.run.host}"


def _busy(now: Situation) -> Said:
    """One change at a time on one host, whatever the runbook: who was let in first goes first. No clock tells who that
    was: runs are let in one after the other (`gate`), and here is none while another one is."""
    going_on = (run for run in now.here if not run.ended and not run.looks_only)
    busy = [run for run in going_on if run.acted or run.admitted]
    if busy:
        run = busy[0]
        return False, lambda: f"run {run.run_id} ({run.runbook}) is {run.state.value} on {run.host}"
    return True, lambda: f"no other run on {now.run.host}"


def _per_host(now: Situation) -> Said:
    limit = now.runbook.guards.concurrency.per_host
    active = len([run for run in now.siblings_here if not run.ended])
    return active < limit, lambda: f"{active} active on {now.run.host}, at most {limit}"


def _cooldown(now: Situation) -> Said:
    limit_s = now.runbook.guards.cooldown
    ended = [run for run in now.siblings_here if run.ended]
    if not ended:
        return True, lambda: f"no earlier run of {now.run.runbook} on {now.run.host}"
    last = max(ended, key=lambda run: run.updated_ns)
    since_s = now.seconds_since(last.updated_ns)
    return (
        since_s >= limit_s,
        lambda: f"run {last.run_id} ended {format_duration(since_s)} ago, cooldown {format_duration(limit_s)}",
    )


def _failed_in_a_row(now: Situation) -> list[KnownRun]:
    failed = itertools.takewhile(lambda run: run.state is not _KEPT, reversed(now.kept_or_not_here))
    return list(failed)


def _backoff(now: Situation) -> Said:
    """After each failure in a row the cooldown doubles; after too many there is the long pause."""
    limits, failed = now.runbook.guards.failures, _failed_in_a_row(now)
    if not failed:
        return True, lambda: f"the last run on {now.run.host} did not fail"
    wait_s = min(now.runbook.guards.cooldown * 2 ** min(len(failed), 20), limits.pause)
    if len(failed) >= limits.max:
        wait_s = limits.pause
    since_s = now.seconds_since(failed[0].updated_ns)

    def words() -> str:
        ago, after = format_duration(since_s), format_duration(wait_s)
        return f"{len(failed)} failed in a row, the last {ago} ago; next after {after}"

    return since_s >= wait_s, words


def _recurrence(now: Situation) -> Said:
    """What helps and comes back again and again needs a human, not another turn."""
    limit = now.runbook.guards.recurrence
    kept = [run for run in now.kept_or_not_here if run.state is _KEPT]
    helped = len([run for run in kept if now.seconds_since(run.updated_ns) < limit.per])
    return (
        helped < limit.max,
        lambda: f"helped {helped} times in {format_duration(limit.per)} on {now.run.host}, at most {limit.max}",
    )


def _breaker(now: Situation) -> Said:
    """Opens when too many of the fleet's last runs were not kept; closed by hand only."""
    limit = now.runbook.guards.breaker
    reset_ns = now.controls.resets.get(now.run.runbook, 0) if now.controls else 0
    since = [run for run in now.kept_or_not if run.updated_ns > reset_ns] if reset_ns else now.kept_or_not
    last = since[-limit.of :]
    failed = len([run for run in last if run.state is not _KEPT])
    opens = len(last) >= min(_BREAKER_NEEDS, limit.of) and failed >= limit.failed * len(last)

    def words() -> str:
        text = f"{failed} of the last {len(last)} runs were not kept, the breaker opens at {limit.failed:.0%}"
        return f"{text}; osremed runs reset-breaker {now.run.runbook}" if opens else text

    return not opens, words


def hosts_in(share: float, fleet_hosts: int) -> int:
    """How many hosts a number (int) or a share of the fleet (float) is; a share is at least one."""
    return share if isinstance(share, int) else max(1, math.floor(share * fleet_hosts))


def _blast_radius(now: Situation) -> Said:
    radius = now.runbook.guards.blast_radius
    if radius is None:
        return True, lambda: "not declared"
    limit = hosts_in(radius.hosts, now.fleet_hosts)
    hosts = {run.host for run in now.siblings if run.acted and now.seconds_since(run.updated_ns) < radius.per}
    hosts.add(now.run.host)
    return (
        len(hosts) <= limit,
        lambda: f"{len(hosts)} hosts changed in {format_duration(radius.per)} with this one, at most {limit}",
    )


_DAYS = get_args(Day)


def _in_window(window: Window, now_ns: int) -> bool:
    local = datetime.fromtimestamp(now_ns / 1e9, ZoneInfo(window.timezone))
    time, today, yesterday = local.strftime("%H:%M"), _DAYS[local.weekday()], _DAYS[local.weekday() - 1]
    if window.begin < window.to:
        return today in window.days and window.begin <= time < window.to
    return (today in window.days and time >= window.begin) or (yesterday in window.days and time < window.to)


def _window(now: Situation) -> Said:
    windows = now.runbook.guards.windows
    if not windows:
        return True, lambda: "no window is declared"

    def words() -> str:
        shown = ", ".join(f"{'/'.join(each.days)} {each.begin}-{each.to} {each.timezone}" for each in windows)
        return f"changes only {shown}"

    return any(_in_window(each, now.now_ns) for each in windows), words


def _fleet(now: Situation) -> Said:
    limit = hosts_in(now.runbook.guards.concurrency.fleet, now.fleet_hosts)
    active = len([run for run in now.siblings if not run.ended])
    return active < limit, lambda: f"{active} active in the fleet, at most {limit} of {now.fleet_hosts} hosts"


def _storm(now: Situation) -> Said:
    storm = now.runbook.guards.storm
    now_ns, per_s = now.now_ns, storm.per
    recent = len([run for run in now.siblings if (now_ns - run.raised_ns) / 1e9 < per_s])
    return (
        recent < storm.max_runs,
        lambda: f"{recent} runs in the last {format_duration(storm.per)}, at most {storm.max_runs}",
    )


GUARDS: tuple[tuple[str, Guard], ...] = (
    ("freeze", _frozen),
    ("scope", _scope),
    ("policies", _policies),
    ("mode", _mode),
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


#: Questions about changes: they do not hold a run that makes none. What looking costs is asked of every run.
_OF_CHANGES = frozenset({"mode", "journals", "half-undone", "target-busy", "blast-radius", "window"})


def _looks_only(_now: Situation) -> Said:
    return True, lambda: "it looks and changes nothing"


#: By whether the run only looks.
_CHAINS: Mapping[bool, tuple[tuple[str, Guard], ...]] = {
    False: GUARDS,
    True: tuple((name, _looks_only if name in _OF_CHANGES else guard) for name, guard in GUARDS),
}


def _asked(now: Situation) -> tuple[tuple[str, Guard], ...]:
    return _CHAINS[now.runbook.looks_only]


def _in_group(now: Situation, restriction: Restriction) -> Situation:
    """As its policy sees it: with its guards, and its group for the fleet."""
    runbook = now.runbook.model_copy(update={"guards": restriction.guards})
    others = [run for run in now.others if run.host in restriction.hosts]
    return replace(now, runbook=runbook, others=others, fleet_hosts=len(restriction.hosts))


def _asked_of_groups(now: Situation) -> Iterator[tuple[str, Guard, Situation]]:
    for each in now.restrictions:
        wanted = frozenset(name for key in each.names for name in _OF_KEY[key])
        there = _in_group(now, each)
        yield from ((f"{name} of {each.policy}", guard, there) for name, guard in _asked(now) if name in wanted)


def refusing_guard(now: Situation) -> str:
    """The first guard that says no; "" if none does: `check_guards` without its words, for a replay of many."""
    for name, guard in _asked(now):
        if not guard(now)[0]:
            return name
    return next((name for name, guard, there in _asked_of_groups(now) if not guard(there)[0]), "")


def check_guards(now: Situation) -> tuple[GuardResult, ...]:
    """The results in order, up to and including the first that says no."""
    results: list[GuardResult] = []
    own = ((name, guard, now) for name, guard in _asked(now))
    for name, guard, situation in itertools.chain(own, _asked_of_groups(now)):
        passed, words = guard(situation)
        results.append(GuardResult(name, passed, words()))
        if not passed:
            break
    return tuple(results)
