"""The proof: what the runbook expects, what it watches, and whether the change is still as the run made it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from osremed.core.action import Call, Status
from osremed.core.errors import BadInput
from osremed.core.evidence import load_bundle
from osremed.core.probe import Verdict, parse_tolerance, sample_as_json, sample_from_json
from osremed.core.reading import Value
from osremed.runbook.decide import evidence_data
from osremed.runbook.document import Runbook, Verification, Watch
from osremed.runbook.expressions import ExpressionFailed, condition_holds, render
from osremed.runbook.model import Happening, ProbeResult, Run, Verified
from osremed.runbook.operator import CALL_TIMEOUT_S, Operator, call_module
from osremed.runbook.undoing import recorded_steps, undo_id

_LOOK_S = 10.0


async def watched_before(operator: Operator, run: Run, runbook: Runbook) -> tuple[tuple[float, ...], str]:
    """(what the runbook watches as it is now, why one of it cannot be told)."""
    values: list[float] = []
    data = _evidence(operator, run)
    for item in runbook.watch:
        now = Verification.model_construct(
            probe=item.probe, arguments=item.arguments, expect="value >= 0", within=_LOOK_S, hold=0.0
        )
        seen = await _probe(operator, run, now, data)
        readings = [sample_from_json(sample).reading for sample in seen.samples]
        if not readings or not isinstance(readings[-1], Value):
            return (), f"{item.probe} has no value before the change: {seen.detail or readings[-1:] or 'no sample'}"
        values.append(readings[-1].value)
    return tuple(values), ""


def _no_worse(item: Watch, before: float) -> Verification:
    """Pure. What the watched value must be after the change."""
    bound = before + item.worse_by if item.better == "lower" else max(before - item.worse_by, 0.0)
    expect = f"value {'<=' if item.better == 'lower' else '>='} {bound:.6f}"
    return Verification.model_construct(
        probe=item.probe, arguments=item.arguments, expect=expect, within=item.within, hold=item.hold
    )


async def verify(operator: Operator, run: Run, runbook: Runbook) -> Happening:
    """What the runbook expects; once that holds, what it watches, and whether each change is still as it was made."""
    data = _evidence(operator, run)
    results: list[ProbeResult] = []
    for check in runbook.verify:
        applies, why = _applies(check, data)
        if applies:
            results.append(_unknown(check, why) if why else await _probe(operator, run, check, data))
    if not results or any(result.verdict is not Verdict.HOLDS for result in results):
        return Verified(tuple(results))
    for item, before in zip(runbook.watch, run.watched, strict=True):
        seen = await _probe(operator, run, _no_worse(item, before), data)
        results.append(replace(seen, detail=f"watched, {before:g} before the change; {seen.detail}".rstrip("; ")))
    return Verified(
        tuple(results), tuple([why for number in recorded_steps(run) if (why := await _drift(operator, run, number))])
    )


async def _drift(operator: Operator, run: Run, number: int) -> str:
    """Why the change is no longer as the run made it; "" while the host would take just that back."""
    call = Call(
        "osremed.host.undo",
        {"id": undo_id(run.run_id, number), "state": "reverted"},
        run.host,
        CALL_TIMEOUT_S,
        check=True,
    )
    seen = await asyncio.to_thread(operator.executor.run, call)
    if seen.status is Status.OK and seen.result.get("result") == "restored":
        return ""
    action = run.plan.steps[number].action if run.plan else ""
    return f"{action}: {seen.result.get('detail') or seen.detail or seen.result.get('result')}"


def _evidence(operator: Operator, run: Run) -> dict[str, Any]:
    return evidence_data(run.event, load_bundle(operator.store.of(run.run_id).bundle))


def _applies(item: Verification, data: Mapping[str, Any]) -> tuple[bool, str]:
    """Pure. (whether it counts, why nobody can say): a condition without a value counts, and proves nothing."""
    try:
        return item.when is None or condition_holds(item.when, data), ""
    except ExpressionFailed as error:
        return True, error.what


def _unknown(item: Verification, why: str) -> ProbeResult:
    tolerance = parse_tolerance(item.expect, within_s=item.within, hold_s=item.hold)
    return ProbeResult(item.probe, str(tolerance), Verdict.UNKNOWN, (), why)


async def _probe(operator: Operator, run: Run, item: Verification, data: Mapping[str, Any]) -> ProbeResult:
    try:
        arguments = render(item.arguments, data)
    except ExpressionFailed as error:
        return _unknown(item, error.what)
    args = {"name": item.probe, "args": arguments, "expect": item.expect, "within": item.within, "hold": item.hold}
    outcome = await call_module(operator, "probe", args, run, item.within + CALL_TIMEOUT_S)
    if outcome.status is not Status.OK:
        return _unknown(item, f"{outcome.status.value}: {outcome.detail}")
    try:
        verdict = Verdict(outcome.result["verdict"])
        samples = tuple(sample_as_json(sample_from_json(sample)) for sample in outcome.result.get("samples", ()))
    except (BadInput, KeyError, TypeError, ValueError) as error:
        return _unknown(item, f"the probe's answer cannot be read: {error}")
    tolerance = parse_tolerance(item.expect, within_s=item.within, hold_s=item.hold)
    return ProbeResult(item.probe, str(tolerance), verdict, samples, str(outcome.result.get("detail", "")))
