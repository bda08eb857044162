"""What all imports share: stacks with counts -> a Profile. Where a format has no times, at_ns is 0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from osremed.core.errors import BadInput
from osremed.hotspot.model import Frame, Mode, Profile, Sample

_MOST_SAMPLES = 5_000_000
_WITH_FILE = re.compile(r"(.{1,512}?) \((?:([^()]{1,512}):([0-9]{1,9})|([^()]{1,512}))\)")
_IN_OBJECT = re.compile(r"(.{1,512}) \[([^\[\]]{1,512})\]")


def frame_of(text: str) -> Frame:
    """The frame that `frame_text` printed: `name (file:line)` or `name [object]`."""
    match = _WITH_FILE.fullmatch(text)
    if match:
        file = match[2] or match[4]
        kind = "python" if file.endswith(".py") or file.startswith("<") else "native"
        return Frame(kind, match[1], file, int(match[3] or 0))
    match = _IN_OBJECT.fullmatch(text)
    return Frame("native", match[1], match[2]) if match else Frame("native", text)


class Merged(NamedTuple):
    """Samples of one stack, without times."""

    process: str
    stack: tuple[Frame, ...]
    weight_ns: int
    merged: int


def imported(clock: str, stacks: Iterable[Merged], where: str) -> Profile:
    """BadInput when no stack has any weight."""
    samples = [
        plain_sample(0, each.weight_ns, each.process, 0, each.stack)._replace(merged=max(1, each.merged))
        for each in stacks
        if each.weight_ns > 0
    ]
    return timed(clock, samples, where)


def plain_sample(at_ns: int, weight_ns: int, process: str, pid: int, stack: tuple[Frame, ...]) -> Sample:
    return Sample(at_ns, "cpu", weight_ns, pid, pid, process, process, "", "", 0, stack)


def timed(clock: str, samples: Sequence[Sample], where: str) -> Profile:
    if not samples:
        raise BadInput("it holds no samples", where=where)
    if len(samples) > _MOST_SAMPLES:
        raise BadInput(f"more than {_MOST_SAMPLES} samples", where=where)
    start_ns = min(sample.at_ns for sample in samples)
    end_ns = max(sample.at_ns for sample in samples) + 1
    if start_ns == 0:
        end_ns = sum(sample.weight_ns for sample in samples)
    ordered = tuple(sorted(samples, key=lambda sample: sample.at_ns))
    return Profile("", start_ns, end_ns, Mode(clock, 0, 0), ordered)
