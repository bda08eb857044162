"""Ranks of one job on this host, by what they call: who is behind, and for whom the others wait. Pure.

No clock is compared and no rank is asked: of processes that enter the same number of collectives, the one that waits
least for its GPU is the one the others wait for. It is called slow when it is so again and again, more often than 1/N
explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median

from osremed.core.record import record
from osremed.timeline.callprobes import COLLECTIVE, FUNCTIONS, WAITS, Flight, Sum
from osremed.timeline.slowrank import NOTICEABLE

_FEWEST = 10  #: collectives in a look
_SAME = 0.02  #: how far the numbers of collectives of one job's ranks may differ in a look
_CHANCE = 1e-6  #: of one look: with one each ten seconds, less than one false alarm in three months
_LESS = 0.7  #: of what the others wait


@record
class Rank:
    """One process in one look: collectives entered and seconds waited since the look before."""

    pid: int
    collectives: int
    waited_s: float


@record
class Laggard:
    """`share` is what the others lose, of the time of the look; `looks` how many in a row named the process."""

    pid: int
    others: tuple[int, ...]
    waited_s: float
    others_waited_s: float
    share: float
    looks: int
    p_value: float


@record
class Standstill:
    """Processes that have waited for their GPU for so long, and those of their job for whom they do: `behind` entered
    the fewest collectives, of those that do not wait if there are any. Ranks are followed from different moments on, so
    the count of one may be a few off; whether it waits is known."""

    waiting: tuple[int, ...]
    function: str
    seconds: float
    behind: tuple[int, ...]


Sums = Mapping[tuple[int, str], Sum]


def ranks(before: Sums, after: Sums) -> list[Rank]:
    """What each process did between two looks."""
    found: dict[int, list[float]] = {}
    for key, now in after.items():
        then = before.get(key)
        count, total_ns = (
            (now.count, now.total_ns) if then is None else (now.count - then.count, now.total_ns - then.total_ns)
        )
        sums = found.setdefault(key[0], [0, 0.0])
        if FUNCTIONS[key[1]] == COLLECTIVE:
            sums[0] += count
        elif FUNCTIONS[key[1]] == WAITS:
            sums[1] += total_ns / 1e9
    return [Rank(pid, int(count), waited) for pid, (count, waited) in sorted(found.items())]


def jobs(found: Iterable[Rank]) -> list[list[Rank]]:
    """Processes that entered the same number of collectives: ranks of one job, as far as can be told from outside."""
    grouped: list[list[Rank]] = []
    for each in sorted((one for one in found if one.collectives >= _FEWEST), key=lambda one: one.collectives):
        if grouped and each.collectives - grouped[-1][0].collectives <= max(2, _SAME * each.collectives):
            grouped[-1].append(each)
        else:
            grouped.append([each])
    return [job for job in grouped if len(job) > 1]


class Streaks:
    """How many looks in a row the same process was the one that waits least."""

    def __init__(self) -> None:
        self._streaks: dict[tuple[int, ...], tuple[int, int]] = {}

    def look(self, found: Iterable[Rank], span_s: float) -> list[Laggard]:
        """Those that are slow after this look of `span_s` seconds."""
        slow, streaks = [], {}
        for job in jobs(found):
            members = tuple(sorted(each.pid for each in job))
            least = min(job, key=lambda each: each.waited_s)
            others = median(each.waited_s for each in job if each is not least)
            share = (others - least.waited_s) / span_s
            if share < NOTICEABLE or least.waited_s > _LESS * others:
                continue
            pid, looks = self._streaks.get(members, (0, 0))
            looks = looks + 1 if pid == least.pid else 1
            streaks[members] = (least.pid, looks)
            p_value = min(1.0, len(job) * len(job) ** -float(looks))
            if p_value <= _CHANCE:
                rest = tuple(each for each in members if each != least.pid)
                slow.append(Laggard(least.pid, rest, least.waited_s, others, share, looks, p_value))
        self._streaks = streaks
        return slow


def standstill(flights: Iterable[Flight], sums: Sums, now_ns: int, limit_s: float) -> Standstill | None:
    """None while nobody waits for so long. `behind` is empty when only one process is known to use collectives."""
    long = [each for each in flights if FUNCTIONS[each.function] == WAITS and (now_ns - each.since_ns) / 1e9 >= limit_s]
    if not long:
        return None
    entered: dict[int, int] = {}
    for (pid, function), each in sums.items():
        if FUNCTIONS[function] == COLLECTIVE:
            entered[pid] = entered.get(pid, 0) + each.count
    waiting = tuple(sorted({each.pid for each in long}))
    first = min(long, key=lambda each: each.since_ns)
    most = max((entered.get(pid, 0) for pid in waiting), default=0)
    near = {pid: count for pid, count in entered.items() if most - count <= max(16, _SAME * most)}
    idle = {pid: count for pid, count in near.items() if pid not in waiting}
    fewest = min((idle or near).values(), default=0)
    named = tuple(sorted(pid for pid, count in (idle or near).items() if count == fewest))
    behind = named if fewest < most or (idle and fewest == most) else ()
    return Standstill(waiting, first.function, (now_ns - first.since_ns) / 1e9, behind)
