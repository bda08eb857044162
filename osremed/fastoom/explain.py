"""What would happen now, and why: the guard's own decision functions, without the effect."""

from __future__ import annotations

from typing import Any

from osremed.core.phrase import Fill, plain
from osremed.core.reading import Missing
from osremed.core.units import format_bytes
from osremed.fastoom import pressure
from osremed.fastoom.choice import choose, with_groups
from osremed.fastoom.host import LiveHost
from osremed.fastoom.model import Candidate, Level, Plan, Scope, Signals, Thresholds
from osremed.fastoom.plan import why_left
from osremed.fastoom.policy import Policy
from osremed.fastoom.rank import Bounds
from osremed.fastoom.record import command_line

_SHOWN = 20


def scope_document(scope: Scope, policy: Policy, own: frozenset[int], host: LiveHost) -> dict[str, Any]:
    """Ranked candidates with what would happen to each and why, and everyone spared. `own` is the guard's chain."""
    signals, members = host.signals(scope), host.members(scope)
    for reading in (signals, members):
        if isinstance(reading, Missing):
            return {"scope": scope.label, "level": "unknown", "missing": [str(reading)]}
    assert not isinstance(signals, Missing)
    assert not isinstance(members, Missing)
    t = policy.of(scope).thresholds
    need = pressure.needs_action(signals.value, t)
    deficit = _deficit_bytes(signals.value, t)
    bounds = Bounds(members.value, own)
    choice = choose(members.value, policy, bounds, deficit, host)
    choice = with_groups(choice, policy, bounds, host, whole_group=policy.of(scope).whole_group)
    plan = choice.plan
    dying = {one.process.pid for one in plan.victims}
    living = [one for one in choice.ranking.candidates if one.process.pid not in dying]
    shown = [*plan.victims, *living[: max(0, _SHOWN - len(dying))]]
    return {
        "scope": scope.label,
        "level": pressure.next_level(Level.NONE, signals.value, t).word,
        "near_oom": need,
        "limit_bytes": signals.value.limit_bytes,
        "available_bytes": signals.value.available_bytes,
        "enter_bytes": round(signals.value.limit_bytes * t.enter_ratio),
        "deficit_bytes": deficit,
        "expected_bytes": plan.expected_bytes,
        "covers": plan.covers,
        "candidates": [_candidate(one, plan) for one in shown],
        "spared": [
            {"pid": one.pid, "name": one.name, "heap_bytes": one.heap_bytes, "why": one.why}
            for one in choice.ranking.spared
        ],
        "missing": [*signals.value.missing, *choice.missing],
    }


def _deficit_bytes(signals: Signals, t: Thresholds) -> int:
    """Up to the target: from now when near OOM, else from enter."""
    at = min(signals.available_bytes, round(signals.limit_bytes * t.enter_ratio))
    return pressure.target_bytes(signals, t) - at


def _candidate(one: Candidate, plan: Plan) -> dict[str, Any]:
    dies = one in plan.victims
    return {
        "pid": one.process.pid,
        "name": one.process.name,
        "cmdline": command_line(one.process),
        "oom_score_adj": one.process.oom_score_adj,
        "heap_bytes": one.process.heap_bytes,
        "dies": dies,
        "why": one.why if dies else f"{why_left(plan, one)} ({one.why})",
    }


def scope_text(scope: dict[str, Any], fill: Fill = plain) -> str:
    """The document for people; hostile names are escaped."""
    if scope["level"] == "unknown":
        return scope_line(scope, fill)
    enter = format_bytes(scope["enter_bytes"])
    when = fill("now") if scope["near_oom"] else fill("if available memory fell to {1}", enter)
    dying = [one for one in scope["candidates"] if one["dies"]]
    verdict = (
        fill("{1} would die {2}, to free {3}", str(len(dying)), when, format_bytes(scope["deficit_bytes"]))
        if dying
        else fill("nothing could be killed {1}", when)
    )
    if not scope["covers"]:
        verdict += fill("; that does NOT cover it, only {1} can be had", format_bytes(scope["expected_bytes"]))
    lines = [scope_line(scope, fill), f"  {verdict}"]
    for one in scope["candidates"]:
        told = _process_line(one)
        lines.append(fill("  dies   {1}", told) if one["dies"] else fill("  lives  {1}", told))
    lines += [fill("  spared {1}", _process_line(one)) for one in scope["spared"][:_SHOWN]]
    return "\n".join(lines + [fill("  missing: {1}", gap) for gap in scope["missing"]])


def _process_line(one: dict[str, Any]) -> str:
    name = one["name"].encode("unicode_escape").decode("ascii")
    return f"{one['pid']:>8}  {format_bytes(one['heap_bytes']):>10}  {name:<16} {one['why']}"


def scope_line(scope: dict[str, Any], fill: Fill = plain) -> str:
    """One line: level and availability, of a document of this module or of the status file."""
    if "limit_bytes" not in scope:
        return fill("{1}: level unknown, {2}", scope["scope"], "; ".join(scope["missing"]))
    share = scope["available_bytes"] / scope["limit_bytes"]
    by_kernel = scope.get("kernel_oom_kills")
    line = fill(
        "{1}: level {2}, {3} of {4} available ({5})",
        *(scope["scope"], scope["level"], format_bytes(scope["available_bytes"])),
        *(format_bytes(scope["limit_bytes"]), f"{share:.1%}"),
    )
    if isinstance(by_kernel, int) and by_kernel:
        line += fill(", {1} ended by the kernel's own OOM killer", str(by_kernel))
    return line
