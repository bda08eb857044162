"""Traces of several ranks together: which rank the others' communication kernels wait for. Pure.

A communication kernel runs from when its rank is ready until the last rank has come, so the rank whose kernel is
shortest came last. That needs no common clock."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from osremed.timeline.flightrecorder import Group
from osremed.timeline.slowrank import GroupVerdict, inner, judge_group
from osremed.timeline.split import is_communication
from osremed.timeline.trace import KERNEL, Trace


def slow_in_traces(traces: Sequence[Trace]) -> list[GroupVerdict]:
    """One verdict for each process group that two traces or more know; kernels are matched by their order in it."""
    waits: dict[str, dict[int, list[int]]] = {}
    starts: dict[str, dict[int, list[int]]] = {}
    for number, trace in enumerate(traces):
        rank = trace.rank if trace.rank >= 0 else number
        communicating = {each for each, name in enumerate(trace.names.texts) if is_communication(name)}
        events = [event for event in trace.by_kind(KERNEL) if trace.name[event] in communicating]
        for event in sorted(events, key=lambda each: trace.start[each]):
            label = trace.collectives.get(event, "all communication")
            waits.setdefault(label, {}).setdefault(rank, []).append(trace.duration[event])
            starts.setdefault(label, {}).setdefault(rank, []).append(trace.start[event])
    blamed: dict[int, GroupVerdict] = {}
    verdicts = []
    for label in sorted(waits, key=lambda each: (len(waits[each]), each)):
        ranks = waits[label]
        if len(ranks) < 2:
            continue
        group = Group(label, tuple(sorted(ranks)))
        common = min(len(each) for each in ranks.values())
        times = {seq: {rank: -each[seq] for rank, each in ranks.items()} for seq in range(common)}
        intervals = [after - before for each in starts[label].values() for before, after in zip(each, each[1:])]
        step_ns = float(median(intervals)) if intervals else 1.0
        verdict = judge_group(group, times, inner(group, blamed), step_ns=max(step_ns, 1.0))
        verdicts.append(verdict)
        if verdict.rank >= 0 and verdict.explained_by < 0:
            blamed.update(dict.fromkeys(group.ranks, verdict))
    return verdicts
