"""Two traces of the same work: which kernels take more or less time, and whether that is more than noise. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from osremed.core.record import record
from osremed.timeline.trace import COPY, KERNEL, OPERATOR, Trace

_MOST_SAMPLES = 2000


@record
class Change:
    """Of one name, after minus before. `p_value` is of the durations of single calls (Mann-Whitney, two-sided); NaN
    when one side has fewer than 8 calls: then nobody can tell."""

    name: str
    total_ns: int
    calls: int
    median_ns: int
    before_total_ns: int
    after_total_ns: int
    p_value: float


def compare(before: Trace, after: Trace) -> list[Change]:
    """By name, greatest change of total time first. Kernels and copies; operators when neither trace has kernels."""
    kinds = (KERNEL, COPY)
    if not any(True for _ in before.by_kind(*kinds)) and not any(True for _ in after.by_kind(*kinds)):
        kinds = (OPERATOR, OPERATOR)
    left, right = _durations(before, kinds), _durations(after, kinds)
    changes = []
    for name in left.keys() | right.keys():
        old, new = left.get(name, []), right.get(name, [])
        shift = round(median(new)) - round(median(old)) if old and new else 0
        old_total, new_total = sum(old), sum(new)
        changes.append(
            Change(
                name,
                new_total - old_total,
                len(new) - len(old),
                shift,
                old_total,
                new_total,
                mann_whitney(old, new),
            )
        )
    return sorted(changes, key=lambda each: (-abs(each.total_ns), each.name))


def _durations(trace: Trace, kinds: tuple[int, int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for event in trace.by_kind(*kinds):
        found.setdefault(trace.name_of(event), []).append(trace.duration[event])
    return found


def mann_whitney(left: Sequence[int], right: Sequence[int]) -> float:
    """Two-sided p-value that both come from one distribution (normal approximation, ties corrected); NaN for fewer
    than 8 of either. At most 2000 of each, evenly chosen, are ranked."""
    left, right = _thinned(left), _thinned(right)
    if min(len(left), len(right)) < 8:
        return math.nan
    ordered = sorted([(value, 0) for value in left] + [(value, 1) for value in right])
    total, rank_sum, tie_term, at = len(ordered), 0.0, 0.0, 0
    while at < total:
        end = at
        while end < total and ordered[end][0] == ordered[at][0]:
            end += 1
        mean_rank = (at + end + 1) / 2
        rank_sum += mean_rank * sum(1 for _, side in ordered[at:end] if side == 0)
        tie_term += (end - at) ** 3 - (end - at)
        at = end
    wins = rank_sum - len(left) * (len(left) + 1) / 2
    mean = len(left) * len(right) / 2
    variance = len(left) * len(right) / 12 * (total + 1 - tie_term / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    distance = max(0.0, abs(wins - mean) - 0.5) / math.sqrt(variance)
    return math.erfc(distance / math.sqrt(2))


def _thinned(values: Sequence[int]) -> Sequence[int]:
    stride = -(-len(values) // _MOST_SAMPLES) or 1
    return values[::stride]
