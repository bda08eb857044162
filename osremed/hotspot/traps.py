"""What a rule says: a trap with its evidence. Rules are functions of a profile; detect.py has the list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from osremed.core.finding import Finding
from osremed.core.record import record
from osremed.hotspot.model import Profile, Sample, call_text, frame_text

Group = Callable[[Sample], str]


@record
class Trap:
    """`finding` is what a runbook sees; `who` is a process (`name[pid]`) or the host; `where` is the line or function
    with its caller, or empty; `figures` carry their unit in the key; `fix` says what to change; `pid` 0: no process."""

    finding: Finding
    who: str
    where: str
    figures: dict[str, float]
    fix: str
    pid: int = 0

    def as_json(self) -> dict[str, Any]:
        figures = {name: round(value, 4) for name, value in self.figures.items()}
        return {**self.finding.as_json(), "who": self.who, "where": self.where, "figures": figures, "fix": self.fix}


Rule = Callable[[Profile], Iterable[Trap]]


def grouped(samples: Iterable[Sample], key: Callable[[Sample], Any] = call_text) -> dict[Any, list[Sample]]:
    found: dict[Any, list[Sample]] = {}
    for sample in samples:
        found.setdefault(key(sample), []).append(sample)
    return found


def seconds(samples: Iterable[Sample]) -> float:
    return sum(sample.weight_ns for sample in samples) / 1e9


def has_frame(sample: Sample, kind: str, names: frozenset[str], suffixes: tuple[str, ...] = ()) -> bool:
    return any(
        frame.kind == kind and (frame.name in names or (suffixes and frame.name.endswith(suffixes)))
        for frame in sample.stack
    )


def common_place(samples: Iterable[Sample]) -> str:
    """The line of the program (Python, Java, Node; else a native function outside of libc) that stands nearest to the
    leaf in most of the weight, with its caller."""
    weights: dict[str, float] = {}
    for sample in samples:
        place = _place(sample)
        weights[place] = weights.get(place, 0.0) + sample.weight_ns
    return max(weights, key=lambda place: weights[place], default="")


def _place(sample: Sample) -> str:
    frames = [frame for frame in sample.stack if frame.kind not in ("kernel", "note")]
    made = [frame for frame in frames if frame.kind in ("python", "java", "node", "jit")]
    own = made or [frame for frame in frames if "/libc" not in frame.file and "/ld-" not in frame.file] or frames
    return " > ".join(frame_text(frame) for frame in own[-2:])
