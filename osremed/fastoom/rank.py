"""Who dies first, and who never. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from osremed.core.reading import Missing
from osremed.core.record import record
from osremed.fastoom.model import Candidate, Process, Ranking, Spared
from osremed.fastoom.policy import Policy, Rule, matches, undecidable

KERNEL_POLICY_ADJ = 900  #: from here on, the owner told the kernel to take this one first
_GROWER_BYTES = 4 << 20  #: who grew by less is not the one
_NEVER_ADJ = -900  #: from here down, the owner told the kernel to spare this one
KERNEL, PREFERRED, BY_HEAP, AVOIDED = range(4)


@record
class Bounds:
    """`members`: the scope's pids. `own`: the guard and its ancestors. `dying`: (pid, start time) already signalled.
    `before`: who held how much a while ago, when only those who grew since may die; who is not in it held nothing."""

    members: frozenset[int]
    own: frozenset[int]
    dying: frozenset[tuple[int, int]] = frozenset()
    before: Mapping[tuple[int, int], int] | None = None


def rank(processes: Iterable[Process], policy: Policy, bounds: Bounds) -> Ranking:
    """A total order: tier, then heap from the largest, then the younger, then the higher pid. Each process is either a
    candidate or spared with a reason."""
    candidates, spared = [], []
    everybody = tuple(processes)
    least = _least_growth_bytes(everybody, bounds)
    for process in everybody:
        why = _untouchable(process, bounds) or _protected(process, policy.protect)
        one = _candidate(process, policy)
        if not why and one.tier > PREFERRED and _grown_bytes(process, bounds) < least:
            why = "not the one who grows: this need is from growth alone"
        if why:
            spared.append(Spared(process.pid, process.name, why, process.heap_bytes))
        else:
            candidates.append(one)
    candidates.sort(key=_order)
    spared.sort(key=lambda one: (-one.heap_bytes, one.pid))
    return Ranking(tuple(candidates), tuple(spared))


def _least_growth_bytes(processes: Collection[Process], bounds: Bounds) -> int:
    """From here on somebody is one of those who grow: half of what the fastest of all grew, protected ones included."""
    if bounds.before is None:
        return 0
    most = max((_grown_bytes(one, bounds) for one in processes), default=0)
    return max(_GROWER_BYTES, most // 2)


def _grown_bytes(process: Process, bounds: Bounds) -> int:
    """0 for everybody when growth is not asked for."""
    return 0 if bounds.before is None else process.heap_bytes - bounds.before.get(process.identity, 0)


def _order(candidate: Candidate) -> tuple[int, int, int, int]:
    process = candidate.process
    return candidate.tier, -process.heap_bytes, -process.start_time_ticks, -process.pid


def _untouchable(process: Process, bounds: Bounds) -> str:
    """Why the guard must not touch it whatever the policy says; empty if it may."""
    reasons = (
        (process.pid == 1, "pid 1"),
        (process.pid in bounds.own, "the guard or an ancestor of it"),
        (process.kernel_thread, "kernel thread"),
        (process.oom_score_adj <= _NEVER_ADJ, f"kernel policy: oom_score_adj {process.oom_score_adj}"),
        (process.pid not in bounds.members, "outside the scope"),
        ((process.pid, process.start_time_ticks) in bounds.dying, "signalled already, not gone yet"),
    )
    return next((why for holds, why in reasons if holds), "")


def _protected(process: Process, rules: Collection[Rule]) -> str:
    for rule in rules:
        if matches(rule, process):
            return f"protected by {rule.text}"
    if any(undecidable(rule, process) for rule in rules):
        why = process.argv if isinstance(process.argv, Missing) else "its command line is too long to search"
        return f"may be protected: {why}"
    return ""


def _candidate(process: Process, policy: Policy) -> Candidate:
    avoided = next((rule for rule in policy.avoid if matches(rule, process)), None)
    if avoided:
        return Candidate(process, AVOIDED, f"avoided by {avoided.text}, but nothing else is left")
    if process.oom_score_adj >= KERNEL_POLICY_ADJ:
        return Candidate(process, KERNEL, f"kernel policy: oom_score_adj {process.oom_score_adj}")
    preferred = next((rule for rule in policy.prefer if matches(rule, process)), None)
    if preferred:
        return Candidate(process, PREFERRED, f"preferred by {preferred.text}")
    return Candidate(process, BY_HEAP, "largest heap of the rest")
