"""One rank's trace as columns: 60 bytes an event instead of a dictionary each. Times are nanoseconds."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.timeline.tracefile import Event, TraceFile, to_ns

#: Category as written (PyTorch 1.x to 2.13, CUDA and ROCm; lower case) -> what it is to us.
KERNEL, COPY, RUNTIME, OPERATOR, PYTHON, ANNOTATION, OTHER = range(7)
_KINDS = {
    "kernel": KERNEL,
    "gpu_memcpy": COPY,
    "gpu_memset": COPY,
    "memcpy": COPY,
    "memset": COPY,
    "cuda_runtime": RUNTIME,
    "cuda_driver": RUNTIME,
    "hip_runtime": RUNTIME,
    "hip_driver": RUNTIME,
    "privateuse1_runtime": RUNTIME,
    "runtime": RUNTIME,
    "cpu_op": OPERATOR,
    "operator": OPERATOR,
    "cpu_instant_event": OTHER,
    "python_function": PYTHON,
    "user_annotation": ANNOTATION,
}
KIND_NAMES = ("kernel", "copy", "runtime", "operator", "python", "annotation", "other")
_LONGEST_NAME = 1000
_MOST_NS = 1 << 62
_MOST_FLOWS = 2_000_000


@record
class Lane:
    """A stream of a device, or a thread of a process. `device` tells which."""

    process: str
    thread: str
    label: str
    device: bool


class Interned:
    """Text -> small number, each text kept once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found


class Trace:
    """Complete events, and what links the forward pass to the backward one. `correlation` joins a launch with what ran
    on the GPU (0: none). `stacks` holds the `Call stack` text that older traces give operators, by event."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.rank = -1
        self.gaps: list[str] = []
        self.start = array("q")
        self.duration = array("q")
        self.name = array("l")
        self.kind = array("b")
        self.lane = array("l")
        self.correlation = array("q")
        self.stacks: dict[int, str] = {}
        self.names = Interned()
        self.collectives: dict[int, str] = {}  #: event -> process group of a communication kernel
        self.forwards: dict[int, tuple[int, int]] = {}  #: flow -> lane and moment of an operator of the forward pass
        self.backwards: list[tuple[int, int, int]] = []  #: lane, moment and flow of what autograd runs for it later
        self._lanes = Interned()
        self._labels: dict[str, str] = {}
        self._device_lanes: set[int] = set()

    def __len__(self) -> int:
        return len(self.start)

    def end(self, event: int) -> int:
        return self.start[event] + self.duration[event]

    def name_of(self, event: int) -> str:
        return self.names.texts[self.name[event]]

    def lanes(self) -> list[Lane]:
        """By the number events carry."""
        found = []
        for number, key in enumerate(self._lanes.texts):
            process, _, thread = key.partition("\0")
            label = self._labels.get(key) or self._labels.get(process, "")
            found.append(Lane(process, thread, label, number in self._device_lanes))
        return found

    def by_kind(self, *kinds: int) -> Iterator[int]:
        wanted = frozenset(kinds)
        return (event for event, kind in enumerate(self.kind) if kind in wanted)

    def add(self, event: Event) -> bool:
        """False for an event that is complete but makes no sense."""
        phase = event.get("ph")
        if phase == "X":
            return self._complete(event)
        if phase == "M":
            self._label(event)
        if phase in ("s", "f") and event.get("cat") == "fwdbwd":
            return self._flow(event, phase)
        return True

    def _complete(self, event: Event) -> bool:
        try:
            start, duration = to_ns(event["ts"]), to_ns(event.get("dur", 0))
            category, name = str(event.get("cat", "")).lower(), str(event.get("name", ""))[:_LONGEST_NAME]
            if not (0 <= duration < _MOST_NS and -_MOST_NS < start < _MOST_NS):
                return False
        except (KeyError, TypeError, ValueError, ArithmeticError):
            return False
        kind = _KINDS.get(category, OTHER)
        if kind == OTHER and category == "trace":  # the span of the profiler itself
            return True
        lane = self._lanes.number(f"{event.get('pid')}\0{event.get('tid')}")
        if kind in (KERNEL, COPY):
            self._device_lanes.add(lane)
        self.start.append(start)
        self.duration.append(duration)
        self.name.append(self.names.number(name))
        self.kind.append(kind)
        self.lane.append(lane)
        args = event.get("args")
        self.correlation.append(self._arguments(args, kind) if isinstance(args, dict) else 0)
        return True

    def _flow(self, event: Event, phase: str) -> bool:
        try:
            flow, at = event["id"], to_ns(event["ts"])
        except (KeyError, TypeError, ValueError, ArithmeticError):
            return False
        if not isinstance(flow, int) or not -_MOST_NS < at < _MOST_NS:
            return False
        if max(len(self.forwards), len(self.backwards)) >= _MOST_FLOWS:
            return True
        lane = self._lanes.number(f"{event.get('pid')}\0{event.get('tid')}")
        if phase == "s":
            self.forwards[flow] = (lane, at)
        else:
            self.backwards.append((lane, at, flow))
        return True

    def _arguments(self, args: dict[str, Any], kind: int) -> int:
        number = len(self.start) - 1
        if kind == OPERATOR and "Call stack" in args:
            self.stacks[number] = str(args["Call stack"])[:4000]
        if kind == KERNEL and "Process Group Name" in args:
            self.collectives[number] = f"{args['Process Group Name']} {args.get('Process Group Ranks', '')}"[:500]
        if kind not in (KERNEL, COPY, RUNTIME):
            return 0
        found = args.get("correlation")
        return found if isinstance(found, int) and 0 < found < _MOST_NS else 0

    def _label(self, event: Event) -> None:
        args = event.get("args")
        name = args.get("name") if isinstance(args, dict) else None
        if not isinstance(name, str):
            return
        if event.get("name") == "thread_name":
            self._labels[f"{event.get('pid')}\0{event.get('tid')}"] = name[:200]
        elif event.get("name") == "process_name":
            self._labels[str(event.get("pid"))] = name[:200]


def load_trace(path: str) -> Trace:
    """The trace's complete events, in columns. BadInput when the file is no trace; what is damaged is in `gaps`."""
    source, trace = TraceFile(path), Trace(path)
    senseless = 0
    for piece in source.pieces():
        for event in piece:
            senseless += not trace.add(event)
    trace.rank, trace.gaps = source.rank, source.gaps
    if senseless:
        trace.gaps.append(f"{senseless} events without a time that makes sense")
    if not len(trace):
        raise BadInput("the trace holds no complete event", where=path)
    return trace
