"""Which canaries that are over need not be kept any longer, and their removal; then what requests left behind.

A canary stays while it goes on, cannot be read, or a run of it is kept: the run leads to it. What the list told of it
is in the audit of people's commands, in the entry that says it was removed; that entry is on disk before anything is.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping

from osremed.core.errors import OsremedError
from osremed.runbook.audit import Audit
from osremed.runbook.canary import Canary, row_of
from osremed.runbook.fanout import MAKING, canary_ids, canary_of, load, place_of, read_stop
from osremed.runbook.operator import Operator
from osremed.runbook.removal import remove_whole, sweep
from osremed.runbook.retention import BATCH, DAY_S, Keep

_VERB = "canary-retire"
#: What a request leaves: the event it made, what the process said that drives its run or canary.
_PAPER = re.compile(r"(canary-)?([0-9a-f]{16})\.(?:json|log)")


def outlived_canaries(written_ns: Mapping[str, int], keep: Keep, *, counted: Collection[str], now_ns: int) -> list[str]:
    """Pure. Those whose last line is too old, or that are too many, the oldest first; none of today, and none that a
    kept run counts on. `written_ns`: canary -> when its last line was written."""
    oldest = sorted(written_ns, key=lambda name: (written_ns[name], name))
    excess = frozenset(oldest[: -keep.most] if keep.most else ())

    def over(name: str) -> bool:
        age_s = (now_ns - written_ns[name]) / 1e9
        return age_s >= DAY_S and (name in excess or 0 < keep.age_s <= age_s)

    return [name for name in oldest if name not in counted and over(name)]


def retire_canaries(operator: Operator, canaries: str, hands: str, keep: Keep) -> int:
    """Removes some of what need not be kept, each with an entry in the audit `hands`; how many. BlockingIOError while
    another command has the audit; OSError when the disk takes no entry: then nothing is removed."""
    if not os.path.isdir(canaries):
        return 0
    sweep(canaries)
    chosen, half_made = _chosen(operator, canaries, keep), _half_made(canaries)
    if not chosen and not half_made:
        return 0
    audit = Audit(hands)
    try:  # whoever begins a canary, or stops one, has it meanwhile
        for name in _half_made(canaries):
            shutil.rmtree(os.path.join(canaries, name))
        if chosen:
            audit.append_all([_entry(canaries, name, canary) for name, canary in chosen])
        for name, _canary in chosen:
            remove_whole(canaries, name)
    finally:
        audit.close()
    return len(chosen)


def _half_made(canaries: str) -> list[str]:
    """Of processes that were killed before the canary was whole."""
    return [name for name in os.listdir(canaries) if name.startswith(MAKING)]


def _entry(canaries: str, name: str, canary: Canary) -> dict[str, object]:
    told = row_of(canary, read_stop(canaries, name))
    return {"verb": _VERB, "by": "retention", "canary": name, "told": told}


def _chosen(operator: Operator, canaries: str, keep: Keep) -> list[tuple[str, Canary]]:
    runs, damaged = operator.store.runs()
    if damaged:  # whose run it is, is not known
        return []
    counted = {canary_of(run.event.id) for run in runs}
    now_ns = operator.clock.wall_ns()
    chosen = []
    for name in outlived_canaries(dict(_written(canaries)), keep, counted=counted, now_ns=now_ns):
        with contextlib.suppress(OsremedError, OSError):  # it is left to who mends it, and named in the list
            if (canary := load(canaries, name)).ended:
                chosen.append((name, canary))
        if len(chosen) == BATCH:
            break
    return chosen


def _written(canaries: str) -> Iterator[tuple[str, int]]:
    for name in canary_ids(canaries):
        with contextlib.suppress(OsremedError, OSError), os.scandir(place_of(canaries, name, "journal")) as files:
            yield name, max(each.stat().st_mtime_ns for each in files)


def forget_requests(requests: str, runs: str, canaries: str, *, now_ns: int) -> int:
    """Removes what requests left, where its run or canary is not there (any more) and it is not of today; how many."""
    count = 0
    for name in os.listdir(requests) if os.path.isdir(requests) else ():
        found, path = _PAPER.fullmatch(name), os.path.join(requests, name)
        of = os.path.join(canaries if found and found[1] else runs, found[2]) if found else path
        if not os.path.lexists(of) and now_ns - os.lstat(path).st_mtime_ns >= DAY_S * 1e9:
            os.unlink(path)
            count += 1
    return count
