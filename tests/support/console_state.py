"""A control plane's state with a past: runs of each end, one that waits, events, and names that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from osremed.core.clock import SystemClock
from osremed.core.errors import BadInput
from osremed.core.event import Event
from osremed.core.journal import Journal
from osremed.flows.settings import ControlPaths
from osremed.runbook.approvals import write_approval
from osremed.runbook.audit import Audit
from osremed.runbook.catalog import CatalogEntry, load_entry
from osremed.runbook.lint import lint_text
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from osremed.runbook.text import parse_text
from tests.support.acting import acts
from tests.support.module_executor import ModuleExecutor

ROOT = Path(__file__).resolve().parents[2]
FLEET = tuple(f"web-{number}" for number in range(1, 17))  # a quarter of it is enough for what the past holds
HOSTILE = "\"><script>alert(1)</script>\x1b[31m'=cmd|{{7*7}}"
OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'


@dataclass(frozen=True)
class Past:
    state: str
    inventory: str
    kept: str
    undone: str
    waiting: str


def make_event(event_id, host, **attributes):
    given = {"level": "high", "sensitivity": "low", "scope": "/demo", "available_ratio": 0.03, "limit_bytes": 1 << 29}
    killed = [{"pid": 7, "name": HOSTILE, "cmdline": HOSTILE, "oom_score_adj": 999, "heap_bytes": 9 << 20, "why": "x"}]
    return Event(event_id, "memory.near_oom", host, time.time_ns(), {**given, "killed": killed, **attributes})


def _asking(entry):
    text = entry.content.replace(b"risk >= 'high'", b"risk >= 'low'")
    runbook, errors = lint_text(parse_text(text, "asking"))
    assert errors == ()
    return CatalogEntry(runbook, text, entry.digest, entry.path)


def _operator(folder, state, host, *, helps):
    root = folder / "hosts" / host
    root.mkdir(parents=True)
    (root / "fastoom.json").write_bytes(OLD)
    executor = ModuleExecutor(str(root), helps=helps)
    return Operator(
        executor, RunStore(ControlPaths(state).runs), SystemClock(), frozenset({host, *FLEET}), restrict=acts
    )


def _run(operator, event, entry, requested_by=""):
    opened = operator.store.create(event, entry, operator.clock, requested_by=requested_by)
    try:
        with ThreadPoolExecutor(1) as threads:  # a test that drives a browser has a loop in its own thread
            return threads.submit(asyncio.run, drive(operator, opened, entry.runbook)).result()
    finally:
        opened.close()


@contextlib.contextmanager
def past(folder, *, requested_by=""):
    """The Past; its waiting run goes on in a thread when it is answered, and is denied at the end."""
    state = str(folder / "control")
    paths = ControlPaths(state)
    entry = load_entry(str(ROOT / "runbooks/near-oom/runbook.yaml"))
    events = {name: make_event(f"e-{name}", name) for name in ("web-1", "web-2", "web-3")}
    intake = Journal(paths.intake)
    for event in events.values():
        intake.append(event.as_json())
    level = {"level": "critical", "summary": HOSTILE}
    intake.append(Event("e-level", "memory.level", "web-2", time.time_ns(), level).as_json())
    intake.close()
    audit = Audit(paths.decisions)
    audit.append({"event": "e-web-1", "host": "web-1", "runbook": "near-oom", "matched": True, "why": "", "run_id": ""})
    audit.close()
    kept = _run(_operator(folder, state, "web-1", helps=True), events["web-1"], entry)
    undone = _run(_operator(folder, state, "web-2", helps=False), events["web-2"], entry)
    assert (kept.state, undone.state) == (RunState.SUCCEEDED, RunState.UNDONE)
    waiter = _operator(folder, state, "web-3", helps=True)
    found = []
    thread = threading.Thread(
        target=lambda: found.append(_run(waiter, events["web-3"], _asking(entry), requested_by)), daemon=True
    )
    thread.start()
    waiting = _wait_for_question(RunStore(paths.runs), "web-3")
    inventory = folder / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"web-1": {}, "web-2": {}, "web-3": {}, "quiet-9": {}}}}))
    try:
        yield Past(state, str(inventory), kept.run_id, undone.run_id, waiting)
    finally:
        store = RunStore(paths.runs)
        with contextlib.suppress(BadInput):
            write_approval(store.of(waiting), store.load(waiting)[0], approved=False, by="end of test", reason="")
        thread.join(30)


def _wait_for_question(store, host):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for run in store.runs()[0]:
            if run.host == host and run.state is RunState.AWAITING_APPROVAL:
                return run.run_id
        time.sleep(0.02)
    raise AssertionError("the run does not wait for approval")
