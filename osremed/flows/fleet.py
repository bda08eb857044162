"""What is known of the fleet without asking a host: its runbooks, what its hosts told, and what was done there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from osremed.core.answer import Answer
from osremed.core.clock import rfc3339
from osremed.core.columns import padded
from osremed.core.errors import BadInput
from osremed.core.journal import Entry, read_journal
from osremed.core.language import filled
from osremed.executor.runner import AnsibleExecutor
from osremed.flows.control_verbs import freeze
from osremed.flows.settings import ControlPaths
from osremed.runbook.catalog import load_catalog
from osremed.runbook.model import Run, RunState
from osremed.runbook.store import RunStore

#: Events looked back at for what a host told last. 64 segments of 1 MiB hold about so many.
LOOK_BACK = 20_000


def _paths(state: str) -> ControlPaths:
    return ControlPaths(os.path.abspath(state))


def told(state: str) -> list[Entry]:
    """The latest events of the intake, oldest first; [] where none ever came."""
    path = _paths(state).intake
    return list(read_journal(path).entries[-LOOK_BACK:]) if os.path.isdir(path) else []


def known_runs(state: str) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    path = _paths(state).runs
    return RunStore(path).runs() if os.path.isdir(path) else ((), ())


def runbooks_list(*, runbooks: str) -> Answer:
    """The runbooks in force: name, title, what begins them, the digest of their file."""
    rows = [
        {
            "name": entry.runbook.name,
            "title": entry.runbook.metadata.title,
            "on": entry.runbook.events,
            "actions": [remedy.action for remedy in entry.runbook.remediate],
            "digest": entry.digest,
        }
        for entry in load_catalog(runbooks).values()
    ]
    lines = [f"{row['name']:<24} {', '.join(row['on']):<32} {row['title']}" for row in rows]
    return Answer({"runbooks": rows}, "\n".join(lines))


def events_list(*, state: str, host: str | None = None, limit: int = 50, before: int | None = None) -> Answer:
    """What hosts told, newest first. `before` is the `seq` of the last one seen: the page after it."""
    if not 1 <= limit <= 1000:
        raise BadInput(f"limit {limit} is not between 1 and 1000", where="--limit")
    found = [
        {"seq": entry.seq, **entry.record}
        for entry in reversed(told(state))
        if (before is None or entry.seq < before) and (host is None or entry.record.get("host") == host)
    ]
    page = found[:limit]
    lines = [f"{rfc3339(each['time_ns'])}  {each['name']:<24} {each['host']:<20} {each['id']}" for each in page]
    following = page[-1]["seq"] if len(found) > limit else None
    return Answer({"events": page, "next_before": following}, "\n".join(lines) or filled("no events"))


def _summary(host: str, events: Iterable[Mapping[str, Any]], runs: Iterable[Run]) -> dict[str, Any]:
    """`level` is the last memory level the host told, None if it never did; of interventions and runs the counts and
    the latest."""
    told_of = list(events)
    levels = [each for each in told_of if each["name"] == "memory.level"]
    kills = [each for each in told_of if each["name"] == "memory.near_oom"]
    last = max((each["time_ns"] for each in told_of), default=None)
    mine = list(runs)
    return {
        "host": host,
        "level": levels[-1]["attributes"].get("level") if levels else None,
        "last_event_ns": last,
        "interventions": len(kills),
        "last_killed": _names(kills[-1]["attributes"].get("killed")) if kills else [],
        "open_runs": [each.run_id for each in mine if not each.ended],
        "runs": len(mine),
        "needs_human": [each.run_id for each in mine if each.state is RunState.UNDO_INCOMPLETE],
    }


def _names(killed: Any) -> list[str]:
    rows = killed if isinstance(killed, list) else []
    return [str(each.get("name")) for each in rows[:8] if isinstance(each, dict)]


def named_hosts(inventory: str, collections: str, state: str) -> frozenset[str]:
    """The hosts of the inventory. Takes about a second."""
    executor = AnsibleExecutor(inventory, collections, _paths(state).work)
    try:
        return executor.hosts
    finally:
        executor.close()


def hosts_list(*, state: str, inventory: str, collections: str) -> Answer:
    """Every host of the inventory, with those that only told events: level, interventions, open runs."""
    rows = fleet(named_hosts(inventory, collections, state), told(state), known_runs(state)[0])
    lines = [
        f"{row['host']:<24} {padded(row['level'] or filled('unknown'), 9)} "
        + filled("{1} open runs", str(len(row["open_runs"])))
        for row in rows
    ]
    return Answer({"hosts": rows}, "\n".join(lines))


def fleet(named: Iterable[str], entries: Iterable[Entry], runs: Iterable[Run]) -> list[dict[str, Any]]:
    """One row a host, by name."""
    by_host: dict[str, tuple[list[Mapping[str, Any]], list[Run]]] = {name: ([], []) for name in named}
    for entry in entries:
        by_host.setdefault(str(entry.record["host"]), ([], []))[0].append(entry.record)
    for each in runs:
        by_host.setdefault(each.host, ([], []))[1].append(each)
    return [_summary(name, *by_host[name]) for name in sorted(by_host)]


def freezes(*, state: str) -> Answer:
    """What people have said stop to, which breakers they closed, and what they have seen to."""
    return freeze(state=state)
