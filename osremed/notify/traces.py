"""A run that has ended as an OpenTelemetry trace: one span from the event to the end, below it one for each thing that
happened. OTLP/HTTP as JSON, for any collector. Pure.

The ids come from the run's: sent twice, it is one trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.canonical import sha256_hex
from osremed.runbook.model import (
    Applied,
    Approved,
    Finished,
    Happening,
    PersonAnswered,
    Refused,
    Run,
    RunState,
    Verified,
)

_INTERNAL = 1  #: SPAN_KIND_INTERNAL
_OK, _ERROR = 1, 2
#: Ends after which somebody should look. A refusal is the guards at work.
_BAD = frozenset({RunState.UNDONE, RunState.UNDO_INCOMPLETE})


def _attributes(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    def value(given: Any) -> dict[str, Any]:
        if isinstance(given, bool):
            return {"boolValue": given}
        return {"intValue": str(given)} if isinstance(given, int) else {"stringValue": str(given)}

    return [{"key": key, "value": value(given)} for key, given in said.items() if given != ""]


def _said(happening: Happening) -> dict[str, Any]:
    if isinstance(happening, Refused):
        return {"osremed.guard": happening.guard, "osremed.detail": happening.detail}
    if isinstance(happening, Approved):
        return {"osremed.approved_by": happening.by}
    if isinstance(happening, PersonAnswered):
        return {"osremed.step": happening.number, "osremed.done": happening.done, "osremed.by": happening.by}
    if isinstance(happening, (Applied, Finished)):
        outcome = happening.outcome
        return {
            "osremed.step": happening.step,
            "osremed.status": outcome.status.value,
            "osremed.changed": outcome.changed,
        }
    if isinstance(happening, Verified):
        return {f"osremed.probe.{each.probe}": each.verdict.value for each in happening.results}
    return {}


def spans_of(run: Run, happenings: Sequence[tuple[int, Happening]]) -> list[dict[str, Any]]:
    """The spans of an ended run. Each thing that happened lasted from the one before it."""
    trace, root = sha256_hex(f"trace|{run.run_id}".encode())[:32], sha256_hex(f"root|{run.run_id}".encode())[:16]
    begins_ns = min(run.event.time_ns, run.raised_ns)

    def span(span_id: str, name: str, since_ns: int, until_ns: int, said: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "traceId": trace,
            "spanId": span_id,
            "name": name,
            "kind": _INTERNAL,
            "startTimeUnixNano": str(since_ns),
            "endTimeUnixNano": str(max(since_ns, until_ns)),
            "attributes": _attributes(said),
        }

    whole = span(root, f"run {run.runbook}", begins_ns, run.updated_ns, _of_run(run))
    bad = run.state in _BAD
    whole["status"] = {"code": _ERROR, "message": run.reason} if bad else {"code": _OK}
    spans, before_ns = [whole], begins_ns
    for number, (at_ns, happening) in enumerate(happenings):
        span_id = sha256_hex(f"span|{run.run_id}|{number}".encode())[:16]
        spans.append({**span(span_id, happening.kind, before_ns, at_ns, _said(happening)), "parentSpanId": root})
        before_ns = at_ns
    return spans


def _of_run(run: Run) -> dict[str, Any]:
    return {
        "osremed.run_id": run.run_id,
        "osremed.runbook": run.runbook,
        "osremed.runbook_digest": run.runbook_digest,
        "osremed.state": run.state.value,
        "osremed.event": run.event.name,
        "osremed.event_id": run.event.id,
        "osremed.findings": ", ".join(each.name for each in run.findings),
        "osremed.requested_by": run.requested_by,
        "host.name": run.host,
    }


def body_of(spans: Sequence[Mapping[str, Any]], version: str) -> dict[str, Any]:
    """What `POST /v1/traces` of a collector takes."""
    resource = {"attributes": _attributes({"service.name": "osremed", "service.version": version})}
    scope = {"scope": {"name": "osremed", "version": version}, "spans": list(spans)}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
