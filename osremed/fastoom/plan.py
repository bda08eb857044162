"""How many must die. Pure."""

from __future__ import annotations

from osremed.fastoom.model import Plan, Ranking

FLOOR_BYTES = 1 << 20  #: below this a process is not worth its work, unless the larger ones do not cover the need
MAX_BATCH = 200  #: victims at once: one pidfd each, under the usual limit of 1,024 descriptors


def make_plan(ranking: Ranking, deficit_bytes: int) -> Plan:
    """The shortest run from the head of the ranking whose heap covers the deficit; all of it (up to 200) when that does
    not. Empty when there is no deficit. No one is passed over for a better fit: the order is the policy."""
    expected, count = 0, 0
    for candidate in ranking.candidates[:MAX_BATCH]:
        if expected >= deficit_bytes:
            break
        expected += candidate.process.heap_bytes
        count += 1
    return Plan(ranking.candidates[:count], max(0, deficit_bytes), expected)
