"""What was decided and by whom, chained: each entry holds the hash of the one before it.

A journal that was cut, edited or reordered afterwards does not verify. It cannot show that its newest entries were
taken away: keep the last hash, as `osremed audit verify` prints it, somewhere else.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from osremed.core.canonical import digest
from osremed.core.errors import Unavailable
from osremed.core.journal import Journal, read_journal
from osremed.core.record import record

_WAIT_S = 5.0


@record
class Checked:
    """`head` is the last hash; `anchor` the hash before the first entry that is kept ("" at the very beginning)."""

    entries: int
    head: str
    anchor: str
    faults: tuple[str, ...]


_ACTOR: ContextVar[str] = ContextVar("actor", default="")
#: For a child that goes on with a caller's command: who that is.
ACTOR_VARIABLE = "OSREMED_ACTOR"
#: For a child whose verb notes what it does: the run or canary of the command that is in the audit already.
NOTED_VARIABLE = "OSREMED_NOTED"


def person() -> str:
    """Who gave this command: the caller a face has named, else the user behind sudo, else the owner of the process."""
    named = _ACTOR.get() or os.environ.get(ACTOR_VARIABLE) or os.environ.get("SUDO_USER")
    return named or pwd.getpwuid(os.getuid()).pw_name


@contextlib.contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Within it, in this thread or task, `person()` is `name`."""
    token = _ACTOR.set(name)
    try:
        yield
    finally:
        _ACTOR.reset(token)


def _hash(entry: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in entry.items() if key != "hash"})


class Audit:
    """One writer's handle; BlockingIOError while another has it. `append` returns after fsync."""

    def __init__(self, directory: str, *, max_segments: int = 0) -> None:
        self._journal = Journal(directory, max_segments=max_segments)
        after = self._journal.next_seq - 2  # the last one: what is older need not be read for its hash
        last = (read_journal(directory, after_seq=after).entries or read_journal(directory).entries)[-1:]
        self._head = str(last[0].record.get("hash", "")) if last else ""

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds `at_ns` (wall clock), `prev` and `hash` to the entry."""
        self.append_all([entry])

    def append_all(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """The same of each, in this order; after an OSError none of them is there."""
        chain, head = [], self._head
        for entry in entries:
            chained = {**entry, "at_ns": time.time_ns(), "prev": head}
            head = chained["hash"] = _hash(chained)
            chain.append(chained)
        self._journal.append_all(chain)
        self._head = head

    def close(self) -> None:
        self._journal.close()


@contextlib.contextmanager
def written_by_hand(directory: str) -> Iterator[Audit]:
    """The audit for one entry of a person's command. Unavailable if others hold it for five seconds."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            audit = Audit(directory)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unavailable("the audit is held by another command", where=directory) from None
            time.sleep(0.02)
    try:
        yield audit
    finally:
        audit.close()


def verify(directory: str) -> Checked:
    """Every fault of the chain, with the number of the entry."""
    if not os.path.isdir(directory):
        return Checked(0, "", "", ())
    contents = read_journal(directory)
    faults = list(contents.damaged)
    head, anchor, seq = "", "", -1
    for number, entry in enumerate(contents.entries):
        found = entry.record
        if number == 0:
            anchor = str(found.get("prev", ""))
        elif found.get("prev") != head:
            faults.append(f"entry {entry.seq}: it does not follow the one before it")
        if number and entry.seq != seq + 1:
            faults.append(f"entry {entry.seq}: {entry.seq - seq - 1} entries are missing before it")
        head, seq = str(found.get("hash", "")), entry.seq
        if head != _hash(found):
            faults.append(f"entry {entry.seq}: it is not what was written")
    return Checked(len(contents.entries), head, anchor, tuple(faults))
