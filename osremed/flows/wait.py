"""Waiting for the end of a run that another process drives. The run never waits for who waits."""

from __future__ import annotations

import time

from osremed.core.errors import BadInput
from osremed.core.log import Log
from osremed.core.units import parse_duration_s
from osremed.runbook.model import Run, RunState
from osremed.runbook.store import RunStore

_LOG = Log("wait")
_EVERY_S = 0.2
_WHAT_TO_DO = {
    RunState.AWAITING_APPROVAL: "osremed runs approve, or deny",
    RunState.AWAITING_PERSON: "osremed runs show says what to do; then osremed runs tick, or refuse",
}


def limit_of(wait: bool, timeout: str | None) -> float | None:
    """Seconds to wait at most, None: until it ends. BadInput before anything was begun."""
    if timeout is None:
        return None
    if not wait:
        raise BadInput("a time-out of nothing", where="--timeout", hint="it goes with --wait")
    limit_s = parse_duration_s(timeout)
    if limit_s <= 0:
        raise BadInput(f"{timeout!r} is no time to wait", where="--timeout", hint="more than 0s")
    return limit_s


def until_ended(store: RunStore, run_id: str, limit_s: float | None) -> Run:
    """The run when it has ended, or as it is after `limit_s`. Each state it passes is told on stderr. NotFound and
    DamagedRun as of the store."""
    deadline = None if limit_s is None else time.monotonic() + limit_s
    told = None
    while True:
        run = store.load(run_id)[0]
        if run.ended:
            return run
        if run.state is not told:
            told = run.state
            _LOG.info("waiting", run=run_id, state=run.state.value, **_hint(run.state))
        left_s = _EVERY_S if deadline is None else deadline - time.monotonic()
        if left_s <= 0:
            return run
        time.sleep(min(_EVERY_S, left_s))


def _hint(state: RunState) -> dict[str, str]:
    return {"hint": _WHAT_TO_DO[state]} if state in _WHAT_TO_DO else {}
