"""Run journals that cannot be changed afterwards without being found out: their hashes lie in the audits.

A seal says how many lines the journal of a run had and their SHA-256. It is kept when the run is about to touch its
host and when it ends; for what the guards refuse at the door it is in the line of that decision. A seal is written
after the lines it is of, so a crash in between leaves lines that no seal covers, and never a seal that is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from osremed.core.errors import OsremedError
from osremed.core.journal import written_lines
from osremed.core.log import Log
from osremed.core.record import record
from osremed.runbook.audit import Audit, person, written_by_hand
from osremed.runbook.model import Run, RunState

_LOG = Log("seals")


@record
class Seal:
    """`lines`: how many of the journal; `state`: that of the run after them."""

    run_id: str
    state: RunState
    lines: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "state": self.state.value}


def sha256_of(lines: Iterable[bytes]) -> str:
    """Of these lines of a journal, each with its newline."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line + b"\n")
    return digest.hexdigest()


def seal_of(run: Run, journal: str) -> Seal:
    lines = written_lines(journal)
    return Seal(run.run_id, run.state, len(lines), sha256_of(lines))


def sealed_in(audit: Audit) -> Callable[[Seal], None]:
    """Keeps seals in the audit of who has it open. One that cannot be written is left to the next: a full disk must not
    stop what takes a change back."""

    def keep(seal: Seal) -> None:
        try:
            audit.append({"seal": seal.as_json()})
        except OSError as error:
            _LOG.error("a run is not sealed", run=seal.run_id, error=str(error))

    return keep


def sealed_by_hand(hands: str) -> Callable[[Seal], None]:
    """The same in the audit of people's commands."""

    def keep(seal: Seal) -> None:
        try:
            with written_by_hand(hands) as audit:
                audit.append({"verb": "seal", "by": person(), "seal": seal.as_json()})
        except (OsremedError, OSError) as error:
            _LOG.error("a run is not sealed", run=seal.run_id, error=str(error))

    return keep
