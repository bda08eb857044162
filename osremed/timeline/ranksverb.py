"""`osremed timeline ranks`: flight-recorder dumps and job logs -> the slow rank, or the one that stopped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode
from osremed.core.files import read_bytes
from osremed.core.language import filled
from osremed.timeline.flightrecorder import Dump, as_one_job, load_dump
from osremed.timeline.hang import HangVerdict, find_hang, suspects_of_log
from osremed.timeline.slowrank import GroupVerdict, slow_ranks

_LONGEST_LOG = 1 << 30


def ranks(*, paths: Sequence[str], log: str | None = None) -> Answer:
    """Dumps (files, or folders of them) of one job. Exit code UNAVAILABLE when not one dump could be read; a dump that
    could not is a gap and named."""
    dumps, gaps = _load(paths)
    slow, hang = slow_ranks(dumps), find_hang(dumps)
    behind: list[int] = []
    if log is not None:
        behind, _ = suspects_of_log(_lines(log))
    document = {
        "ranks": sorted(dump.rank for dump in dumps),
        "gaps": gaps,
        "slow": [slow_document(each) for each in slow],
        "hang": hang_document(hang),
        "behind_in_log": behind,
    }
    return Answer(document, _text(dumps, gaps, slow, hang, behind), ExitCode.OK if dumps else ExitCode.UNAVAILABLE)


def _load(paths: Sequence[str]) -> tuple[list[Dump], list[str]]:
    files: list[str] = []
    for path in paths:
        files += sorted(os.path.join(path, name) for name in os.listdir(path)) if os.path.isdir(path) else [path]
    dumps: dict[int, Dump] = {}
    gaps = []
    for path in files:
        try:
            dump = load_dump(path)
        except BadInput as error:
            gaps.append(f"{error.where}: {error.what}")
            continue
        if dump.rank in dumps:
            raise BadInput(f"a second dump of rank {dump.rank}", where=path, hint="give the dumps of one job")
        dumps[dump.rank] = dump
    return as_one_job(dumps[rank] for rank in sorted(dumps)), gaps


def _lines(path: str) -> list[str]:
    try:
        return read_bytes(path, limit_bytes=_LONGEST_LOG).decode("utf-8", "backslashreplace").split("\n")
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path) from error


def slow_document(each: GroupVerdict) -> dict[str, Any]:
    return {
        "group": each.group.name,
        "ranks": list(each.group.ranks),
        "slow_rank": each.rank,
        "last": each.last,
        "collectives": each.collectives,
        "p_value": each.p_value,
        "lateness_s": each.lateness_s,
        "step_share": round(each.step_share, 4),
        "explained_by": each.explained_by,
        "why": each.why,
        "gaps": list(each.gaps),
    }


def hang_document(hang: HangVerdict) -> dict[str, Any]:
    suspects = [
        {"rank": each.rank, "side": each.side, "waiting": list(each.waiting), "why": each.why, "frames": each.frames}
        for each in hang.suspects
    ]
    return {
        "suspects": suspects,
        "mismatches": list(hang.mismatches),
        "entered_by_all": list(hang.entered_by_all),
        "waits": {str(rank): list(others) for rank, others in hang.waits.items()},
    }


def _text(
    dumps: Sequence[Dump], gaps: Sequence[str], slow: Sequence[GroupVerdict], hang: HangVerdict, behind: Sequence[int]
) -> str:
    operations = sum(len(dump.operations) for dump in dumps)
    lines = [filled("{1} ranks, {2} operations", str(len(dumps)), str(operations))]
    lines += [filled("GAP {1}", gap) for gap in gaps]
    for each in slow:
        told = f"{each.group}: {each.why}"
        lines.append(filled("SLOW {1}", told) if each.rank >= 0 and each.explained_by < 0 else f"     {told}")
        lines += ["     " + filled("GAP {1}", gap) for gap in each.gaps]
    if len(hang.suspects) > 1:
        lines.append(filled("HANG {1} ranks are equally suspect:", str(len(hang.suspects))))
    for suspect in hang.suspects:
        lines.append(filled("HANG {1}", suspect.why))
        lines += [f"       {frame}" for frame in suspect.frames[:8]]
    lines += [filled("MISMATCH {1}", each) for each in hang.mismatches[:10]]
    lines += [filled("PENDING {1}", each) for each in hang.entered_by_all[:10]]
    if behind:
        ranks = ", ".join(map(str, behind))
        lines.append(filled("LOG rank {1}: enqueued least, by the watchdog's lines", ranks))
    if not hang.suspects and not hang.entered_by_all:
        lines.append(filled("nobody waits: no hang in these recordings"))
    return "\n".join(lines)
