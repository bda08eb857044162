"""Profile -> traps, by the built-in rules and those of other packages (entry points `osremed.hotspot.rules`)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from osremed.core.language import filled
from osremed.core.shown import printable
from osremed.hotspot.model import Profile
from osremed.hotspot.rules import RULES
from osremed.hotspot.traps import Rule, Trap

GROUP = "osremed.hotspot.rules"


def added_rules() -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """Rules of other packages, and why some did not load: a broken package must not hide the other rules."""
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


def detect(profile: Profile, rules: Sequence[Rule] = ()) -> tuple[Trap, ...]:
    """What the rules say, the surest and heaviest first; `rules` adds to the built-in ones."""
    added, _failed = added_rules()
    found = [trap for rule in (*RULES, *added, *rules) for trap in rule(profile)]
    return tuple(sorted(found, key=lambda trap: (-trap.finding.confidence, -_weight(trap), trap.finding.name)))


def _weight(trap: Trap) -> float:
    return max((trap.figures.get(name, 0.0) for name in ("cores", "waited_s_per_s", "seconds_per_s")), default=0.0)


def findings_document(traps: Sequence[Trap], profile: Profile) -> dict[str, Any]:
    return {
        "host": profile.host,
        "start_ns": profile.start_ns,
        "end_ns": profile.end_ns,
        "samples": len(profile.samples),
        "findings": [trap.as_json() for trap in traps],
        "gaps": [*profile.gaps, *added_rules()[1]],
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
    gaps = [*profile.gaps, *added_rules()[1]]
    return "\n".join([*lines, *(filled("gap: {1}", printable(gap)) for gap in gaps)])
