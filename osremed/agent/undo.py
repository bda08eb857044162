"""Changes that can be taken back: registered by a module before it acts, reverted by the host itself unless confirmed.

Reverting is: restore the file and the values, do what must follow (a daemon is told, a unit restarted), write the
event, remove the record, in this order, and each step may be done twice. So a crash between any two lines is finished
by the next sweep. All of it happens under one lock: a confirmation and a deadline never both win.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from osremed.agent.undo_file import revert_file, revert_link
from osremed.agent.undo_follow import follow_once
from osremed.agent.undo_record import CONFLICT_SUFFIX, SUFFIX, UndoRecord, load_undo
from osremed.agent.undo_values import Result, ValueReverted, revert_values
from osremed.core.canonical import digest, sha256_hex
from osremed.core.clock import Clock
from osremed.core.errors import NotFound
from osremed.core.event import Event
from osremed.core.files import exclusive_lock, fsync_directory
from osremed.core.journal import Journal
from osremed.core.paths import HostPaths, host_name
from osremed.core.record import record

__all__ = ["Result", "Reverted", "confirm", "revert", "revert_locked", "worst"]
_MAX_SEGMENTS = 16


@record
class Reverted:
    """`result` is the worst of what became of the file and of each value; `current_sha256` is "" without a file;
    `reload` says what followed."""

    undo_id: str
    path: str
    result: Result
    current_sha256: str
    reload: str
    values: tuple[ValueReverted, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "undo_id": self.undo_id,
            "path": self.path,
            "result": self.result.value,
            "current_sha256": self.current_sha256,
            "reload": self.reload,
            "values": [each.as_json() for each in self.values],
        }


def confirm(paths: HostPaths, undo_id: str) -> UndoRecord:
    """The change stays: its record is gone, on disk. NotFound when there is none to confirm."""
    with _locked(paths.undo, undo_id):
        found = load_undo(paths.undo, undo_id)
        os.unlink(os.path.join(paths.undo, undo_id + SUFFIX))
        fsync_directory(paths.undo)
    return found


def revert(paths: HostPaths, undo_id: str, *, why: str, clock: Clock) -> Reverted:
    """Takes one change back now. NotFound without a record; OSError leaves the record for the next try."""
    with _locked(paths.undo, undo_id):
        return revert_locked(paths, load_undo(paths.undo, undo_id), why=why, clock=clock)


@contextmanager
def _locked(directory: str, undo_id: str) -> Iterator[None]:
    if not os.path.isdir(directory):
        raise NotFound(f"no undo record {undo_id!r}", where=directory)
    with exclusive_lock(os.path.join(directory, ".lock")):
        yield


def revert_locked(paths: HostPaths, found: UndoRecord, *, why: str, clock: Clock) -> Reverted:
    """As `revert`; the caller holds the lock and has just loaded the record."""
    results: list[Result] = []
    current_sha256 = ""
    try:
        if found.file:
            result, current_sha256 = revert_file(found.file)
            results.append(result)
        if found.link:
            results.append(revert_link(found.link)[0])
    finally:  # a file that cannot be put back does not keep the values applied
        values = revert_values(found.values, found.guard)
    result = worst([*results, *(each.result for each in values)])
    record_path = os.path.join(paths.undo, found.undo_id + SUFFIX)
    reload = "" if result is Result.CONFLICT else follow_once(found, record_path, result)
    done = Reverted(found.undo_id, found.path, result, current_sha256, reload, values)
    _journal(paths, _event(found, done, why, clock.wall_ns()))
    if result is Result.CONFLICT:
        os.rename(record_path, os.path.join(paths.undo, found.undo_id + CONFLICT_SUFFIX))
    else:
        os.unlink(record_path)
    fsync_directory(paths.undo)
    return done


def worst(results: list[Result]) -> Result:
    """A conflict anywhere needs a human; else anything taken back counts."""
    for each in (Result.CONFLICT, Result.REVERTED):
        if each in results:
            return each
    return Result.ALREADY_PREVIOUS


def _event(found: UndoRecord, done: Reverted, why: str, now_ns: int) -> Event:
    """Its id comes from the record, so that an event written again after a crash is dropped as a duplicate."""
    name = "change.revert_conflict" if done.result is Result.CONFLICT else "change.reverted"
    attributes = {
        "undo_id": found.undo_id,
        "path": found.path,
        "why": why,
        "result": done.result.value,
        "applied_sha256": found.applied_sha256,
        "previous_sha256": sha256_hex(found.file.previous.content) if found.file and found.file.previous.exists else "",
        "current_sha256": done.current_sha256,
        "reload": done.reload,
        "values": [each.as_json() for each in done.values],
        "created_ns": found.created_ns,
        "deadline_ns": found.deadline_ns,
    }
    event_id = digest([name, found.undo_id, found.created_ns])[:32]
    return Event(event_id, name, host_name(), now_ns, attributes)


def _journal(paths: HostPaths, event: Event) -> None:
    journal = Journal(os.path.join(paths.events, "agent"), max_segments=_MAX_SEGMENTS)
    try:
        journal.append(event.as_json())
    finally:
        journal.close()
