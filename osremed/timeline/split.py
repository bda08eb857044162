"""Where a GPU's time went: computing, communicating, copying, idle. Interval arithmetic in whole nanoseconds. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import median

from osremed.core.record import record
from osremed.timeline.trace import COPY, KERNEL, RUNTIME, Trace

_COMMUNICATION = re.compile(r"nccl|rccl|mscclpp|msccl|oneccl|nvshmem", re.IGNORECASE)

Intervals = list[tuple[int, int]]


@record
class Split:
    """Of one device of one rank. `compute` + `exposed_communication` + `exposed_copy` + `idle` == `span`, always.
    `communication` counts what runs beside computing too; `launch_delay_ns` is the median time between a launch and
    its kernel's start (-1: no launch is linked): small when the host is the one that is behind."""

    device: str
    span_ns: int
    compute_ns: int
    exposed_communication_ns: int
    exposed_copy_ns: int
    idle_ns: int
    communication_ns: int
    kernels: int
    launch_delay_ns: int
    unlinked: int


@record
class KernelRow:
    name: str
    count: int
    total_ns: int
    median_ns: int
    longest_ns: int
    communication: bool


def is_communication(name: str) -> bool:
    return _COMMUNICATION.search(name) is not None


def merged(intervals: Iterable[tuple[int, int]]) -> Intervals:
    """The same time, in order and without overlap; empty intervals are left out."""
    found: Intervals = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            if end > found[-1][1]:
                found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def length(intervals: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in intervals)


def gaps_between(busy: Sequence[tuple[int, int]], start: int, end: int) -> Intervals:
    """What `busy` (merged) leaves free of the span."""
    found, at = [], start
    for left, right in busy:
        if left > at:
            found.append((at, min(left, end)))
        at = max(at, right)
    if at < end:
        found.append((at, end))
    return found


def device_events(trace: Trace) -> dict[str, list[int]]:
    """Device -> its kernels and copies, in order of start. Lanes of one process are streams of one device."""
    lanes = trace.lanes()
    found: dict[str, list[int]] = {}
    for event in trace.by_kind(KERNEL, COPY):
        found.setdefault(lanes[trace.lane[event]].process, []).append(event)
    for events in found.values():
        events.sort(key=lambda event: trace.start[event])
    return found


def split_device(trace: Trace, device: str, events: Sequence[int], launches: dict[int, int]) -> Split:
    communicating = {number for number, name in enumerate(trace.names.texts) if is_communication(name)}
    compute: Intervals = []
    communication: Intervals = []
    everything: Intervals = []
    delays: list[int] = []
    unlinked = 0
    for event in events:
        interval = trace.start[event], trace.end(event)
        everything.append(interval)
        if trace.kind[event] == KERNEL:
            (communication if trace.name[event] in communicating else compute).append(interval)
        launch = launches.get(trace.correlation[event], -1)
        if launch < 0:
            unlinked += 1
        else:
            delays.append(interval[0] - trace.start[launch])
    busy = merged(everything)
    span = busy[-1][1] - busy[0][0] if busy else 0
    compute_ns = length(merged(compute))
    kernels_ns = length(merged([*compute, *communication]))
    return Split(
        device,
        span,
        compute_ns,
        kernels_ns - compute_ns,
        length(busy) - kernels_ns,
        span - length(busy),
        length(merged(communication)),
        len(events),
        round(median(delays)) if delays else -1,
        unlinked,
    )


def launches_of(trace: Trace) -> dict[int, int]:
    """Correlation -> the runtime call that launched it."""
    return {trace.correlation[event]: event for event in trace.by_kind(RUNTIME) if trace.correlation[event]}


def kernel_table(trace: Trace) -> list[KernelRow]:
    """By name, most time first."""
    durations: dict[int, list[int]] = {}
    for event in trace.by_kind(KERNEL, COPY):
        durations.setdefault(trace.name[event], []).append(trace.duration[event])
    rows = []
    for number, each in durations.items():
        name = trace.names.texts[number]
        middle = round(median(each))
        rows.append(KernelRow(name, len(each), sum(each), middle, max(each), is_communication(name)))
    return sorted(rows, key=lambda row: (-row.total_ns, row.name))
