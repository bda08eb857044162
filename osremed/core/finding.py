"""Finding: a sustained, explained condition."""

from __future__ import annotations

from typing import Any

from osremed.core.record import record


@record
class Finding:
    """`confidence` 0..1; `evidence` names items of the bundle it rests on; `expected_gain` says, in words with figures,
    what acting on it should bring."""

    name: str
    summary: str
    confidence: float
    evidence: tuple[str, ...]
    expected_gain: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "summary": self.summary,
            "confidence": self.confidence,
            "evidence": list(self.evidence),
            "expected_gain": self.expected_gain,
        }
