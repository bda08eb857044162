"""A run that was kept on a real directory, and the run that takes it back, with a person who answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from osremed.core.clock import SystemClock
from osremed.runbook.approvals import write_approval
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from tests.support.acting import acts
from tests.support.module_executor import ModuleExecutor


def operator_on(store_dir, host_root, *, executor=None, clock=None, controls=""):
    where = executor or ModuleExecutor(str(host_root), helps=True)
    return Operator(
        where, RunStore(str(store_dir)), clock or SystemClock(), frozenset({"node-1"}), controls, restrict=acts
    )


def drive_answered(where, opened, *, approved=True, by="ana", meanwhile=lambda: None):
    """The run, driven to its end; `by` answers as soon as it is asked, and `meanwhile` happens just before."""

    async def answer(_seconds):
        meanwhile()
        write_approval(opened.directory, opened.run, approved=approved, by=by, reason="seen")

    try:
        return asyncio.run(drive(replace(where, pause=answer), opened, where.store.runbook_of(opened.run.run_id)))
    finally:
        opened.close()


def kept_run(where, entry, event):
    run = drive_answered(where, where.store.create(event, entry, where.clock))
    assert run.state is RunState.SUCCEEDED, run.reason
    return run


def ask(where, run, *, by="bob"):
    return where.store.create_undo(run, where.clock, requested_by=by, why="it was not needed")
