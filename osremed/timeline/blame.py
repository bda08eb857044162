"""Kernel -> launch -> operator -> Python frame, and the host frame that left the GPU idle. Pure.

A launch belongs to what encloses it in time on its thread. What a thread does at each moment is a path (outermost
first) in a tree of names; the tree is the flame graph."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from osremed.core.record import record
from osremed.timeline.split import device_events, gaps_between, launches_of, merged
from osremed.timeline.trace import ANNOTATION, COPY, KERNEL, KIND_NAMES, OPERATOR, PYTHON, RUNTIME, Trace

_STEP = "ProfilerStep"  #: all of them are one: a flame graph is about code, not about time
_NOTHING = 0  #: the root: nothing is recorded
_SYNCHRONIZE = ("synchronize", "cudaeventquery", "aten::item", "aten::_local_scalar_dense", "aten::nonzero")
_LOADER = ("dataloader", "data_loader", "_next_data", "get_batch")
_FLOW = ("launchkernel", "graphlaunch", "memcpyasync", "memsetasync", "launchcooperative", "cudalaunch", "hiplaunch")


class Paths:
    """A tree of names. Node 0 is the root; `kind` is the kind of the node's own event."""

    def __init__(self) -> None:
        self.parent = [0]
        self.name = [-1]
        self.kind = [-1]
        self._numbers: dict[tuple[int, int], int] = {}

    def child(self, parent: int, name: int, kind: int) -> int:
        key = (parent, name)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.parent)
            self.parent.append(parent)
            self.name.append(name)
            self.kind.append(kind)
        return found

    def up(self, node: int) -> Iterator[int]:
        """The node and what encloses it, innermost first, without the root."""
        while node:
            yield node
            node = self.parent[node]


@record
class Activity:
    """What one thread did: from `at[i]` until `at[i + 1]` it was in path `node[i]`."""

    at: array[int]
    node: array[int]


class Blame:
    """The paths of all host threads, and of every launch."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.paths = Paths()
        self.launches = launches_of(trace)
        self.path_of_launch: dict[int, int] = {}
        self._told_by: dict[int, int] = {}  #: launch -> the innermost operator around it that tells its call stack
        self.activity: dict[int, Activity] = {}
        self._step = trace.names.number(_STEP)
        by_lane: dict[int, list[int]] = {}
        for event in trace.by_kind(RUNTIME, OPERATOR, PYTHON, ANNOTATION):
            by_lane.setdefault(trace.lane[event], []).append(event)
        for lane, events in by_lane.items():
            self.activity[lane] = self._walk(events)
        self._link_backward()

    def _walk(self, events: list[int]) -> Activity:
        """One sweep over a thread. An event that outlasts what encloses it (clocks are rounded) ends with it."""
        trace, paths = self.trace, self.paths
        events.sort(key=lambda event: (trace.start[event], -trace.duration[event]))
        at, node = array("q"), array("l")
        stack: list[tuple[int, int, int]] = []  #: (end, path, innermost event with a call stack or -1)

        def until(moment: int) -> None:
            while stack and stack[-1][0] <= moment:
                end = stack.pop()[0]
                at.append(end)
                node.append(stack[-1][1] if stack else _NOTHING)

        for event in events:
            start = trace.start[event]
            until(start)
            parent = stack[-1][1] if stack else _NOTHING
            end = min(trace.end(event), stack[-1][0]) if stack else trace.end(event)
            step = trace.kind[event] == ANNOTATION and trace.name_of(event).startswith(_STEP)
            path = paths.child(parent, self._step if step else trace.name[event], trace.kind[event])
            told_by = event if event in trace.stacks else stack[-1][2] if stack else -1
            stack.append((end, path, told_by))
            at.append(start)
            node.append(path)
            if trace.kind[event] == RUNTIME and trace.correlation[event]:
                self.path_of_launch[event] = path
                if told_by >= 0:
                    self._told_by[event] = told_by
        until(1 << 62)
        return Activity(at, node)

    def _link_backward(self) -> None:
        """What autograd launches on a thread without Python belongs to the line whose operator it derives: its path is
        put below that line's."""
        flows: dict[int, list[tuple[int, int]]] = {}
        for lane, at, flow in self.trace.backwards:
            forward = self.trace.forwards.get(flow)
            node = self._python_at(*forward) if forward else _NOTHING
            if node:
                flows.setdefault(lane, []).append((at, node))
        for each in flows.values():
            each.sort()
        for event, path in list(self.path_of_launch.items()):
            known = flows.get(self.trace.lane[event])
            if known is None or self.innermost(path, PYTHON):
                continue
            found = bisect_right(known, (self.trace.start[event], 1 << 62)) - 1
            if found >= 0 and self._encloses(self.trace.lane[event], known[found][0], path):
                self.path_of_launch[event] = self._below(known[found][1], path)

    def path_at(self, lane: int, moment: int) -> int:
        """What a thread was in; the root when nothing is recorded."""
        activity = self.activity.get(lane)
        found = bisect_right(activity.at, moment) - 1 if activity else -1
        return activity.node[found] if activity and found >= 0 else _NOTHING

    def _python_at(self, lane: int, moment: int) -> int:
        node = self.path_at(lane, moment)
        return next((each for each in self.paths.up(node) if self.paths.kind[each] == PYTHON), _NOTHING)

    def _encloses(self, lane: int, moment: int, path: int) -> bool:
        """Whether the operator that began at the moment is still what the launch came from."""
        began = self.path_at(lane, moment)
        return began != _NOTHING and began in self.paths.up(path)

    def _below(self, node: int, path: int) -> int:
        for each in list(self.paths.up(path))[::-1]:
            node = self.paths.child(node, self.paths.name[each], self.paths.kind[each])
        return node

    def path_of_kernel(self, event: int) -> int:
        """The path of the call that launched it; the root when no launch is linked."""
        launch = self.launches.get(self.trace.correlation[event], -1)
        return self.path_of_launch.get(launch, _NOTHING)

    def told_frame(self, event: int) -> str:
        """The innermost frame of the call stack that an operator around the kernel's launch tells; else empty."""
        told_by = self._told_by.get(self.launches.get(self.trace.correlation[event], -1), -1)
        return self.trace.stacks[told_by].split(";")[0].strip() if told_by >= 0 else ""

    def words(self, node: int) -> list[str]:
        """The path's names, outermost first."""
        texts = self.trace.names.texts
        return [texts[self.paths.name[each]] for each in self.paths.up(node)][::-1]

    def innermost(self, node: int, kind: int) -> str:
        found = next((each for each in self.paths.up(node) if self.paths.kind[each] == kind), 0)
        return self.trace.names.texts[self.paths.name[found]] if found else ""


@record
class Idle:
    """GPU time in which nothing ran while the launching thread was in `frame` / `operator`: `cause` is data loading,
    synchronisation, launching, python, operator or unrecorded."""

    cause: str
    frame: str
    operator: str
    idle_ns: int
    gaps: int


def idle_causes(blame: Blame) -> list[Idle]:
    """Every nanosecond of every gap, attributed; most first. The launching thread is that of the kernel after the gap,
    so a gap whose kernel has no linked launch is unrecorded."""
    trace = blame.trace
    spent: Counter[tuple[str, str, str]] = Counter()
    gaps: Counter[tuple[str, str, str]] = Counter()
    for events in device_events(trace).values():
        busy = merged((trace.start[event], trace.end(event)) for event in events)
        first: dict[int, int] = {}
        for event in events:
            first.setdefault(trace.start[event], event)
        for start, end in gaps_between(busy, busy[0][0], busy[-1][1]) if busy else []:
            launch = blame.launches.get(trace.correlation[first[end]], -1)
            activity = blame.activity.get(trace.lane[launch]) if launch >= 0 else None
            seen = set()
            for node, nanoseconds in _spent_in(activity, start, end):
                key = _cause(blame, node)
                spent[key] += nanoseconds
                seen.add(key)
            gaps.update(seen)
    return [Idle(*key, total, gaps[key]) for key, total in spent.most_common()]


def _spent_in(activity: Activity | None, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(path, ns) of the span; the root for what nothing is recorded of."""
    if activity is None:
        yield _NOTHING, end - start
        return
    number = bisect_right(activity.at, start) - 1
    at = start
    while at < end:
        node = activity.node[number] if number >= 0 else _NOTHING
        number += 1
        until = min(end, activity.at[number]) if number < len(activity.at) else end
        if until > at:
            yield node, until - at
            at = until


def _cause(blame: Blame, node: int) -> tuple[str, str, str]:
    frame, operator = blame.innermost(node, PYTHON), blame.innermost(node, OPERATOR)
    words = [each.lower() for each in blame.words(node)]
    innermost = words[-1] if words else ""
    if any(mark in word for word in words for mark in _LOADER):
        cause = "data loading"
    elif any(mark in word for word in words[-3:] for mark in _SYNCHRONIZE):
        cause = "synchronisation"
    elif any(mark in innermost for mark in _FLOW):
        cause = "launching"
    elif operator:
        cause = "operator"
    else:
        cause = "python" if frame else "annotation" if node else "unrecorded"
    return cause, frame, operator


def flame(blame: Blame) -> dict[str, Any]:
    """{name, kind, value, children}: Python -> operator -> launch -> kernel, width = GPU time in ns. `kind` as in
    trace.KIND_NAMES; empty for the root."""
    trace = blame.trace
    own: Counter[tuple[int, int]] = Counter()
    for event in trace.by_kind(KERNEL, COPY):
        own[blame.path_of_kernel(event), trace.name[event]] += trace.duration[event]
    total: Counter[int] = Counter()
    children: dict[int, set[int]] = {}
    for (path, _), nanoseconds in own.items():
        for node in blame.paths.up(path):
            total[node] += nanoseconds
            children.setdefault(blame.paths.parent[node], set()).add(node)
        total[_NOTHING] += nanoseconds
    leaves: dict[int, list[dict[str, Any]]] = {}
    for (path, kernel), nanoseconds in own.items():
        leaf = {"name": trace.names.texts[kernel], "kind": KIND_NAMES[KERNEL], "value": nanoseconds, "children": []}
        leaves.setdefault(path, []).append(leaf)
    texts = trace.names.texts
    nodes: dict[int, dict[str, Any]] = {}
    for node in sorted(total, reverse=True):  # a child's number is above its parent's
        inner = [nodes[each] for each in children.get(node, ())] + leaves.get(node, [])
        name = texts[blame.paths.name[node]] if node else "GPU"
        ordered = sorted(inner, key=lambda each: (-each["value"], each["name"]))
        kind = KIND_NAMES[blame.paths.kind[node]] if node else ""
        nodes[node] = {"name": name, "kind": kind, "value": total[node], "children": ordered}
    return nodes.get(_NOTHING, {"name": "GPU", "kind": "", "value": 0, "children": []})


def folded(tree: dict[str, Any], path: Sequence[str] = ()) -> Iterator[str]:
    """`a;b;c value` lines, for any flame-graph tool."""
    stack: list[tuple[dict[str, Any], tuple[str, ...]]] = [(tree, tuple(path))]
    while stack:
        node, above = stack.pop()
        here = (*above, node["name"].replace(";", ","))
        rest = node["value"] - sum(each["value"] for each in node["children"])
        if rest:
            yield f"{';'.join(here)} {rest}"
        stack += [(each, here) for each in node["children"]]


@record
class Launched:
    """A kernel with where it comes from; `frame` and `operator` empty when the trace does not tell."""

    kernel: str
    count: int
    total_ns: int
    operator: str
    frame: str


def launched(blame: Blame) -> list[Launched]:
    """Kernels by name, operator and innermost Python frame, most GPU time first. Older traces without Python events
    give the operator's own `Call stack`."""
    trace = blame.trace
    spent: Counter[tuple[str, str, str]] = Counter()
    count: Counter[tuple[str, str, str]] = Counter()
    for event in trace.by_kind(KERNEL, COPY):
        path = blame.path_of_kernel(event)
        operator = blame.innermost(path, OPERATOR)
        frame = blame.innermost(path, PYTHON) or blame.told_frame(event)
        key = trace.name_of(event), operator, frame
        spent[key] += trace.duration[event]
        count[key] += 1
    return [Launched(key[0], count[key], total, key[1], key[2]) for key, total in spent.most_common()]
