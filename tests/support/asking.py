"""A run on disk that waits for a person, or for an approval, and nobody who drives it."""

from __future__ import annotations

import time

from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import Admitted, ApprovalNeed, Approved, Collected, Decided, Plan, PlannedStep, Recovered
from osremed.runbook.store import RunStore

INSTRUCTION = 'Drain n1, <b>then</b> "tick"'


#: A digest as plans have it.
DIGEST = "0123456789ab" + "c" * 52
OTHER = "ba9876543210" + "d" * 52


def waiting_run(runs, *, digest=DIGEST):
    """The run; its plan waits for an approval."""
    store, clock = RunStore(runs), SystemClock()
    opened = _begun(store, clock, "web-8")
    for happening in (Admitted(()), *_planned(digest)):
        opened.record(happening, clock)
    opened.close()
    return store.load(opened.run.run_id)[0]


def with_another_plan(runs, run_id, digest=OTHER):
    """Its controller was killed, and the next one made another plan of fresh evidence."""
    opened = RunStore(runs).open(run_id)
    for happening in (Recovered("killed"), Admitted(()), *_planned(digest)):
        opened.record(happening, SystemClock())
    opened.close()


def _planned(digest):
    need = ApprovalNeed("risk", 3600)
    step = PlannedStep("fastoom_policy", {}, "medium", 60, 300, "", {"state": "present"}, {}, "-low\n+medium", need)
    return Collected("", {}), Decided((), Plan((step,), digest))


def _begun(store, clock, host):
    entry = load_entry("runbooks/near-oom/runbook.yaml")
    event = Event("e-ask", "memory.near_oom", host, time.time_ns(), {"level": "high"})
    return store.create(event, entry, clock)


def asking_run(runs, *, host="web-9", timeout_s=300.0, steps=1):
    """The run; each of its steps is a person's."""
    store, clock = RunStore(runs), SystemClock()
    opened = _begun(store, clock, host)
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
