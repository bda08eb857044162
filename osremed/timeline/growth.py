"""Growth of device memory: a robust slope, and what the sizes of the steps say about who allocates. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from osremed.core.record import record

MIB = 1 << 20
_LARGE_SEGMENT = 20 * MIB  #: kLargeBuffer of c10/cuda/CUDACachingAllocator
_OWN_SEGMENT = 10 * MIB  #: kMinLargeAlloc: from here on a request has a segment of its own, in steps of 2 MiB
_ROUND = 2 * MIB
_MOST_POINTS = 120


@record
class Growth:
    """`slope_bytes_per_s` is the median of the slopes between all pairs (Theil-Sen); `rising` the share of pairs in
    which the later value is higher; `steps` the increases, latest last; `signature` who allocates like this."""

    slope_bytes_per_s: float
    rising: float
    grown_bytes: int
    span_s: float
    steps: tuple[int, ...]
    signature: str


def growth(points: Sequence[tuple[float, int]]) -> Growth | None:
    """Of (second, used bytes) in order; None for fewer than three. At most 120 points, evenly chosen, are compared."""
    if len(points) < 3:
        return None
    stride = -(-len(points) // _MOST_POINTS)
    chosen = [*points[:-1:stride], points[-1]]
    slopes: list[float] = []
    rises = 0
    for at, (first_s, first) in enumerate(chosen):
        for later_s, later in chosen[at + 1 :]:
            if later_s > first_s:
                slopes.append((later - first) / (later_s - first_s))
                rises += later > first
    if not slopes:
        return None
    steps = tuple(after - before for (_, before), (_, after) in zip(points, points[1:]) if after > before)
    return Growth(
        sorted(slopes)[len(slopes) // 2],
        rises / len(slopes),
        points[-1][1] - points[0][1],
        points[-1][0] - points[0][0],
        steps[-20:],
        signature(steps),
    )


def signature(steps: Sequence[int]) -> str:
    """Whose steps these are, by size: PyTorch's caching allocator takes 2 MiB (small pool), 20 MiB (large pool) or,
    from 10 MiB on, a multiple of 2 MiB of its own; anything else is another allocator, or several at once."""
    if not steps:
        return "no step seen"
    kinds = Counter(step_kind(step) for step in steps)
    kind, count = kinds.most_common(1)[0]
    return kind if count * 2 > len(steps) else "mixed: " + ", ".join(sorted(kinds))


def step_kind(step: int) -> str:
    if step == _ROUND:
        return "caching allocator, small pool (2 MiB)"
    if step == _LARGE_SEGMENT:
        return "caching allocator, large pool (20 MiB)"
    if step >= _OWN_SEGMENT and step % _ROUND == 0:
        return "caching allocator, segment of its own (k x 2 MiB)"
    return "not the caching allocator's sizes"
