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
from osremed.core.files import read_bytes
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


_LOGIN_UID = "/proc/self/loginuid"
_NO_LOGIN = 0xFFFFFFFF
_ACTOR: ContextVar[str] = ContextVar("actor", default="")
_BY_TOKEN: ContextVar[bool] = ContextVar("by_token", default=False)
#: For a child that goes on with a caller's command: who that is.
ACTOR_VARIABLE = "OSREMED_ACTOR"
#: For a child whose verb notes what it does: the run or canary of the command that is in the audit already.
NOTED_VARIABLE = "OSREMED_NOTED"


def person() -> str:
    """Who gave this command: the caller a face has named, else who the environment says it is (OSREMED_ACTOR, then
    sudo's word), else the owner of the process. At a command line that is a claim: `caller` is beside it."""
    named = _ACTOR.get() or os.environ.get(ACTOR_VARIABLE) or os.environ.get("SUDO_USER")
    return named or user_of(os.getuid())


def login_uid() -> int | None:
    """Whose login this process descends from; the kernel keeps it over sudo and su. None where nobody has logged in (a
    service, a container) or the kernel does not tell."""
    try:
        uid = int(read_bytes(_LOGIN_UID, limit_bytes=32))
    except (OSError, ValueError):
        return None
    return None if uid == _NO_LOGIN else uid


def caller_uid() -> int | None:
    """Who gave this command at a command line, whatever they call themselves: the user of the login, else of the
    process. None for root without a login, whom many may be, and for a caller whom a face knows by a token."""
    if _BY_TOKEN.get():
        return None
    login = login_uid()
    return login if login is not None else os.getuid() or None


def caller() -> dict[str, Any]:
    """What the kernel says of the process that gave this command: an audit has it beside the name."""
    uid, login = os.getuid(), login_uid()
    found: dict[str, Any] = {"via": "token" if _BY_TOKEN.get() else "cli", "uid": uid, "user": user_of(uid)}
    return found if login is None else {**found, "login_uid": login, "login": user_of(login)}


def user_of(uid: int) -> str:
    """The user's name; the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@contextlib.contextmanager
def acting_as(name: str, *, by_token: bool = True) -> Iterator[None]:
    """Within it, in this thread or task, `person()` is `name`; the caller is known by a token, or is who runs this
    process."""
    was, how = _ACTOR.set(name), _BY_TOKEN.set(by_token)
    try:
        yield
    finally:
        _ACTOR.reset(was)
        _BY_TOKEN.reset(how)


def _hash(entry: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in entry.items() if key != "hash"})


class Audit:
    """One writer's handle; BlockingIOError while another has it. `append` returns after fsync."""

    def __init__(self, directory: str, *, max_segments: int = 0, beside: Mapping[str, Any] | None = None) -> None:
        """`beside`: what each entry has, whatever else is in it."""
        self._beside = dict(beside or {})
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
            chained = {**entry, **self._beside, "at_ns": time.time_ns(), "prev": head}
            head = chained["hash"] = _hash(chained)
            chain.append(chained)
        self._journal.append_all(chain)
        self._head = head

    def close(self) -> None:
        self._journal.close()


@contextlib.contextmanager
def written_by_hand(directory: str) -> Iterator[Audit]:
    """The audit for one entry of a person's command, which gets `caller` as `who`. Unavailable if others hold it for
    five seconds."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            audit = Audit(directory, beside={"who": caller()})
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
