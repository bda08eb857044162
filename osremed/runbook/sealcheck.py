"""What the audits say of runs, held against the runs that are there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from osremed.core.errors import NotFound
from osremed.core.journal import read_journal, written_lines
from osremed.core.record import record
from osremed.runbook.model import ENDED
from osremed.runbook.seals import Seal, sha256_of
from osremed.runbook.store import RunStore

_SEAL: TypeAdapter[Seal] = TypeAdapter(Seal)
#: A seal, and where it is kept.
_Kept = tuple[Seal, str]


@record
class CheckedRuns:
    """`removed`: by retention, which says so; `under_way`: they may grow after what is sealed; `open_ended`: ended, but
    the lines after their last seal are in no audit; `unsealed`: ended, with no seal at all."""

    sealed: int = 0
    removed: int = 0
    under_way: int = 0
    open_ended: tuple[str, ...] = ()
    unsealed: int = 0
    faults: tuple[str, ...] = ()


@record
class _Told:
    """What the audits say of runs: their seals, which were let in (and where that is said), which were removed."""

    seals: dict[str, list[_Kept]]
    said: dict[str, str]
    removed: set[str]


def _told(audits: Iterable[str]) -> _Told:
    told = _Told({}, {}, set())
    for audit in audits:
        for entry in read_journal(audit).entries if os.path.isdir(audit) else ():
            _hear(told, entry.record, f"{os.path.basename(audit)}, entry {entry.seq}")
    return told


def _hear(told: _Told, line: Mapping[str, Any], where: str) -> None:
    if "seal" in line:
        with contextlib.suppress(ValidationError):  # the chain says that it is not what was written
            seal = _SEAL.validate_python(line["seal"])
            told.seals.setdefault(seal.run_id, []).append((seal, where))
            told.said.setdefault(seal.run_id, where)
    elif line.get("admitted"):
        told.said.setdefault(str(line.get("run_id")), where)
    elif line.get("verb") == "retire" and isinstance(line.get("run"), dict):
        told.removed.add(str(line["run"].get("run_id")))


def check_runs(store: RunStore, audits: Sequence[str]) -> CheckedRuns:
    """The journals of runs against what these audits say of them."""
    found, damaged = store.runs()  # before the audits: what ended by then is sealed, or never will be
    told = _told(audits)
    ended = {run.run_id for run in found if run.ended}
    gone, faults, open_ended = [], list(damaged), []
    for run_id in told.said:
        lines, seals = _lines(store, run_id), told.seals.get(run_id, [])
        if not lines:
            gone.append(run_id)
        elif fault := next(_broken(lines, seals), ""):
            faults.append(f"run {run_id}: {fault}")
        elif seals and run_id in ended and all(seal.lines != len(lines) for seal, _where in seals):
            open_ended.append(run_id)
    unsaid = [run_id for run_id in gone if run_id not in told.removed]
    removed = _told(audits).removed if unsaid else told.removed  # some may just have been
    faults += [
        f"run {run_id}: it is gone, and nothing says that it was removed ({told.said[run_id]})"
        for run_id in unsaid
        if run_id not in removed
    ]
    return CheckedRuns(
        sealed=len(told.seals.keys() - gone),
        removed=len(removed),
        under_way=len(found) - len(ended),
        open_ended=tuple(open_ended),
        unsealed=len(ended - told.seals.keys()),
        faults=tuple(faults),
    )


def _lines(store: RunStore, run_id: str) -> list[bytes]:
    """Nothing for a run that is not there."""
    try:
        return written_lines(store.of(run_id).journal)
    except (NotFound, FileNotFoundError):
        return []


def _broken(lines: Sequence[bytes], seals: Iterable[_Kept]) -> Iterator[str]:
    """What is wrong with these lines, the last seal first: too few, others than were sealed, more after the end."""
    for seal, where in sorted(seals, key=lambda kept: kept[0].lines, reverse=True):
        if len(lines) < seal.lines:
            yield f"{seal.lines - len(lines)} of its {seal.lines} lines are missing ({where})"
        elif sha256_of(lines[: seal.lines]) != seal.sha256:
            yield f"its first {seal.lines} lines are not what was written ({where})"
        elif len(lines) > seal.lines and seal.state in ENDED:
            yield f"after its end lines were added: {len(lines) - seal.lines} ({where})"
