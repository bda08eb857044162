#!/usr/bin/env python3
"""A storm through the intake's disk and the deciding half of the dispatcher: is each event answered, how many runs does
it make, and does the work for an event grow with the fleet or with what came before?

    bench/runbook_storm.py [EVENTS [HOSTS ...]]

40,000 near-OOM events of 1,000 and of 10,000 hosts within ten minutes of the hosts' time, the shipped runbooks, hosts
replayed from a case; what is let in runs to its end. Everything is kept as it is in production, fsync included (CPU
time is told, which a slow disk does not change). Each size is a process of its own. Exits 1 when an event is not
answered once, or more runs begin than the rule allows.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from figures import tell

from osremed.core.clock import FakeClock
from osremed.core.event import Event
from osremed.flows.intake import Intake
from osremed.runbook.audit import Audit
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.catalog import load_catalog
from osremed.runbook.deciding import REFUSAL_HOLDS_S, Deciding
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import OpenRun, RunStore

ROOT = Path(__file__).resolve().parents[1]
CASE = str(ROOT / "runbooks/near-oom/cases/policy-too-low.yaml")
STORM_S, BATCH, PARTS = 600, 256, 8
SIZES = (1000, 10_000)


def storm(folder: str, events: int, fleet: int) -> dict[str, Any]:
    """What became of it; `cpu_us` of an event, for each eighth of the storm."""
    given, clock = load_case(CASE).given, FakeClock()
    shipped = load_catalog(str(ROOT / "runbooks"))
    # Asked for nothing: a person's answer is not what is measured.
    catalog = {
        name: replace(entry, runbook=entry.runbook.model_copy(update={"mode": "auto"}))
        for name, entry in shipped.items()
    }
    told: list[Event] = []
    begun: list[OpenRun] = []
    intake = Intake(f"{folder}/intake", lambda: True, lambda _seq, event: told.append(event))
    hosts = [f"host-{number}" for number in range(fleet)]
    operator = Operator(ReplayedHost(given), RunStore(f"{folder}/runs"), clock, frozenset(hosts))
    answered: Counter[str] = Counter()
    deciding = Deciding(operator, Counted(f"{folder}/decisions", answered), catalog, begun.append)
    cpu_us, part = [], events // PARTS
    before_s, before_mib = time.process_time(), peak_mib()
    for first in range(0, events, BATCH):
        now_ns, attributes = clock.wall_ns(), given.event["attributes"]
        numbers = range(first, min(first + BATCH, events))
        intake.accept([Event(f"e{n}", "memory.near_oom", hosts[n % fleet], now_ns, attributes) for n in numbers])
        asyncio.run(deciding.answer(deciding.hear(told)))
        told.clear()
        while begun:
            opened = begun.pop()
            asyncio.run(drive(operator, opened, catalog[opened.run.runbook].runbook))
            opened.close()
            deciding.ended(opened)
        clock.advance(STORM_S * BATCH / events)
        if len(cpu_us) < min(numbers.stop // part, PARTS):
            now_s = time.process_time()
            cpu_us.append(1e6 * (now_s - before_s) / part)
            before_s = now_s
    runs = operator.store.runs()[0]
    kept = [run for run in runs if run.state is not RunState.REFUSED]
    rule = catalog["near-oom"].runbook.guards.storm
    return {
        "events": events,
        "hosts": fleet,
        "answered_once": sum(count == 1 for count in answered.values()),
        "runs_begun": len(kept),
        "runs_refused": len(runs) - len(kept),
        "most_begun": rule.max_runs * (1 + STORM_S // round(rule.per)),
        "most_refused": round(STORM_S / REFUSAL_HOLDS_S) + 1,
        "cpu_us": [round(each, 1) for each in cpu_us],
        "peak_mib": peak_mib(),
        "grown_mib": peak_mib() - before_mib,
    }


class Counted(Audit):
    """The decisions, kept as ever, and counted: of each event the answer of the rule that it is for."""

    def __init__(self, directory: str, answered: Counter[str]) -> None:
        super().__init__(directory, max_segments=64)
        self._answered = answered

    def append_all(self, records: Any) -> Any:
        self._answered.update(line["event"] for line in records if line["runbook"] == "near-oom")
        return super().append_all(records)


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def is_sound(found: dict[str, Any]) -> bool:
    bounded = found["runs_begun"] <= found["most_begun"] and found["runs_refused"] <= found["most_refused"]
    return bounded and found["answered_once"] == found["events"]


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--one"]:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(storm(folder, int(arguments[1]), int(arguments[2]))))
        return 0
    events = arguments[0] if arguments else "40000"
    sizes = [int(each) for each in arguments[1:]] or list(SIZES)
    found = []
    for fleet in sizes:
        argv = [sys.executable, __file__, "--one", events, str(fleet)]
        said = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, cwd=ROOT)
        found.append(json.loads(said.stdout))
        print(json.dumps(found[-1]), flush=True)
        tell(f"CPU time of an event in a storm of {fleet} hosts", "us", {"osremed": found[-1]["cpu_us"]})
        tell(f"memory that a storm of {fleet} hosts adds", "MiB", {"osremed": [found[-1]["grown_mib"]]})
    whole = [f"{each['hosts']} hosts: {median(each['cpu_us']):.0f} us an event" for each in found]
    print("; ".join(whole), "" if all(map(is_sound, found)) else "NOT SOUND")
    return 0 if all(map(is_sound, found)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
