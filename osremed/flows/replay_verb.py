"""The verb `replay`: what rules would have decided on past events, on which fleet, and who would have been asked."""

from __future__ import annotations

import os
import time

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode
from osremed.core.language import filled
from osremed.core.units import parse_duration_s
from osremed.executor.inventory import groups_of
from osremed.flows.settings import ControlPaths
from osremed.runbook.catalog import load_catalog
from osremed.runbook.guardpolicy import load_guard_policies, policies_beside
from osremed.runbook.replay import Replayed, kept_evidence, no_evidence, past_events, replay_events, told_lines
from osremed.runbook.replayfleet import Fleet, fleet_of_inventory, fleet_of_number
from osremed.runbook.replayguards import recorded_courses
from osremed.runbook.store import RunStore

_SHOWN = 50


def replay(
    *,
    rules: str,
    state: str,
    against: str | None = None,
    events: str | None = None,
    since: str = "7d",
    inventory: str | None = None,
    fleet_hosts: int | None = None,
    collections: str = "",
) -> Answer:
    """What the rules, with the policies beside them, would have decided on past events, and where that differs from
    `against` (none: from no rules).

    `events` is a file of JSON lines or a journal; none: the dispatcher's. Shares and policies of groups are asked of
    the `inventory`; without one of `fleet_hosts` hosts, or of those that had events. Exit code 1 if a decision
    differs."""
    paths = ControlPaths(os.path.abspath(state))
    fleet = _fleet(inventory, fleet_hosts, collections)
    since_ns = time.time_ns() - round(parse_duration_s(since) * 1e9)
    past, unreadable = past_events(events or paths.intake, since_ns=since_ns)
    store = RunStore(paths.runs) if os.path.isdir(paths.runs) else None
    evidence, courses = (kept_evidence(store), recorded_courses(store)) if store else (no_evidence, {})
    old, new = load_catalog(against) if against else {}, load_catalog(rules)
    theirs = load_guard_policies(policies_beside(against)) if against else ()
    policies = theirs, load_guard_policies(policies_beside(rules))
    replayed = replay_events(
        past, old, new, evidence, unreadable=unreadable, courses=courses, fleet=fleet, policies=policies
    )
    code = ExitCode.FAILED if against and replayed.differences else ExitCode.OK
    return Answer(replayed.as_json(), _replay_text(replayed), code)


def _fleet(inventory: str | None, hosts: int | None, collections: str) -> Fleet | None:
    """None: of the hosts that had events."""
    if inventory is not None and hosts is not None:
        hint = "without an inventory --fleet-hosts says how many there are"
        raise BadInput("the fleet is that of the inventory, or so many hosts", where="--fleet-hosts", hint=hint)
    if hosts is not None:
        return fleet_of_number(hosts, "--fleet-hosts")
    return fleet_of_inventory(groups_of(inventory, collections), inventory) if inventory is not None else None


def _replay_text(replayed: Replayed) -> str:
    lines = [
        filled("{1} of {2}, {3}: {4} => {5}", each.event, each.host, each.runbook, each.old, each.new)
        for each in replayed.differences[:_SHOWN]
    ]
    if len(replayed.differences) > _SHOWN:
        lines.append(filled("… and {1} more (-o json has them all)", str(len(replayed.differences) - _SHOWN)))
    counts = (replayed.events, replayed.decisions, replayed.with_evidence, len(replayed.differences))
    told = filled("{1} events, {2} decisions ({3} with their evidence), {4} differ", *map(str, counts))
    lines.append(told + filled(", {1} lines unreadable", str(replayed.unreadable)))
    lines.append(filled("refused by guards: {1}", filled(replayed.refused)))
    return "\n".join([*lines, *told_lines(replayed)])
