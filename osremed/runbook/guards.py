"""Guards: may this run go on? Pure functions of the event, the runbook, the other runs and the time, with figures.

Checked twice: when the event arrives, and again, in the same breath as the first change, after evidence and approval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from osremed.core.record import record
from osremed.core.units import format_duration
from osremed.runbook.document import Runbook
from osremed.runbook.model import GuardResult, Run


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

    def seconds_since(self, wall_ns: int) -> float:
        return (self.now_ns - wall_ns) / 1e9

    @property
    def siblings(self) -> list[Run]:
        """Runs of the same runbook that the guards let in: each cost its host a collection at least."""
        return [run for run in self.others if run.runbook == self.run.runbook and run.admitted]


def _scope(now: Situation) -> tuple[bool, str]:
    if now.host_known:
        return True, f"{now.run.host} is in the inventory"
    return False, f"{now.run.host} is not in the inventory, which has {now.fleet_hosts} hosts"


def _fresh(now: Situation) -> tuple[bool, str]:
    age_s, limit_s = now.seconds_since(now.run.event.time_ns), now.runbook.guards.max_event_age
    text = f"the event is {format_duration(max(age_s, 0.0))} old, at most {format_duration(limit_s)}"
    return age_s <= limit_s, text


def _journals(now: Situation) -> tuple[bool, str]:
    if now.damaged:
        return False, f"{len(now.damaged)} runs cannot be read, what they changed is not known: {now.damaged[0]}"
    return True, "every run can be read"


def _busy(now: Situation) -> tuple[bool, str]:
    """One change at a time on one host, whatever the runbook."""
    for run in now.others:
        if run.host == now.run.host and not run.ended and (run.acted or run.raised_ns < now.run.raised_ns):
            return False, f"run {run.run_id} ({run.runbook}) is {run.state.value} on {run.host}"
    return True, f"no other run on {now.run.host}"


def _per_host(now: Situation) -> tuple[bool, str]:
    limit = now.runbook.guards.concurrency.per_host
    active = [run for run in now.siblings if run.host == now.run.host and not run.ended]
    return len(active) < limit, f"{len(active)} active on {now.run.host}, at most {limit}"


def _cooldown(now: Situation) -> tuple[bool, str]:
    limit_s = now.runbook.guards.cooldown
    ended = [run for run in now.siblings if run.host == now.run.host and run.ended]
    if not ended:
        return True, f"no earlier run of {now.run.runbook} on {now.run.host}"
    last = max(ended, key=lambda run: run.updated_ns)
    since_s = now.seconds_since(last.updated_ns)
    text = f"run {last.run_id} ended {format_duration(since_s)} ago, cooldown {format_duration(limit_s)}"
    return since_s >= limit_s, text


def _fleet(now: Situation) -> tuple[bool, str]:
    share = now.runbook.guards.concurrency.fleet
    limit = share if isinstance(share, int) else max(1, math.floor(share * now.fleet_hosts))
    active = [run for run in now.siblings if not run.ended]
    return len(active) < limit, f"{len(active)} active in the fleet, at most {limit} of {now.fleet_hosts} hosts"


def _storm(now: Situation) -> tuple[bool, str]:
    storm = now.runbook.guards.storm
    recent = [run for run in now.siblings if now.seconds_since(run.raised_ns) < storm.per]
    text = f"{len(recent)} runs in the last {format_duration(storm.per)}, at most {storm.max_runs}"
    return len(recent) < storm.max_runs, text


GUARDS: tuple[tuple[str, Callable[[Situation], tuple[bool, str]]], ...] = (
    ("scope", _scope),
    ("fresh", _fresh),
    ("journals", _journals),
    ("target-busy", _busy),
    ("per-host", _per_host),
    ("cooldown", _cooldown),
    ("fleet", _fleet),
    ("storm", _storm),
)


def check_guards(now: Situation) -> tuple[GuardResult, ...]:
    """The results in order, up to and including the first that says no."""
    results: list[GuardResult] = []
    for name, guard in GUARDS:
        passed, detail = guard(now)
        results.append(GuardResult(name, passed, detail))
        if not passed:
            break
    return tuple(results)
