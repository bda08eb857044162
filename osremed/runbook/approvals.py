"""Approvals: a person's yes or no, bound to one plan, written beside the run. The first answer to a plan holds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput
from osremed.core.files import exclusive_lock, read_bytes, write_atomic
from osremed.core.record import record
from osremed.runbook.model import Plan, Run, RunState
from osremed.runbook.store import RunDirectory

#: So many characters of a plan's digest are shown to people, and name it.
SHOWN_CHARS = 12


@record
class Approval:
    approved: bool
    by: str
    plan_digest: str
    reason: str


@contextlib.contextmanager
def answering(
    directory: RunDirectory, run: Run, *, approved: bool, by: str, reason: str, plan: str | None = None
) -> Iterator[Approval]:
    """The answer, written at the end of it, when all is well; nobody else answers meanwhile. `plan` is the one that was
    seen: its digest, or how that begins. BadInput if the run is not waiting for an answer or waits with another plan,
    if somebody has answered already, or if who asked for the run approves it."""
    if run.state is not RunState.AWAITING_APPROVAL or run.plan is None:
        raise BadInput(f"run {run.run_id} is {run.state.value}, it awaits no approval")
    if plan is not None:
        _same_plan(run, run.plan, plan)
    if approved and by == run.requested_by:
        what = f"{by} asked for run {run.run_id}: somebody else approves it"
        raise BadInput(
            what, hint="who asked may deny it; a run that an event began may be approved by anybody allowed to"
        )
    approval = Approval(approved, by, run.plan.digest, reason)
    document = {"approved": approved, "by": by, "plan_digest": approval.plan_digest, "reason": reason}
    with exclusive_lock(directory.answers):
        if first := read_approval(directory, approval.plan_digest):
            said = "approved" if first.approved else "denied"
            words = f": {first.reason}" if first.reason else ""
            what = f"run {run.run_id} has its answer already: {said} by {first.by}{words}"
            raise BadInput(what, hint="the first answer holds; osremed freeze stops what was approved too early")
        yield approval
        write_atomic(directory.approval, canonical_json(document), mode=0o600)


def _same_plan(run: Run, now: Plan, seen: str) -> None:
    if seen == now.digest or (len(seen) >= SHOWN_CHARS and now.digest.startswith(seen)):
        return
    what = f"run {run.run_id} waits with plan {now.digest[:SHOWN_CHARS]}, not with {seen!r}"
    if len(seen) < SHOWN_CHARS:
        raise BadInput(what, hint=f"a plan is named by the first {SHOWN_CHARS} characters of its digest, or by more")
    raise BadInput(what, hint=f"it has decided anew since that was shown; look again: osremed runs show {run.run_id}")


def write_approval(directory: RunDirectory, run: Run, *, approved: bool, by: str, reason: str) -> Approval:
    """`answering`, with nothing to do meanwhile."""
    with answering(directory, run, approved=approved, by=by, reason=reason) as approval:
        return approval


def read_approval(directory: RunDirectory, plan_digest: str) -> Approval | None:
    """The answer for this very plan, or None. An answer for an earlier plan of the run does not count."""
    try:
        document = json.loads(read_bytes(directory.approval))
        approval = Approval(document["approved"] is True, document["by"], document["plan_digest"], document["reason"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"not an approval: {error!r}", where=directory.approval) from error
    return approval if approval.plan_digest == plan_digest else None
