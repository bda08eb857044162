"""How many events a second are decided: `osremed replay` over a made week, and the cases beside the runbooks.

    python bench/runbook_replay.py [EVENTS] [RUNBOOKS]

Events are those the shipped runbooks know, of 1,000 hosts, three of four not matching (a cleared state, a name nobody
asks for). Guards are asked at the time of each, as the verb does. The rules are replayed against themselves and,
dearer, against a set in which one runbook has another cooldown; reading the events is counted, too. Figures are medians
of five turns in CPU time; the last line says whether 10,000 events a second are reached with the changed set.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from figures import tell

from osremed.core.event import Event, event_from_json
from osremed.runbook.cases import case_files, load_case, run_cases
from osremed.runbook.catalog import load_catalog
from osremed.runbook.replay import no_evidence, replay_events

GOAL_PER_S = 10_000
TURNS = 5
HOSTS = 1000
WEEK_NS = 7 * 86400 * 10**9
BEGIN_NS = 1_790_000_000 * 10**9


def made_events(catalog: Any, count: int) -> list[Event]:
    """From the cases' own events, at random hosts and times; the same for the same count."""
    chance = random.Random(7)
    seeds = [load_case(path).given.event for entry in catalog.values() for path in case_files(entry)]
    strange = [{"name": "unknown.kind", "attributes": {"state": "raised"}}, {"name": "memory.level", "attributes": {}}]
    events = []
    for number in range(count):
        seed = chance.choice(seeds) if chance.random() < 0.5 else chance.choice(strange)
        attributes = dict(seed.get("attributes", {}))
        if "state" in attributes and chance.random() < 0.5:
            attributes["state"] = "cleared"
        at_ns = BEGIN_NS + chance.randrange(WEEK_NS)
        events.append(Event(f"e{number}", seed["name"], f"host-{chance.randrange(HOSTS)}", at_ns, attributes))
    return events


def cpu_s(what: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    answer = what()
    return time.process_time() - begin, answer


def slower(catalog: Any) -> Any:
    """The same rules, but for the cooldown of the first."""
    name, entry = next(iter(catalog.items()))
    guards = entry.runbook.guards.model_copy(update={"cooldown": 2 * entry.runbook.guards.cooldown + 1})
    return {**catalog, name: replace(entry, runbook=entry.runbook.model_copy(update={"guards": guards}))}


def main(count: int, folder: str) -> dict[str, Any]:
    catalog = load_catalog(folder)
    events = made_events(catalog, count)
    lines = [json.dumps(event.as_json()) for event in events]
    reads, sames, changes = [], [], []
    for _ in range(TURNS):
        reads.append(cpu_s(lambda: [event_from_json(json.loads(line)) for line in lines]))
        sames.append(cpu_s(lambda: replay_events(events, catalog, catalog, no_evidence, courses={})))
        changes.append(cpu_s(lambda: replay_events(events, slower(catalog), catalog, no_evidence, courses={})))
    replayed = sames[0][1]
    cases = [cpu_s(lambda: [result for entry in catalog.values() for result in run_cases(entry)]) for _ in range(TURNS)]
    assert not any(result.differences for result in cases[0][1])
    whole = [1e6 * (read_s + changed_s) / count for (read_s, _), (changed_s, _) in zip(reads, changes)]
    tell(
        "CPU time of an event, read and replayed under changed rules", "us", {"osremed": whole}, {"": 1e6 / GOAL_PER_S}
    )
    read_s, same_s, changed_s, cases_s = (
        statistics.median(took for took, _ in turns) for turns in (reads, sames, changes, cases)
    )
    return {
        "events": count,
        "runbooks": len(catalog),
        "decisions": replayed.decisions,
        "refusals": dict(replayed.refusals),
        "read_cpu_us_per_event": round(1e6 * read_s / count, 1),
        "same_rules_cpu_us_per_event": round(1e6 * same_s / count, 1),
        "changed_rules_cpu_us_per_event": round(1e6 * changed_s / count, 1),
        "replay_events_per_s": round(count / (read_s + changed_s)),
        "cases": len(cases[0][1]),
        "cases_per_s": round(len(cases[0][1]) / cases_s),
        "goal_events_per_s": GOAL_PER_S,
        "reached": count / (read_s + changed_s) >= GOAL_PER_S,
    }


if __name__ == "__main__":
    arguments = sys.argv[1:]
    default = str(Path(__file__).resolve().parents[1] / "runbooks")
    print(
        json.dumps(
            main(int(arguments[0]) if arguments else 40_000, arguments[1] if arguments[1:] else default), indent=1
        )
    )
