"""Changes whose deadline passed without a confirmation are taken back, at start and every second."""

from __future__ import annotations

import os

from osremed.agent.undo import Reverted, revert_locked
from osremed.agent.undo_record import Registered, UndoRecord, list_undo
from osremed.core.clock import Clock
from osremed.core.files import exclusive_lock
from osremed.core.log import Log
from osremed.core.paths import HostPaths

_RETRY_MAX_S = 60.0


def is_due(found: UndoRecord, wall_ns: int, known_for_ns: int) -> bool:
    """Pure. Wall time decides, so a deadline that passed while the host was down counts; and a wall clock that was set
    back cannot hold a change for ever: time since the agent first saw the record counts as well."""
    if found.deadline_ns <= 0:
        return False
    return wall_ns >= found.deadline_ns or known_for_ns >= found.deadline_ns - found.created_ns


class Sweeper:
    """Remembers when each record was first seen and when a failed one is tried again."""

    def __init__(self, paths: HostPaths, clock: Clock, log: Log) -> None:
        self._paths, self._clock, self._log = paths, clock, log
        self._first_seen_ns: dict[str, int] = {}
        self._retry: dict[str, tuple[float, int]] = {}  #: undo_id -> (last wait, not before)
        self._said: set[str] = set()
        self.registered = Registered((), (), ())
        self.last_error = ""

    def sweep(self) -> list[Reverted]:
        """Reverts what is due. Never raises for one record: it is said and tried again, later each time."""
        self.registered = list_undo(self._paths.undo)
        for damaged in self.registered.damaged:
            self._say(damaged)
        known = {each.undo_id for each in self.registered.pending}
        for gone in [undo_id for undo_id in self._first_seen_ns if undo_id not in known]:
            del self._first_seen_ns[gone]
            self._retry.pop(gone, None)
        due = [each for each in self.registered.pending if self._due(each)]  # each is asked: it is first seen here
        if not due:
            return []
        try:
            with exclusive_lock(os.path.join(self._paths.undo, ".lock"), wait=False):
                done = self._revert_all()
        except BlockingIOError:  # a confirmation or a revert is at work: next second
            return []
        self.registered = list_undo(self._paths.undo)
        return done

    def _due(self, found: UndoRecord) -> bool:
        now_ns = self._clock.monotonic_ns()
        first_seen_ns = self._first_seen_ns.setdefault(found.undo_id, now_ns)
        _, not_before_ns = self._retry.get(found.undo_id, (0.0, 0))
        return now_ns >= not_before_ns and is_due(found, self._clock.wall_ns(), now_ns - first_seen_ns)

    def _revert_all(self) -> list[Reverted]:
        """Newest first: undo runs in reverse. Read and judged again under the lock: one may have been confirmed
        meanwhile, or have got a later deadline."""
        done = []
        for found in reversed(list_undo(self._paths.undo).pending):
            if not self._due(found):
                continue
            try:
                reverted = revert_locked(self._paths, found, why="deadline", clock=self._clock)
            except OSError as error:
                self._failed(found.undo_id, f"{error.filename or found.path}: {error.strerror or error}")
                continue
            done.append(reverted)
            self._log.warning("change was not confirmed in time", **reverted.as_json())
        return done

    def _failed(self, undo_id: str, why: str) -> None:
        wait_s = min(_RETRY_MAX_S, 2 * self._retry.get(undo_id, (0.5, 0))[0])
        self._retry[undo_id] = (wait_s, self._clock.monotonic_ns() + round(wait_s * 1e9))
        self._say(f"{undo_id}: change cannot be taken back: {why}")

    def _say(self, what: str) -> None:
        self.last_error = what
        if what not in self._said:
            self._said.add(what)
            self._log.error(what)
