"""Profile and diff -> JSON documents, for machines, bundles and runbooks."""

from __future__ import annotations

from typing import Any

from osremed.core.reading import Missing
from osremed.hotspot.diff import Change, Diff
from osremed.hotspot.model import STATES, Profile, Sample, call_text, document_of, frame_text, of_state, weight_s
from osremed.hotspot.render import heat_rows
from osremed.hotspot.tree import alike, by, folded, functions

_MOST_ROWS = 50
_MOST_STACKS = 30


def profile_document(profile: Profile) -> dict[str, Any]:
    """Bounded tables; the whole is in an export."""
    return {
        "host": profile.host,
        "start_ns": profile.start_ns,
        "end_ns": profile.end_ns,
        "mode": {"clock": profile.mode.clock, "hz": profile.mode.hz, "cpus": profile.mode.cpus},
        "samples": len(profile.samples),
        "states": {state: _state(of_state(profile, state)) for state in STATES},
        "blocked": [document_of(row) for row in profile.blocked[:_MOST_ROWS]],
        "call_rates": [document_of(row) for row in profile.call_rates[:_MOST_ROWS]],
        "open_rates": [document_of(row) for row in profile.open_rates[:_MOST_ROWS]],
        "seconds": [document_of(row) for row in profile.seconds],
        "heat": [
            {"second": second, "samples": columns}
            for second, columns in heat_rows(profile.samples, profile.start_ns, profile.end_ns)[:600]
        ],
        "lost": profile.lost,
        "cost": profile.cost.as_json() if isinstance(profile.cost, Missing) else document_of(profile.cost.value),
        "gaps": list(profile.gaps),
    }


def _state(samples: tuple[Sample, ...]) -> dict[str, Any]:
    stacks: dict[str, int] = {}
    same = alike(samples)
    for frames, weight_ns in folded(same).items():
        text = ";".join(map(frame_text, frames))
        stacks[text] = stacks.get(text, 0) + weight_ns
    heaviest = sorted(stacks.items(), key=lambda row: (-row[1], row[0]))[:_MOST_STACKS]
    return {
        "seconds": round(weight_s(samples), 6),
        "processes": _rows(by(samples, call_text)),
        "containers": _rows(by(samples, lambda sample: sample.container)),
        "threads": _rows(by(samples, lambda sample: f"{sample.thread}[{sample.tid}]")),
        "functions": [
            {"name": frame_text(row.frame), "own_s": round(row.own_s, 6), "total_s": round(row.total_s, 6)}
            for row in functions(same)[:_MOST_ROWS]
        ],
        "stacks": [{"stack": text, "seconds": round(weight_ns / 1e9, 6)} for text, weight_ns in heaviest],
    }


def _rows(rows: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"name": name, "seconds": round(seconds, 6)} for name, seconds in rows[:_MOST_ROWS]]


def diff_document(diff: Diff) -> dict[str, Any]:
    """The significant changes first, then the largest others."""
    ordered = sorted(diff.functions, key=lambda change: (not change.significant, -abs(change.effect)))
    return {
        "state": diff.state,
        "samples": {"before": diff.samples[0], "after": diff.samples[1]},
        "cores": {"before": round(diff.cores[0], 4), "after": round(diff.cores[1], 4)},
        "test": diff.test,
        "tested": len(diff.functions),
        "functions": [_change(change) for change in ordered[:_MOST_ROWS]],
        "warnings": list(diff.warnings),
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "name": frame_text(change.path[-1]),
        "before_share": round(change.before.share, 6),
        "after_share": round(change.after.share, 6),
        "before_error": round(change.before.error, 6),
        "after_error": round(change.after.error, 6),
        "p_value": change.p_value,
        "significant": change.significant,
        "new": change.fresh,
        "vanished": change.vanished,
    }
