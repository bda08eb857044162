"""The gate: may this run go on, as everything is now? Asked in the same breath in which the answer is kept: between the
question and the line in the journal nobody else passes, no other run of this process and no other process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from osremed.core.errors import BadInput, OsremedError
from osremed.core.files import exclusive_lock
from osremed.runbook.actions import MANUAL
from osremed.runbook.controls import frozen_by
from osremed.runbook.document import Runbook
from osremed.runbook.guardpolicy import Restriction
from osremed.runbook.guards import Situation, check_guards
from osremed.runbook.model import Admitted, Approved, GuardResult, Happening, Refused, Run
from osremed.runbook.operator import Operator
from osremed.runbook.undoing import check_guards_of_undo

#: Who agreed, where nobody was asked.
NO_APPROVAL = "policy: no approval needed"
#: Others pass in milliseconds.
_POLL_S = 0.02


def restrictions_on(operator: Operator, run: Run) -> tuple[Sequence[Restriction], str]:
    """(what the policies of its groups say, why that cannot be told)."""
    try:
        return (operator.restrict(run.host, run.runbook) if run.host in operator.hosts else ()), ""
    except BadInput as error:
        return (), str(error)


def ask_guards(
    operator: Operator, run: Run, runbook: Runbook, *, unasked: bool = False
) -> tuple[tuple[GuardResult, ...], GuardResult | None]:
    """(all results, the one that said no). `unasked`: it is about to change something and no person agreed to it."""
    unasked = unasked and any(step.action != MANUAL for step in (run.plan.steps if run.plan else ()))
    runs, damaged = operator.store.runs()
    others = tuple(other for other in runs if other.run_id != run.run_id)
    known = run.host in operator.hosts
    time_ns, said = operator.clock.wall_ns(), operator.said()
    if run.undoes:
        now = Situation(run, runbook, others, len(operator.hosts), known, time_ns, damaged, said)
        return _verdict(check_guards_of_undo(now, run))
    told, why = restrictions_on(operator, run)
    now = Situation(run, runbook, others, len(operator.hosts), known, time_ns, damaged, said, told, why, unasked)
    return _verdict(check_guards(now))


def _verdict(results: tuple[GuardResult, ...]) -> tuple[tuple[GuardResult, ...], GuardResult | None]:
    return results, next((result for result in results if not result.passed), None)


def freeze_on(operator: Operator, run: Run, *, before_ns: int | None = None) -> GuardResult | None:
    """The no that people have said to a further step of this run: see `frozen_by`."""
    why = frozen_by(operator.said(), run.runbook, run.host, operator.clock.wall_ns(), before_ns=before_ns)
    return GuardResult("freeze", False, why) if why else None


@contextlib.asynccontextmanager
async def last_word(operator: Operator, run: Run, runbook: Runbook, happening: Happening) -> AsyncIterator[Happening]:
    """What is to be recorded within it, without waiting for anything: the happening; of one that lets the run in, or
    lets it act, what the guards say of it now."""
    if not isinstance(happening, (Admitted, Approved)):
        yield happening
        return
    async with _alone(operator):
        yield _asked_again(operator, run, runbook, happening)


def _asked_again(operator: Operator, run: Run, runbook: Runbook, happening: Admitted | Approved) -> Happening:
    unasked = isinstance(happening, Approved) and happening.by == NO_APPROVAL
    try:
        results, refusal = ask_guards(operator, run, runbook, unasked=unasked)
    except (OsremedError, OSError) as error:
        return Refused("engine", str(error))
    return Refused(refusal.guard, refusal.detail, results) if refusal else replace(happening, guards=results)


@contextlib.asynccontextmanager
async def _alone(operator: Operator) -> AsyncIterator[None]:
    """One at a time of all that drive runs of this store. Who waits for another process leaves the loop to the rest."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive_lock(operator.store.gate, wait=False))
                break
            except BlockingIOError:
                await asyncio.sleep(_POLL_S)
        yield
