"""The processed profile format of the Firefox profiler (version 24 of it), one thread for each thread seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput
from osremed.hotspot.formats.imports import frame_of, plain_sample, timed
from osremed.hotspot.model import Frame, Profile, Sample, frame_text

_CATEGORIES = (("Other", "grey"), ("python", "yellow"), ("native", "orange"), ("kernel", "blue"))
_NUMBERS = {"python": 1, "java": 1, "node": 1, "jit": 1, "native": 2, "kernel": 3}


class _Thread:
    """One thread's tables: strings, functions, frames, and stacks as (frame, prefix)."""

    def __init__(self, first: Sample) -> None:
        self.first = first
        self.strings: dict[str, int] = {}
        self.frames: dict[Frame, int] = {}
        self.stacks: dict[tuple[int, int | None], int] = {}
        self.rows: list[tuple[int, float, float]] = []

    def add(self, sample: Sample) -> None:
        prefix: int | None = None
        for frame in sample.stack:
            number = self.frames.setdefault(frame, len(self.frames))
            prefix = self.stacks.setdefault((number, prefix), len(self.stacks))
        if prefix is not None:
            self.rows.append((prefix, sample.at_ns / 1e6, sample.weight_ns / 1e6))

    def document(self, start_ms: float) -> dict[str, Any]:
        names = [self.strings.setdefault(frame_text(frame), len(self.strings)) for frame in self.frames]
        count = len(names)
        kinds = [_NUMBERS.get(frame.kind, 0) for frame in self.frames]
        none = [None] * count
        return {
            "processType": "default", "processName": self.first.process, "processStartupTime": 0,
            "processShutdownTime": None, "registerTime": 0, "unregisterTime": None, "pausedRanges": [],
            "name": self.first.thread, "isMainThread": self.first.pid == self.first.tid, "pid": str(self.first.pid),
            "tid": self.first.tid,
            "samples": {"stack": [row[0] for row in self.rows], "time": [row[1] - start_ms for row in self.rows],
                        "weight": [row[2] for row in self.rows], "weightType": "tracing-ms",
                        "length": len(self.rows)},
            "markers": {"data": [], "name": [], "startTime": [], "endTime": [], "phase": [], "category": [],
                        "length": 0},
            "stackTable": {"frame": [frame for frame, _ in self.stacks], "prefix": [up for _, up in self.stacks],
                           "category": [kinds[frame] for frame, _ in self.stacks],
                           "subcategory": [0] * len(self.stacks), "length": len(self.stacks)},
            "frameTable": {"address": [-1] * count, "inlineDepth": [0] * count, "category": kinds,
                           "subcategory": [0] * count, "func": list(range(count)), "nativeSymbol": none,
                           "innerWindowID": none, "implementation": none,
                           "line": [frame.line or None for frame in self.frames], "column": none, "length": count},
            "funcTable": {"isJS": [False] * count, "relevantForJS": [False] * count, "name": names,
                          "resource": [-1] * count, "fileName": none, "lineNumber": none, "columnNumber": none,
                          "length": count},
            "resourceTable": {"lib": [], "name": [], "host": [], "type": [], "length": 0},
            "nativeSymbols": {"libIndex": [], "address": [], "name": [], "functionSize": [], "length": 0},
            "stringArray": list(self.strings),
        }  # fmt: skip


def export(samples: Sequence[Sample], hz: int = 0) -> bytes:
    """Samples on the CPU and off it lie in the same threads; their weight is milliseconds."""
    threads: dict[tuple[int, int], _Thread] = {}
    for sample in samples:
        threads.setdefault((sample.pid, sample.tid), _Thread(sample)).add(sample)
    start_ms = min((sample.at_ns for sample in samples), default=0) / 1e6
    categories = [{"name": name, "color": color, "subcategories": ["Other"]} for name, color in _CATEGORIES]
    meta = {"version": 24, "preprocessedProfileVersion": 48, "interval": 1000 / hz if hz else 10,
            "startTime": start_ms, "processType": 0, "product": "osremed", "stackwalk": 1, "debug": False,
            "categories": categories, "markerSchema": [], "symbolicated": True}  # fmt: skip
    return canonical_json(
        {"meta": meta, "libs": [], "threads": [thread.document(start_ms) for thread in threads.values()]}
    )


def parse(data: bytes, where: str = "firefox") -> Profile:
    """BadInput for anything that is not a processed profile with its string arrays in the threads."""
    try:
        document = json.loads(data)
        start_ms = float(document["meta"]["startTime"])
        samples = [sample for thread in document["threads"] for sample in _thread(thread, start_ms)]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise BadInput(f"not a processed Firefox profile: {error!r}", where=where) from error
    return timed("firefox", samples, where)


def _thread(thread: Any, start_ms: float) -> list[Sample]:
    strings, stacks = thread["stringArray"], thread["stackTable"]
    names, functions = thread["funcTable"]["name"], thread["frameTable"]["func"]
    frames = [frame_of(str(strings[_at(names[_at(function)])])) for function in functions]
    chains: list[tuple[Frame, ...]] = []
    for frame, prefix in zip(stacks["frame"], stacks["prefix"]):
        above = () if prefix is None else chains[_at(prefix)]  # a prefix comes before its stack
        if len(above) > 4096:
            raise ValueError("a stack deeper than 4096 frames")
        chains.append((*above, frames[_at(frame)]))
    table = thread["samples"]
    weights = table.get("weight") or [1.0] * len(table["stack"])
    samples = []
    for stack, at_ms, weight in zip(table["stack"], table["time"], weights):
        if stack is None:
            continue
        at_ns, weight_ns = round((start_ms + float(at_ms)) * 1e6), round(float(weight) * 1e6)
        name, pid = str(thread.get("processName", "?")), int(thread.get("pid", 0))
        samples.append(plain_sample(max(0, at_ns), max(0, weight_ns), name, pid, chains[_at(stack)]))
    return samples


def _at(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{number!r} is not an index")
    return number
