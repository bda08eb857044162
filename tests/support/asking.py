"""A run on disk that waits for a person, and nobody who drives it."""

from __future__ import annotations

import time

from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import Admitted, Approved, Collected, Decided, Plan, PlannedStep
from osremed.runbook.store import RunStore

INSTRUCTION = 'Drain n1, <b>then</b> "tick"'


def asking_run(runs, *, host="web-9", timeout_s=300.0, steps=1):
    """The run; each of its steps is a person's."""
    store, clock = RunStore(runs), SystemClock()
    entry = load_entry("runbooks/near-oom/runbook.yaml")
    opened = store.create(Event("e-ask", "memory.near_oom", host, time.time_ns(), {"level": "high"}), entry, clock)
    args = {"instruction": INSTRUCTION, "take_back": "Give n1 back"}
    step = PlannedStep(
        "manual", args, "low", timeout_s, 0.0, "a person takes it back", {}, {}, f"a person: {INSTRUCTION}"
    )
    for happening in (
        Admitted(()),
        Collected("", {}),
        Decided((), Plan((step,) * steps, "digest")),
        Approved("p", "digest", ()),
    ):
        opened.record(happening, clock)
    opened.close()
    return store.load(opened.run.run_id)[0]
