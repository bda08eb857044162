"""Changes that can be taken back: registered by a module before it acts, reverted by the host itself unless confirmed.

Reverting is: restore the file and the values, tell the daemon, write the event, remove the record, in this order, and
each step may be done twice. So a crash between any two lines is finished by the next sweep. All of it happens under one
lock: a confirmation and a deadline never both win.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from osremed.agent.undo_file import revert_file, revert_link
from osremed.agent.undo_record import CONFLICT_SUFFIX, SUFFIX, UndoRecord, load_undo
from osremed.agent.undo_values import Result, ValueReverted, revert_values
from osremed.core.canonical import digest, sha256_hex
from osremed.core.clock import Clock
from osremed.core.errors import NotFound
from osremed.core.event import Event
from osremed.core.files import exclusive_lock, fsync_directory, read_bytes
from osremed.core.journal import Journal
from osremed.core.paths import HostPaths, host_name
from osremed.core.reading import Missing
from osremed.core.record import record
from osremed.sensors import process

__all__ = ["Result", "Reverted", "confirm", "revert", "revert_locked", "worst"]
_MAX_SEGMENTS = 16
_RESTART_TIMEOUT_S = 15.0


@record
class Reverted:
    """`result` is the worst of what became of the file and of each value; `current_sha256` is "" without a file."""

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
    if found.file:
        result, current_sha256 = revert_file(found.file)
        results.append(result)
    if found.link:
        results.append(revert_link(found.link)[0])
    values = revert_values(found.values, found.guard)
    result = worst([*results, *(each.result for each in values)])
    reload = "" if result is Result.CONFLICT else _reload(found.reload_status)
    if found.link and result is not Result.CONFLICT:  # also when a crash came between the link and the restart
        reload = _restart(found.link.unit)
    done = Reverted(found.undo_id, found.path, result, current_sha256, reload, values)
    _journal(paths, _event(found, done, why, clock.wall_ns()))
    record_path = os.path.join(paths.undo, found.undo_id + SUFFIX)
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


def _restart(unit: str) -> str:
    """Asks systemd to start what the link points to now, and does not wait: the unit may be this very agent."""
    if not unit:
        return ""
    try:
        ended = subprocess.run(
            ["systemctl", "--no-block", "try-restart", "--", unit],  # noqa: S607  where it lies differs
            capture_output=True,
            text=True,
            timeout=_RESTART_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{unit} was not restarted: {error}"
    said = ended.stderr.strip()[-300:]
    return f"{unit} is being restarted" if ended.returncode == 0 else f"{unit} was not restarted: {said}"


def _reload(status_path: str) -> str:
    """SIGHUP to the daemon that wrote the status file, known by pid and start time; what came of it. A daemon that does
    not run reads the file when it starts."""
    if not status_path:
        return ""
    try:
        document = json.loads(read_bytes(status_path, limit_bytes=1 << 20))
        pid, start_time_ticks = int(document["pid"]), int(document["start_time_ticks"])
    except OSError as error:
        return f"not signalled: {status_path}: {error.strerror}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"not signalled: {status_path}: {error!r}"
    handle = process.open_verified(pid, start_time_ticks)
    if isinstance(handle, Missing):
        return f"not signalled: {handle}"
    try:
        failure = process.send(handle.value, signal.SIGHUP)
    finally:
        os.close(handle.value)
    return f"not signalled: {failure}" if failure else f"SIGHUP sent to pid {pid}"


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
