"""How many events a second are decided: `osremed replay` over a made week, and the cases beside the runbooks.

    python bench/runbook_replay.py [EVENTS] [RUNBOOKS]

Events are those the shipped runbooks know, of 1,000 hosts, three of four not matching (a cleared state, a name nobody
asks for). Guards are asked at the time of each, as the verb does. Figures are medians of five turns in CPU time; the
last line says whether 10,000 events a second are reached.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from osremed.core.event import Event
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


def main(count: int, folder: str) -> dict[str, Any]:
    catalog = load_catalog(folder)
    events = made_events(catalog, count)
    replays = [cpu_s(lambda: replay_events(events, catalog, catalog, no_evidence, courses={})) for _ in range(TURNS)]
    replayed = replays[0][1]
    cases = [cpu_s(lambda: [result for entry in catalog.values() for result in run_cases(entry)]) for _ in range(TURNS)]
    assert not any(result.differences for result in cases[0][1])
    replay_s, cases_s = (statistics.median(took for took, _ in turns) for turns in (replays, cases))
    return {
        "events": count,
        "runbooks": len(catalog),
        "decisions": replayed.decisions,
        "refusals": dict(replayed.refusals),
        "replay_events_per_s": round(count / replay_s),
        "replay_cpu_s": round(replay_s, 3),
        "cases": len(cases[0][1]),
        "cases_per_s": round(len(cases[0][1]) / cases_s),
        "goal_events_per_s": GOAL_PER_S,
        "reached": count / replay_s >= GOAL_PER_S,
    }


if __name__ == "__main__":
    arguments = sys.argv[1:]
    default = str(Path(__file__).resolve().parents[1] / "runbooks")
    print(
        json.dumps(
            main(int(arguments[0]) if arguments else 40_000, arguments[1] if arguments[1:] else default), indent=1
        )
    )
