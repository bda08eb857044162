"""Why a job stands still: who waits for whom, and who waits for nobody. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from osremed.core.record import record
from osremed.timeline.flightrecorder import Dump, Group, Operation

_QUEUE_FACTOR = 3.0
_TIMEOUT = re.compile(
    r"\[Rank ([0-9]{1,6})\].{0,200}?Watchdog caught collective operation timeout: "
    r"Work[A-Z]+\(SeqNum=([0-9]{1,12}), OpType=([A-Z_a-z0-9]{1,40})"
)
_STATUS = re.compile(
    r"\[Rank ([0-9]{1,6})\].{0,300}?last enqueued NCCL work: (-?[0-9]{1,12}), last completed NCCL work: (-?[0-9]{1,12})"
)


@record
class Suspect:
    """`side` is `cpu` (it entered no collective the others wait in), `gpu` (it entered it and its queue stands),
    `absent` (it left no recording) or `deadlock`. `waiting` are the ranks that wait for it, through others too."""

    rank: int
    side: str
    waiting: tuple[int, ...]
    why: str
    frames: tuple[str, ...]


@record
class HangVerdict:
    """`suspects` of equal standing are a tie and stay one. `mismatches`: collectives that the ranks entered with
    different operations or sizes. `entered_by_all`: pending everywhere: the network or a GPU holds it, no rank."""

    suspects: tuple[Suspect, ...]
    mismatches: tuple[str, ...]
    entered_by_all: tuple[str, ...]
    waits: Mapping[int, tuple[int, ...]]


def find_hang(dumps: Sequence[Dump], *, whole: bool = True) -> HangVerdict:
    """`whole`: these are all dumps of the job. Else a rank without one may have left it on another host, and is waited
    for, but no suspect."""
    by_rank = {dump.rank: dump for dump in dumps}
    pending = {dump.rank: [each for each in dump.operations if each.pending] for dump in dumps}
    waits = {rank: tuple(sorted(_waits_for(rank, pending[rank], by_rank))) for rank in by_rank}
    waited_for = {other for others in waits.values() for other in others}
    roots = sorted(rank for rank in waited_for if not waits.get(rank))
    if waited_for and not roots:
        roots = sorted(waited_for & set(waits))
        suspects = [_deadlocked(rank, waits) for rank in roots]
    else:
        suspects = [_suspect(rank, by_rank.get(rank), pending, waits) for rank in roots if whole or rank in by_rank]
    most = max((len(each.waiting) for each in suspects), default=0)
    return HangVerdict(
        tuple(each for each in suspects if len(each.waiting) == most),
        tuple(_mismatches(dumps)),
        tuple(_entered_by_all(pending)),
        waits,
    )


def _waits_for(rank: int, pending: Iterable[Operation], by_rank: Mapping[int, Dump]) -> set[int]:
    found: set[int] = set()
    for each in pending:
        members = [each.peer] if each.peer >= 0 else [member for member in each.group.ranks if member != rank]
        found.update(member for member in members if not _has_entered(by_rank.get(member), each, rank))
    return found


def _has_entered(dump: Dump | None, operation: Operation, rank: int) -> bool:
    """Whether the other side came as far. One without a recording did not, as far as anybody can tell."""
    if dump is None:
        return False
    if operation.peer < 0:
        return dump.last_enqueued.get(operation.group, -1) >= operation.seq
    opposite = ":recv" if ":send" in operation.name else ":send"
    return any(each.peer == rank and opposite in each.name and each.seq >= operation.seq for each in dump.operations)


def _waiting_on(rank: int, waits: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
    """Everybody who waits for the rank, through others too."""
    found: set[int] = set()
    edge = {rank}
    while edge:
        edge = {each for each, others in waits.items() if edge & set(others)} - found - {rank}
        found |= edge
    return tuple(sorted(found))


def _suspect(
    rank: int, dump: Dump | None, pending: Mapping[int, Sequence[Operation]], waits: Mapping[int, Sequence[int]]
) -> Suspect:
    waiting = _waiting_on(rank, waits)
    if dump is None:
        why = f"rank {rank} left no recording, and {len(waiting)} ranks wait for it: dead, or unreachable"
        return Suspect(rank, "absent", waiting, why, ())
    last = max(dump.operations, key=lambda each: each.created_ns, default=None)
    frames = last.frames if last else ()
    queue = len(pending[rank])
    usual = sorted(len(each) for each in pending.values())[int(0.9 * (len(pending) - 1))]
    if queue > _QUEUE_FACTOR * max(usual, 1):
        why = f"rank {rank} has {queue} operations pending, the others {usual}: its GPU stands"
        return Suspect(rank, "gpu", waiting, why, frames)
    where = f" after {last.name} #{last.seq} of {last.group}" if last else ""
    why = f"rank {rank} has not entered what {len(waiting)} ranks wait in: stopped on the CPU side{where}"
    return Suspect(rank, "cpu", waiting, why, frames)


def _deadlocked(rank: int, waits: Mapping[int, Sequence[int]]) -> Suspect:
    others = ", ".join(str(each) for each in waits[rank])
    return Suspect(rank, "deadlock", _waiting_on(rank, waits), f"rank {rank} waits for {others}, in a circle", ())


def _by_collective(dumps: Iterable[Dump]) -> dict[tuple[Group, int], list[Operation]]:
    found: dict[tuple[Group, int], list[Operation]] = {}
    for dump in dumps:
        for each in dump.operations:
            if each.peer < 0:
                found.setdefault((each.group, each.seq), []).append(each)
    return found


def _mismatches(dumps: Sequence[Dump]) -> Iterable[str]:
    for (group, seq), entered in sorted(_by_collective(dumps).items(), key=lambda each: each[0][1]):
        kinds: dict[str, list[int]] = {}
        for each in entered:
            kinds.setdefault(f"{each.name} {each.sizes}", []).append(each.rank)
        uneven = any(word in entered[0].name for word in ("gather", "scatter", "all_to_all", "alltoall", "broadcast"))
        if len({kind.split(" ", 1)[0] for kind in kinds}) > 1 or (len(kinds) > 1 and not uneven):
            words = "; ".join(f"rank {', '.join(map(str, ranks))}: {kind}" for kind, ranks in sorted(kinds.items()))
            yield f"#{seq} of {group}: {words}"[:600]


def _entered_by_all(pending: Mapping[int, Sequence[Operation]]) -> Iterable[str]:
    ranks_of: dict[tuple[Group, int, str], set[int]] = {}
    for rank, operations in pending.items():
        for each in operations:
            if each.peer < 0:
                ranks_of.setdefault((each.group, each.seq, each.name), set()).add(rank)
    for (group, seq, name), ranks in sorted(ranks_of.items(), key=lambda each: each[0][1]):
        if ranks == set(group.ranks):
            yield f"{name} #{seq} of {group}: entered by all and not finished, so the network or a GPU holds it"


@record
class WatchdogLine:
    """`seq`, `operation`: what timed out (-1 and empty in a status line); `enqueued`, `completed`: -2 when not told."""

    rank: int
    seq: int
    operation: str
    enqueued: int
    completed: int


def parse_watchdog(line: str) -> WatchdogLine | None:
    """What the watchdog of a rank says in a job's log; None for any other line."""
    found = _TIMEOUT.search(line[:4000])
    if found:
        return WatchdogLine(int(found.group(1)), int(found.group(2)), found.group(3), -2, -2)
    found = _STATUS.search(line[:4000])
    if found:
        return WatchdogLine(int(found.group(1)), -1, "", int(found.group(2)), int(found.group(3)))
    return None


def suspects_of_log(lines: Iterable[str]) -> tuple[list[int], list[WatchdogLine]]:
    """The ranks whose last enqueued work is behind the others', and all that was read. Several are a tie; none if all
    are equally far."""
    found = [each for each in map(parse_watchdog, lines) if each is not None]
    far = {each.rank: each.enqueued for each in found if each.enqueued >= -1}
    least = min(far.values(), default=0)
    return (sorted(rank for rank, seq in far.items() if seq == least) if len(set(far.values())) > 1 else []), found
