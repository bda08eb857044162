"""A dry run: guards, evidence, decision and the diff of each change, and nothing kept or changed (law 6)."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import Any

from osremed.core.event import Event
from osremed.core.language import filled
from osremed.core.record import record
from osremed.runbook.document import Runbook
from osremed.runbook.model import Admitted, Collected, Decided, Happening, Raised, Refused, Run, RunState, Undone
from osremed.runbook.operate import Operator, attempt
from osremed.runbook.state import Effect, advance, begin
from osremed.runbook.store import UNDOES, RunDirectory, run_id_for

#: Of a run that is not begun.
_NOBODY = "0" * 16


@record
class Preview:
    document: dict[str, Any]
    text: str
    refused: bool


async def preview(operator: Operator, runbook: Runbook, event: Event) -> Preview:
    """What a run for this event would do now."""
    return await _preview(operator, runbook, Raised(run_id_for(event, runbook.name), runbook.name, "", event))


async def preview_undo(operator: Operator, old: Run) -> Preview:
    """What a run that takes this one back would do now."""
    event = replace(old.event, name="run.undo", time_ns=operator.clock.wall_ns())
    raised = Raised(_NOBODY, UNDOES + old.runbook, "", event, undoes=old.run_id)
    return await _preview(operator, operator.store.runbook_of(old.run_id), raised)


async def _preview(operator: Operator, runbook: Runbook, raised: Raised) -> Preview:
    run, effect = begin(raised, operator.clock.wall_ns())
    happenings: list[Happening] = []
    with tempfile.TemporaryDirectory(prefix="osremed-preview-") as scratch:
        while effect in (Effect.ADMIT, Effect.COLLECT, Effect.DECIDE):
            happening = await attempt(operator, effect, run, runbook, RunDirectory(scratch))
            happenings.append(happening)
            run, effect = advance(run, happening, operator.clock.wall_ns())
    refused = isinstance(happenings[-1], (Refused, Undone)) or not (run.plan and run.plan.steps)
    return Preview(_document(run, refused), _text(run, happenings, refused), refused)


def _what_follows(run: Run, refused: bool) -> str:
    if refused:
        return filled("a run would not act")
    if run.state is RunState.AWAITING_APPROVAL:
        return filled("a run would wait for a yes, then act as shown; {1}", run.reason)
    return filled("a run would act as shown")


def _document(run: Run, refused: bool) -> dict[str, Any]:
    steps = run.plan.steps if run.plan else ()
    return {
        "check": True,
        "would_act": not refused,
        "reason": run.reason,
        "findings": [finding.as_json() for finding in run.findings],
        "plan": [{"action": step.action, "args": step.args, "risk": step.risk, "diff": step.diff} for step in steps],
        "guards": [{"guard": item.guard, "passed": item.passed, "detail": item.detail} for item in run.guards],
        "gaps": dict(run.gaps),
        "notes": list(run.notes),
    }


def _text(run: Run, happenings: list[Happening], refused: bool) -> str:
    lines = [filled("check only: nothing was changed and nothing is proven")]
    for happening in happenings:
        if isinstance(happening, Admitted):
            lines += [
                filled("  guard {1}: {2}: {3}", each.guard, filled("ok"), each.detail) for each in happening.guards
            ]
        elif isinstance(happening, Refused):
            lines.append(filled("  REFUSED by {1}: {2}", happening.guard, happening.detail))
        elif isinstance(happening, Collected):
            lines += [filled("  no evidence from {1}: {2}", name, why) for name, why in happening.gaps.items()]
        elif isinstance(happening, Decided):
            lines += [filled("  finding {1}: {2}", item.name, item.summary) for item in happening.findings]
            lines += [filled("  note {1}", note) for note in happening.notes]
        elif isinstance(happening, Undone):
            lines += [filled("  CONFLICT {1}: {2}", item.action, item.detail) for item in happening.results]
    for step in run.plan.steps if run.plan else ():
        told = (step.action, str(step.risk))
        lines.append(
            filled("  would take back {1} ({2} risk)", *told)
            if run.undoes
            else filled("  would apply {1} ({2} risk)", *told)
        )
        lines += [f"    {line}" for line in step.diff.splitlines()]
    lines += [f"  {how}" for how in (run.plan.order if run.plan else ())]
    lines.append(_what_follows(run, refused))
    return "\n".join(lines)
