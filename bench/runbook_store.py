#!/usr/bin/env python3
"""A look at all kept runs: what does it cost who starts, from the journals alone and with the index, and who has looked
before?

    bench/runbook_store.py [RUNS]

10,000 runs that a replayed host took to their end, and ten that go on. CPU time; each start is a process of its own.
Exits 1 when the answers differ.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from figures import tell

from osremed.core.canonical import digest
from osremed.core.clock import FakeClock
from osremed.core.event import Event
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.catalog import load_catalog
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore, run_as_json

ROOT = Path(__file__).resolve().parents[1]
CASE = str(ROOT / "runbooks/near-oom/cases/policy-too-low.yaml")
GOING_ON, STARTS, LOOKS = 10, 3, 20


def fill(directory: str, count: int) -> None:
    """Each with the happenings of one that was driven. Nothing is flushed: the disk has no part in what is measured."""
    os.fsync = os.fdatasync = lambda _fd: None  # type: ignore[assignment]
    given, clock, entry = load_case(CASE).given, FakeClock(), load_catalog(str(ROOT / "runbooks"))["near-oom"]
    runbook = entry.runbook.model_copy(update={"mode": "auto"})  # nobody is there to say yes
    store = RunStore(directory)
    operator = Operator(ReplayedHost(given), store, clock, frozenset({"host-0"}))
    happenings: list[Any] = []
    for number in range(count + GOING_ON):
        event = Event(f"e{number}", "memory.near_oom", f"host-{number}", clock.wall_ns(), given.event["attributes"])
        opened = store.create(event, entry, clock)
        assert opened is not None
        if not happenings:
            asyncio.run(drive(operator, opened, runbook))
            happenings = [each for _, each in store.happenings(opened.run.run_id)][1:]
        elif number < count:
            for each in happenings:
                opened.record(each, clock)
        opened.close()


def cpu_ms(work: Any) -> tuple[float, Any]:
    before_s = time.process_time()
    told = work()
    return 1e3 * (time.process_time() - before_s), told


def look(directory: str) -> dict[str, Any]:
    """One start, and looks after it."""
    store = RunStore(directory)
    first_ms, told = cpu_ms(store.runs)
    again = [cpu_ms(store.runs)[0] for _ in range(LOOKS)]
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    says = digest([run_as_json(run) for run in told[0]])
    return {"runs": len(told[0]), "first_ms": first_ms, "again_ms": median(again), "peak_mib": peak_mib, "says": says}


def started(directory: str) -> dict[str, Any]:
    argv = [sys.executable, __file__, "--look", directory]
    said = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
    found: dict[str, Any] = json.loads(said)
    return found


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--look"]:
        print(json.dumps(look(arguments[1])))
        return 0
    count = int(arguments[0]) if arguments else 10_000
    with tempfile.TemporaryDirectory() as directory:
        fill(directory, count)
        plain = [started(directory) for _ in range(STARTS)]
        store = RunStore(directory)
        store.runs()
        writing_ms, _ = cpu_ms(lambda: [None for _ in iter(store.keep_index, False)])
        index_mib = os.stat(os.path.join(directory, "index")).st_size / (1 << 20)
        with_index = [started(directory) for _ in range(STARTS)]
    told = f"a start with {count} kept runs"
    tell(f"CPU time of {told}", "ms", {"osremed": [each["first_ms"] for each in with_index]})
    tell(f"CPU time of {told}, without their index", "ms", {"osremed": [each["first_ms"] for each in plain]})
    tell(f"CPU time of a later look at {count} kept runs", "ms", {"osremed": [each["again_ms"] for each in with_index]})
    for name, each in (("journals", plain[-1]), ("index", with_index[-1])):
        print(f"{name}: first {each['first_ms']:.0f} ms, again {each['again_ms']:.1f} ms, peak {each['peak_mib']} MiB")
    print(f"index: {index_mib:.1f} MiB, written in {writing_ms:.0f} ms of CPU time")
    same = {each["says"] for each in (*plain, *with_index)}
    return 0 if len(same) == 1 and plain[0]["runs"] == count + GOING_ON else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
