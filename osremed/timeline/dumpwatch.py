"""A directory where PyTorch leaves flight-recorder dumps, looked at in a process of its own: a job that timed out has
told there who stopped."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Sequence
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.log import Log
from osremed.timeline.flightrecorder import Dump, as_one_job, load_dump
from osremed.timeline.hang import find_hang
from osremed.timeline.probing import Serve, tell
from osremed.timeline.ranksverb import hang_document, slow_document
from osremed.timeline.slowrank import slow_ranks

_NAME = re.compile(r"[A-Za-z0-9_.-]{0,80}rank_[0-9]{1,6}")
_OLDEST_S = 900.0
_MOST_BYTES = 256 << 20
_MOST_FILES = 1024
_MOST_NAMED = 16

Listing = tuple[tuple[str, int, int], ...]  #: name, time of change in ns, bytes


def listing(directory: str, now_s: float) -> Listing:
    """Regular files with a name that ends in a rank, no older than a quarter of an hour."""
    try:
        names = sorted(name for name in os.listdir(directory) if _NAME.fullmatch(name))[:_MOST_FILES]
    except OSError:
        return ()
    found = []
    for name in names:
        try:
            facts = os.lstat(os.path.join(directory, name))
        except OSError:
            continue
        if stat.S_ISREG(facts.st_mode) and facts.st_size and now_s - facts.st_mtime < _OLDEST_S:
            found.append((name, facts.st_mtime_ns, facts.st_size))
    return tuple(found)


def judge(directory: str, files: Listing) -> dict[str, Any]:
    """{directory, ranks, gaps, slow, hang}: as `osremed timeline ranks` tells it of these dumps, but of the ranks that
    are here alone: a job on more than one host leaves the others' there. Of dumps of two jobs nothing is told."""
    dumps: dict[int, Dump] = {}
    gaps, left = [], _MOST_BYTES
    for name, _, size in files:
        left -= size
        if left < 0:
            gaps.append(f"{name}: more than {_MOST_BYTES >> 20} MiB of dumps; ask `osremed timeline ranks`")
            continue
        try:
            dump = load_dump(os.path.join(directory, name))
        except BadInput as error:
            gaps.append(f"{name}: {error.what}")
            continue
        if dump.rank in dumps:
            why = f"{name}: a second dump of rank {dump.rank}: these are of more than one job, and none is judged"
            return {"directory": directory, "ranks": [], "gaps": [why], "slow": [], "hang": {}}
        dumps[dump.rank] = dump
    job = as_one_job(dumps[rank] for rank in sorted(dumps))
    gaps += _elsewhere(job)
    slow = [each for each in slow_ranks(job) if each.rank >= 0 and each.explained_by < 0]
    return {
        "directory": directory,
        "ranks": sorted(dumps),
        "gaps": gaps[:20],
        "slow": [slow_document(each) for each in slow[:8]],
        "hang": hang_document(find_hang(job, whole=False)),
    }


def _elsewhere(job: Sequence[Dump]) -> list[str]:
    """What is to be said of the ranks whose dumps are not here."""
    members = {rank for dump in job for each in dump.operations for rank in each.group.ranks}
    absent = sorted(members - {dump.rank for dump in job})
    named = ", ".join(str(rank) for rank in absent[:_MOST_NAMED]) + (", …" if len(absent) > _MOST_NAMED else "")
    return [f"no dumps here of ranks {named}: other hosts may have them"] if absent else []


def serve_dumps(directory: str) -> Serve:
    """Answers {} until dumps came and no more come; then with their verdict, once for each set."""

    def serve(request: int, answer: int) -> None:
        judged: Listing = ()
        before: Listing = ()
        log = Log("timeline")
        while os.read(request, 1):
            now = listing(directory, time.time())
            settled = now and now == before and now != judged
            before = now
            verdict = judge(directory, now) if settled else {}
            if settled:
                judged = now
            if verdict.get("gaps"):
                log.warning("dumps", directory=directory, gaps=verdict["gaps"])
            tell(answer, verdict)

    return serve
