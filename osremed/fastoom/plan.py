"""How many must die, and whether it would help. Pure."""

from __future__ import annotations

from osremed.core.units import format_bytes
from osremed.fastoom.model import Candidate, Plan, Ranking

FLOOR_BYTES = 1 << 20  #: below this a process is not worth its work, unless the larger ones do not cover the need
MAX_BATCH = 200  #: victims at once: one pidfd each, under the usual limit of 1,024 descriptors
#: When not even all of them cover the need, the memory is somewhere else: a victim must then hold at least one part in
#: 400 of it, and all together one part in 10, else ending them costs work and cures nothing.
_WORTH_PARTS = 400
_TOGETHER_PARTS = 10


def make_plan(ranking: Ranking, deficit_bytes: int, *, most: int = MAX_BATCH) -> Plan:
    """The shortest run from the head of the ranking whose heap covers the deficit, at most `most` of it. When all
    together do not cover it: those that matter, or nobody if together they hold less than a tenth of it. Empty when
    there is no deficit. No one is passed over for a better fit: the order is the policy."""
    need = max(0, deficit_bytes)
    candidates = ranking.candidates
    if sum(one.process.heap_bytes for one in candidates) < need:
        candidates = tuple(one for one in candidates if one.process.heap_bytes * _WORTH_PARTS >= need)
        if sum(one.process.heap_bytes for one in candidates) * _TOGETHER_PARTS < need:
            return Plan((), need, 0)
    expected, count = 0, 0
    for candidate in candidates[:most]:
        if expected >= need:
            break
        expected += candidate.process.heap_bytes
        count += 1
    return Plan(candidates[:count], need, expected)


def why_left(plan: Plan, candidate: Candidate) -> str:
    """Why a candidate is not among the victims."""
    if plan.covers:
        return "not needed: those before it cover the need"
    if not plan.victims:
        return f"would not help: all that may be ended hold too little of the {format_bytes(plan.deficit_bytes)} needed"
    if candidate.process.heap_bytes * _WORTH_PARTS < plan.deficit_bytes:
        return "would not help: it holds next to nothing of what is needed"
    return "beyond the largest batch"
