"""Event + evidence + runbook -> findings and the changes to try. Pure: the same function decides live, on a bundle and
in a case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.event import Event
from osremed.core.evidence import Bundle
from osremed.core.finding import Finding
from osremed.core.record import record
from osremed.runbook.actions import MANUAL, STEPS
from osremed.runbook.catalog import event_as_data
from osremed.runbook.document import Diagnosis, Remedy, Runbook
from osremed.runbook.expressions import ExpressionFailed, Risk, condition_holds, names_used, render
from osremed.runbook.model import ApprovalNeed
from osremed.runbook.modes import Mode, answer_s, mode_of


@record
class Intent:
    """A change the runbook wants, before it was previewed on the host."""

    action: str
    args: Mapping[str, Any]
    remedy: Remedy
    approval: ApprovalNeed | None


@record
class AfterIntent:
    """A step after success, with its arguments."""

    action: str
    args: Mapping[str, Any]
    timeout_s: float
    if_changed: str


@record
class Decision:
    """`notes` tells each condition that had no value: neither true nor false, and not silently skipped. `undecided`
    says why nothing may be changed: what has to follow the change cannot be told."""

    findings: tuple[Finding, ...]
    intents: tuple[Intent, ...]
    notes: tuple[str, ...]
    after: tuple[AfterIntent, ...] = ()
    undecided: str = ""


def evidence_data(event: Event, bundle: Bundle) -> dict[str, Any]:
    """What expressions may name. A gap is absent, so that reading it has no value instead of a wrong one."""
    return {**bundle.items, "event": event_as_data(event), "host": event.host}


def _diagnose(item: Diagnosis, data: Mapping[str, Any], notes: list[str]) -> Finding | None:
    try:
        if not condition_holds(item.when, data):
            return None
        evidence = tuple(sorted(names_used(item.when) - {"event", "host"})) or ("event",)
        gain = str(render(item.expected_gain, data))
        return Finding(item.finding, str(render(item.summary, data)), item.confidence, evidence, gain)
    except ExpressionFailed as error:
        notes.append(f"finding {item.finding}: {error.what}")
        return None


def _intend(item: Remedy, data: Mapping[str, Any], notes: list[str], runbook: Runbook, mode: Mode) -> Intent | None:
    risk = STEPS[item.action].risk
    try:
        if not condition_holds(item.when, data):
            return None
        args = render(item.arguments, data)
    except ExpressionFailed as error:
        notes.append(f"remedy {item.action}: {error.what}")
        return None
    wanted = _wanted(item, {**data, "risk": Risk(risk)}, notes)
    suggests = not mode.auto and item.action != MANUAL  # who is asked to do it says yes or no by that
    whys = [*([mode.why] if suggests else []), *([wanted] if wanted else [])]
    need = ApprovalNeed(f"{item.action}: {'; '.join(whys)}", answer_s(item, runbook)) if whys else None
    return Intent(item.action, args, item, need)


def _wanted(item: Remedy, data: Mapping[str, Any], notes: list[str]) -> str:
    """Why the step itself wants an approval; "" if it does not. A condition without a value asks: unknown is never
    fine."""
    if item.approval is None:
        return ""
    try:
        return item.approval.required if condition_holds(item.approval.required, data) else ""
    except ExpressionFailed as error:
        notes.append(f"approval of {item.action}: {error.what}")
        return error.what


def decide(runbook: Runbook, event: Event, bundle: Bundle, mode: Mode | None = None) -> Decision:
    """Findings in the order of the runbook, then every remedy whose condition is true. Without a `mode`, which the host
    may have a word in, that of the runbook itself holds."""
    mode = mode or mode_of(runbook)
    notes = [f"no evidence from {name}: {gap}" for name, gap in bundle.gaps.items()]
    data = evidence_data(event, bundle)
    findings = tuple(finding for item in runbook.diagnose if (finding := _diagnose(item, data, notes)) is not None)
    made = {finding.name for finding in findings}
    data["finding"] = made.__contains__
    tried = (_intend(item, data, notes, runbook, mode) for item in runbook.remediate)
    intents = tuple(intent for intent in tried if intent is not None)
    wanted = {intent.remedy.id for intent in intents}
    try:
        after = tuple(
            AfterIntent(item.action, render(item.arguments, data), item.timeout, item.if_changed)
            for item in runbook.after_success
            if item.if_changed in wanted
        )
    except ExpressionFailed as error:
        return Decision(findings, intents, tuple(notes), undecided=f"what follows success: {error.what}")
    return Decision(findings, intents, tuple(notes), after)
