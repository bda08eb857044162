"""Profile -> traps, by the built-in rules and those of other packages (entry points `osremed.hotspot.rules`)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from osremed.core.language import filled
from osremed.core.record import record
from osremed.core.shown import printable
from osremed.hotspot.model import Profile
from osremed.hotspot.rules import RULES, judged
from osremed.hotspot.traps import Rule, Trap

GROUP = "osremed.hotspot.rules"
_LONGEST_GAP = 300


def added_rules() -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """Rules of other packages, and why some did not load."""
    found: list[Rule] = []
    failed: list[str] = []
    points = entry_points()
    chosen = points.select(group=GROUP) if hasattr(points, "select") else points.get(GROUP, ())
    for point in chosen:
        try:
            found.append(point.load())
        except Exception as error:
            failed.append(f"rule {point.name}: {error!r}")
    return tuple(found), tuple(failed)


@record
class Judged:
    """`gaps` says which rules could not be asked to the end; `judged` of which traps the absence says something, None:
    of all."""

    traps: tuple[Trap, ...]
    gaps: tuple[str, ...]
    judged: frozenset[str] | None


def judge(profile: Profile, rules: Sequence[Rule] = ()) -> Judged:
    """What the rules say, the surest and heaviest first; `rules` adds to the built-in ones. One that fails hides no
    other."""
    added, failed = added_rules()
    found: list[Trap] = []
    gaps = [*failed]
    for rule in (*RULES, *added, *rules):
        try:
            found.extend(map(_checked, rule(profile)))
        except Exception as error:
            gaps.append(f"rule {getattr(rule, '__name__', rule)}: {error!r}"[:_LONGEST_GAP])
    ordered = sorted(found, key=lambda trap: (-trap.finding.confidence, -_weight(trap), trap.finding.name))
    return Judged(tuple(ordered), tuple(gaps), frozenset() if gaps else judged(profile))


def detect(profile: Profile, rules: Sequence[Rule] = ()) -> tuple[Trap, ...]:
    """The traps alone."""
    return judge(profile, rules).traps


def _checked(trap: Any) -> Trap:
    if not isinstance(trap, Trap):
        raise TypeError(f"{trap!r} is no trap")
    return trap


def _weight(trap: Trap) -> float:
    return max((trap.figures.get(name, 0.0) for name in ("cores", "waited_s_per_s", "seconds_per_s")), default=0.0)


def findings_document(traps: Sequence[Trap], profile: Profile) -> dict[str, Any]:
    return {
        "host": profile.host,
        "start_ns": profile.start_ns,
        "end_ns": profile.end_ns,
        "samples": len(profile.samples),
        "findings": [trap.as_json() for trap in traps],
        "gaps": list(profile.gaps),
    }


def render_findings(traps: Sequence[Trap], profile: Profile) -> str:
    lines = []
    for trap in traps:
        finding = trap.finding
        lines += [
            f"{finding.name} ({100 * finding.confidence:.0f} %): {printable(finding.summary)}",
            *([filled("  at    {1}", printable(trap.where))] if trap.where else []),
            filled("  gain  {1}", printable(finding.expected_gain)),
            filled("  fix   {1}", trap.fix),
        ]
    lines = lines or [filled("no known trap in {1} samples", str(len(profile.samples)))]
    return "\n".join([*lines, *(filled("gap: {1}", printable(gap)) for gap in profile.gaps)])
