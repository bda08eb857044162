"""The speedscope file format: one `sampled` profile for each state, weights in nanoseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput
from osremed.hotspot.formats.imports import Merged, imported
from osremed.hotspot.model import STATES, Frame, Profile, Sample, frame_text
from osremed.hotspot.tree import stack_of

#: "none" and "bytes" count as milliseconds: only proportions matter
_UNITS_NS = {"nanoseconds": 1, "microseconds": 1000, "milliseconds": 1_000_000, "seconds": 1_000_000_000}
_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def export(samples: Sequence[Sample]) -> bytes:
    numbers: dict[Frame, int] = {}
    profiles = []
    for state in STATES:
        chosen = [sample for sample in samples if sample.state == state]
        if not chosen:
            continue
        stacks = [[numbers.setdefault(frame, len(numbers)) for frame in stack_of(sample)] for sample in chosen]
        weights = [sample.weight_ns for sample in chosen]
        profiles.append({"type": "sampled", "name": state, "unit": "nanoseconds", "startValue": 0,
                         "endValue": sum(weights), "samples": stacks, "weights": weights})  # fmt: skip
    frames = [_frame(frame) for frame in numbers]
    return canonical_json(
        {"$schema": _SCHEMA, "exporter": "osremed", "shared": {"frames": frames}, "profiles": profiles}
    )


def _frame(frame: Frame) -> dict[str, Any]:
    document: dict[str, Any] = {"name": frame.name if frame.file else frame_text(frame)}
    if frame.file:
        document["file"] = frame.file
    if frame.line:
        document["line"] = frame.line
    return document


def parse(data: bytes, where: str = "speedscope") -> Profile:
    """`sampled` profiles of it; `evented` ones are refused. BadInput for anything else."""
    try:
        document = json.loads(data)
        frames = [_frame_of(each) for each in document["shared"]["frames"]]
        stacks = []
        for profile in document["profiles"]:
            if profile["type"] != "sampled":
                raise BadInput(f"a profile of type {profile['type']!r}", where=where, hint="only `sampled` is read")
            unit_ns = _UNITS_NS.get(profile.get("unit"), 1_000_000)
            for stack, weight in zip(profile["samples"], profile["weights"]):
                chain = tuple(frames[_index(number, len(frames))] for number in stack)
                process = chain[0].name if chain else "?"
                weight_ns = round(float(weight) * unit_ns)
                stacks.append(Merged(process, chain[1:], weight_ns, 1))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError) as error:
        raise BadInput(f"not a speedscope file: {error!r}", where=where) from error
    return imported("speedscope", stacks, where)


def _index(number: Any, count: int) -> int:
    if not isinstance(number, int) or not 0 <= number < count:
        raise ValueError(f"no frame {number!r}")
    return number


def _frame_of(document: Any) -> Frame:
    name, file, line = str(document["name"]), str(document.get("file") or ""), document.get("line") or 0
    return Frame("python" if file.endswith(".py") else "native", name, file, line if isinstance(line, int) else 0)
