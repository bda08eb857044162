"""Verbs that take back what was kept: a run of its own, driven by a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from osremed.core.answer import Answer
from osremed.core.clock import SystemClock
from osremed.core.errors import BadInput, ExitCode
from osremed.core.language import filled
from osremed.executor.runner import AnsibleExecutor
from osremed.flows.settings import ControlPaths
from osremed.flows.verbs import operator_of, publish_into, runs_show, to_the_end
from osremed.runbook.audit import ACTOR_VARIABLE, caller_uid, person, written_by_hand
from osremed.runbook.model import Recovered, Run, RunState
from osremed.runbook.operate import Operator
from osremed.runbook.preview import preview_undo
from osremed.runbook.store import RunStore
from osremed.runbook.undoing import steps_back


def runs_undo(
    *, run_id: str, state: str, inventory: str, collections: str, reason: str = "", check: bool = False
) -> Answer:
    """The run that takes `run_id` back, begun; it waits for somebody else's approval. Asked again, it is the same run.
    BadInput, before anything happens, for what cannot be taken back. `check` shows what would be."""
    paths = ControlPaths(os.path.abspath(state))
    store = RunStore(paths.runs)
    old, _effect = store.load(run_id)
    steps_back(old)
    if check:
        return _check(paths, old, inventory, collections)
    by = person()
    with written_by_hand(paths.hands) as audit:  # one at a time: two who ask at once get one run
        begun = store.create_undo(old, SystemClock(), requested_by=by, requested_uid=caller_uid(), why=reason)
        if begun is None:
            return _before(store, run_id, state)
        begun.close()
        audit.append({"verb": "undo", "by": by, "run_id": begun.run.run_id, "undoes": run_id, "reason": reason})
    where = {"state": state, "inventory": inventory, "collections": collections}
    _leave(paths, begun.run, [word for name, value in where.items() for word in (f"--{name}", os.path.abspath(value))])
    shown = runs_show(run_id=begun.run.run_id, state=state)
    lines = (
        filled("run {1} takes back run {2} ({3} on {4})", begun.run.run_id, run_id, old.runbook, old.host),
        filled("somebody else than {1} approves it: {2}", by, f"osremed runs approve {begun.run.run_id}"),
    )
    return Answer(shown.document, "\n".join(lines))


def _before(store: RunStore, run_id: str, state: str) -> Answer:
    found = store.load(run_id)[0].undone_by
    shown = runs_show(run_id=found, state=state)
    told = filled("run {1} is taken back by this run already", run_id)
    return Answer(shown.document, f"{told}\n{shown.text}")


def _check(paths: ControlPaths, old: Run, inventory: str, collections: str) -> Answer:
    executor = AnsibleExecutor(inventory, collections, paths.work)
    try:
        plan = asyncio.run(preview_undo(operator_of(executor, paths, ""), old))
    finally:
        executor.close()
    return Answer(plan.document, plan.text, ExitCode.REFUSED if plan.refused else ExitCode.OK)


def _leave(paths: ControlPaths, run: Run, options: list[str]) -> None:
    """To a process of its own. If that ends early, the dispatcher finds the run, as any that nobody drives."""
    requests = os.path.join(paths.state, "requests")
    os.makedirs(requests, mode=0o700, exist_ok=True)
    with open(os.path.join(requests, f"{run.run_id}.log"), "w", encoding="utf-8") as log:
        subprocess.Popen(
            [sys.executable, "-m", "osremed", "runs", "drive", run.run_id, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, ACTOR_VARIABLE: person()},
        )


def runs_drive(*, run_id: str, state: str, inventory: str, collections: str, runbooks: str) -> Answer:
    """The run, ended. What it was doing on its host when its process ended is taken back first."""
    paths = ControlPaths(os.path.abspath(state))
    executor = AnsibleExecutor(inventory, collections, paths.work)
    try:
        operator = operator_of(executor, paths, runbooks)
        ended = _drive(operator, run_id)
        publish_into(operator.store, ended)
    finally:
        executor.close()
    return runs_show(run_id=run_id, state=state)


def _drive(operator: Operator, run_id: str) -> Run:
    try:
        opened = operator.store.open(run_id)
    except BlockingIOError:
        raise BadInput(f"run {run_id} is driven by another process") from None
    if opened.run.ended:
        opened.close()
        raise BadInput(f"run {run_id} has ended: {opened.run.state.value}")
    if opened.run.state is not RunState.RAISED:
        opened.record(Recovered("it was driven by hand"), operator.clock)
    return to_the_end(operator, opened)
