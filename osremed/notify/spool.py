"""What waits for a target: a journal and how far it has been told. After `put` a message survives a crash; it is told
at least once, in order."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.journal import Cursor, Journal, read_journal
from osremed.core.log import Log
from osremed.core.record import record
from osremed.notify.message import Message, as_json, from_json
from osremed.notify.send import Failed, Sent

GIVE_UP_S = 24 * 3600.0
_FIRST_S, _LONGEST_S = 1.0, 300.0
_SEGMENTS = 16  #: of 1 MiB: what a target that is away for good may cost
_LOG = Log("notify")


@record
class Waiting:
    """`given_up` messages were refused for good, or were too old."""

    target: str
    waiting: int
    given_up: int


def _places(directory: str) -> tuple[str, str, str]:
    return os.path.join(directory, "queue"), os.path.join(directory, "told"), os.path.join(directory, "given-up")


def waiting(directory: str) -> Waiting:
    """Reads only. A target nobody has told anything has nothing waiting."""
    queue, told, given_up = _places(directory)
    rest = read_journal(queue, after_seq=Cursor(told).load()).entries if os.path.isdir(queue) else ()
    lost = read_journal(given_up).entries if os.path.isdir(given_up) else ()
    return Waiting(os.path.basename(directory), len(rest), len(lost))


def folder(state: str) -> str:
    """Where a state directory keeps what is to be told."""
    return os.path.join(os.path.abspath(state), "notify")


def waiting_of(state: str) -> list[Waiting]:
    """What waits for each target, by name."""
    home = folder(state)
    names = sorted(each.name for each in os.scandir(home) if each.is_dir()) if os.path.isdir(home) else []
    return [waiting(os.path.join(home, name)) for name in names]


def pause_s(attempt: int) -> float:
    """Between attempts: 1, 2, 4 ... seconds, at most five minutes."""
    return float(min(_FIRST_S * 2 ** min(attempt, 30), _LONGEST_S))


class Spool:
    """One target's. `put` and `tell` may be called from two threads."""

    def __init__(self, directory: str, attempt: Callable[[Message], Sent | Failed]) -> None:
        queue, told, given_up = _places(directory)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.target = os.path.basename(directory)
        self._queue = Journal(queue, max_segments=_SEGMENTS)
        self._given_up = Journal(given_up, max_segments=_SEGMENTS)
        self._cursor, self._attempt = Cursor(told), attempt
        self._news = threading.Event()

    def put(self, message: Message) -> None:
        self._queue.append(as_json(message))
        self._news.set()

    def tell(self, stop: threading.Event) -> None:
        """Tells what waits, one after the other, until `stop`."""
        tried = 0
        while not stop.is_set():
            self._news.clear()
            try:
                wait_s = self._next(tried)
            except OSError as error:
                _LOG.error("cannot read or keep what waits", target=self.target, why=str(error))
                wait_s = pause_s(tried)
            if wait_s is None:
                self._news.wait(0.5)
                continue
            tried = tried + 1 if wait_s else 0
            if wait_s:
                stop.wait(wait_s)

    def _next(self, tried: int) -> float | None:
        """None when nothing waits."""
        found = read_journal(self._queue.directory, after_seq=self._cursor.load(), max_entries=1).entries
        return self._one(found[0].seq, found[0].record, tried) if found else None

    def _one(self, seq: int, document: dict[str, Any], tried: int) -> float:
        """0.0 when the message is done with, else the seconds until the next attempt."""
        try:
            message = from_json(document)
        except BadInput as error:
            return self._let_go(seq, document, error.what)
        result = self._attempt(message)
        if isinstance(result, Sent):
            self._cursor.store(seq)
            return 0.0
        if result.for_good or time.time() - message.time_ns / 1e9 > GIVE_UP_S:
            return self._let_go(seq, document, result.why)
        if tried == 0:
            _LOG.warning("not told, will try again", target=self.target, id=message.id, why=result.why)
        return max(pause_s(tried), result.after_s)

    def _let_go(self, seq: int, document: dict[str, Any], why: str) -> float:
        _LOG.error("given up", target=self.target, id=document.get("id"), why=why)
        self._given_up.append({"message": document, "why": why})
        self._cursor.store(seq)
        return 0.0

    def close(self) -> None:
        self._queue.close()
        self._given_up.close()
