"""Which rank the others wait for: last arrivers of each collective against chance, innermost groups first. Pure.

A rank is called slow only if it is last more often than 1/N explains (binomial, corrected for the number of ranks)
and what it costs is a noticeable share of the step: both, since a few microseconds can be regular too."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from osremed.core.record import record
from osremed.timeline.flightrecorder import Dump, Group, Operation

SIGNIFICANT = 5e-3
NOTICEABLE = 0.015  #: share of the step
_FEWEST = 8


@record
class GroupVerdict:
    """`rank` -1 when none is slow; `why` says with which figures. `explained_by` >= 0: the lateness in this group comes
    from that rank's own, smaller group. `gaps`: what could not be judged."""

    group: Group
    rank: int
    last: int
    collectives: int
    p_value: float
    lateness_s: float
    step_share: float
    explained_by: int
    why: str
    gaps: tuple[str, ...]


def arrivals(dumps: Iterable[Dump]) -> dict[Group, dict[int, dict[int, Operation]]]:
    """group -> sequence number -> rank -> what it recorded."""
    found: dict[Group, dict[int, dict[int, Operation]]] = {}
    for dump in dumps:
        for each in dump.operations:
            if each.peer < 0:
                found.setdefault(each.group, {}).setdefault(each.seq, {})[each.rank] = each
    return found


def slow_ranks(dumps: Sequence[Dump]) -> list[GroupVerdict]:
    """A verdict for each group of two ranks or more, smallest groups first."""
    table = arrivals(dumps)
    blamed: dict[int, GroupVerdict] = {}  #: member of a group that is held up -> by whom
    verdicts = []
    for group in sorted(table, key=lambda each: (len(each.ranks), each.name, each.ranks)):
        if len(group.ranks) < 2:
            continue
        times = {
            seq: {rank: each.created_ns for rank, each in members.items()} for seq, members in table[group].items()
        }
        verdict = judge_group(group, times, inner(group, blamed))
        verdicts.append(verdict)
        if verdict.rank >= 0 and verdict.explained_by < 0:
            blamed.update(dict.fromkeys(group.ranks, verdict))
    return verdicts


def inner(group: Group, blamed: Mapping[int, GroupVerdict]) -> dict[int, int]:
    """Rank -> who holds it up in a group smaller than this one."""
    return {rank: each.rank for rank, each in blamed.items() if len(each.group.ranks) < len(group.ranks)}


def judge_group(
    group: Group, times: Mapping[int, Mapping[int, int]], blamed: Mapping[int, int], *, step_ns: float = 0.0
) -> GroupVerdict:
    """`times`: sequence number -> rank -> when it arrived, ns by one clock. With `step_ns` they are minus how long each
    rank waited, which needs no common clock: who waits least came last."""
    seen = {rank for members in times.values() for rank in members}
    absent = sorted(set(group.ranks) - seen)
    gaps = [f"no recording of rank {', '.join(map(str, absent))}"] if absent else []
    whole = {seq: members for seq, members in sorted(times.items()) if len(members) == len(seen)}
    if len(times) > len(whole):
        gaps.append(f"{len(times) - len(whole)} collectives were not entered by every recorded rank")
    if len(whole) < _FEWEST or len(seen) < 2:
        return _none(group, len(whole), f"{len(whole)} common collectives: too few to judge", gaps)
    lasts = [max(members.values()) for members in whole.values()]
    one_clock = not step_ns
    step_ns = step_ns or median(after - before for before, after in zip(lasts, lasts[1:]))
    offset = _skewed(whole, step_ns) if one_clock else {}
    if offset:
        gaps += [f"the clock of rank {rank} differs by {by / 1e6:.1f} ms: not judged" for rank, by in offset.items()]
        whole = {seq: {r: at for r, at in members.items() if r not in offset} for seq, members in whole.items()}
        if len(seen) - len(offset) < 2:
            return _none(group, len(whole), "the clocks differ: arrivals cannot be compared", gaps)
    return _judge(group, whole, step_ns, blamed, gaps)


def _skewed(whole: Mapping[int, Mapping[int, int]], step_ns: float) -> dict[int, int]:
    """Ranks whose clock must differ: nobody can be a whole step behind or ahead of the others, since they wait."""
    found = {}
    for rank in next(iter(whole.values())):
        behind = [
            members[rank] - median(at for other, at in members.items() if other != rank) for members in whole.values()
        ]
        if abs(median(behind)) > max(step_ns, 1.0):
            found[rank] = round(median(behind))
    return found


def _judge(
    group: Group, whole: Mapping[int, Mapping[int, int]], step_ns: float, blamed: Mapping[int, int], gaps: list[str]
) -> GroupVerdict:
    last: Counter[int] = Counter()
    late: dict[int, list[float]] = {}
    for members in whole.values():
        rank = max(members, key=lambda each: members[each])
        last[rank] += 1
        others = [at for other, at in members.items() if other != rank]
        late.setdefault(rank, []).append(members[rank] - median(others))
    rank, count = last.most_common(1)[0]
    ranks = len(next(iter(whole.values())))
    p_value = min(1.0, ranks * binomial_tail(count, len(whole), 1 / ranks))
    lateness_ns = median(late[rank])
    share = lateness_ns * count / len(whole) / step_ns if step_ns > 0 else 0.0
    figures = (
        f"rank {rank} is last in {count} of {len(whole)} ({len(whole) / ranks:.0f} by chance, p = {p_value:.1g}), "
        f"{lateness_ns / 1e6:.2f} ms behind the others, {100 * share:.1f} % of a step"
    )
    if p_value > SIGNIFICANT or share < NOTICEABLE:
        return _none(group, len(whole), f"no slow rank: {figures}", gaps)
    cause = blamed.get(rank, -1)
    explained = cause if cause >= 0 and cause != rank else -1
    why = f"{figures}; it waits itself for rank {explained}" if explained >= 0 else figures
    return GroupVerdict(group, rank, count, len(whole), p_value, lateness_ns / 1e9, share, explained, why, tuple(gaps))


def _none(group: Group, collectives: int, why: str, gaps: Sequence[str]) -> GroupVerdict:
    return GroupVerdict(group, -1, 0, collectives, 1.0, 0.0, 0.0, -1, why, tuple(gaps))


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """P(X >= successes) for X ~ Binomial(trials, chance)."""
    total = 0.0
    for each in range(successes, trials + 1):
        log = (
            math.lgamma(trials + 1)
            - math.lgamma(each + 1)
            - math.lgamma(trials - each + 1)
            + each * math.log(chance)
            + (trials - each) * math.log1p(-chance)
        )
        total += math.exp(log)
    return min(1.0, total)
