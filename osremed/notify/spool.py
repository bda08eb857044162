"""What waits for a target: a journal and how far it has been told. After `put` a message survives a crash; it is told
at least once, in order."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from osremed.core.errors import BadInput
from osremed.core.journal import Cursor, Entry, Journal, read_journal
from osremed.core.log import Log
from osremed.core.record import record
from osremed.notify.message import Message, as_json, digest_of, from_json
from osremed.notify.policy import Limit
from osremed.notify.send import Failed, Sent

GIVE_UP_S = 24 * 3600.0
_FIRST_S, _LONGEST_S = 1.0, 300.0
_TOGETHER = 200  #: messages one digest may stand for
_SEGMENTS = 16  #: of 1 MiB: what a target that is away for good may cost
_PUT = "spooled_ns"  #: when a message came into the spool, beside what it says
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
    """One target's. `put` and `tell` may be called from two threads. With a `limit`, what is above it is told as one
    message: a fleet in trouble, or a target that was away, must not drown who reads."""

    def __init__(self, directory: str, attempt: Callable[[Message], Sent | Failed], limit: Limit | None = None) -> None:
        queue, told, given_up = _places(directory)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.target = os.path.basename(directory)
        self._queue = Journal(queue, max_segments=_SEGMENTS)
        self._given_up = Journal(given_up, max_segments=_SEGMENTS)
        self._cursor, self._attempt, self._limit = Cursor(told), attempt, limit
        self._news = threading.Event()
        self._tried, self._first_s = 0, 0.0
        self._sent_s: deque[float] = deque()

    def put(self, message: Message) -> None:
        self._queue.append({**as_json(message), _PUT: time.time_ns()})
        self._news.set()

    def tell(self, stop: threading.Event) -> None:
        """Tells what waits, one after the other, until `stop`."""
        while not stop.is_set():
            self._news.clear()
            try:
                wait_s = self._next()
            except OSError as error:
                _LOG.error("cannot read or keep what waits", target=self.target, why=str(error))
                wait_s = _LONGEST_S
            if wait_s is None:
                self._news.wait(0.5)
            elif wait_s:
                stop.wait(wait_s)

    def _next(self) -> float | None:
        """None when nothing waits; else the seconds until the next attempt."""
        most = _TOGETHER if self._limit else 1
        found = read_journal(self._queue.directory, after_seq=self._cursor.load(), max_entries=most).entries
        if not found:
            return None
        messages: list[Message] = []
        for entry in found:
            try:
                messages.append(from_json({key: each for key, each in entry.record.items() if key != _PUT}))
            except BadInput as error:
                if not messages:
                    return self._let_go(found[:1], error.what)
                break  # its turn comes when those before it are told
        count = self._together(messages)
        return self._tell_now(found[:count], messages[:count]) if count else _FIRST_S

    def _together(self, messages: Sequence[Message]) -> int:
        """How many of them are told now, as one; 0: none yet."""
        if self._limit is None:
            return 1
        now_s = time.monotonic()
        while self._sent_s and now_s - self._sent_s[0] > self._limit.per:
            self._sent_s.popleft()
        free = self._limit.messages - len(self._sent_s)
        if len(messages) <= free:
            return 1
        urgent = any(each.severity == "critical" for each in messages)
        return len(messages) if free > 0 or urgent else 0

    def _tell_now(self, entries: Sequence[Entry], messages: Sequence[Message]) -> float:
        message = messages[0] if len(messages) == 1 else digest_of(messages)
        result = self._attempt(message)
        if isinstance(result, Sent):
            if self._limit is not None:
                self._sent_s.append(time.monotonic())
            return self._done(entries)
        if self._tried == 0:
            self._first_s = time.monotonic()
        if result.for_good or self._waited_s(entries[-1]) > GIVE_UP_S:
            return self._let_go(entries, result.why)
        if self._tried == 0:
            _LOG.warning("not told, will try again", target=self.target, id=message.id, why=result.why)
        self._tried += 1
        return max(pause_s(self._tried - 1), result.after_s)

    def _waited_s(self, entry: Entry) -> float:
        """Since it was put, or since the first attempt of this process: a clock that was ahead then holds up nobody."""
        put_ns = entry.record.get(_PUT, entry.record.get("time_ns"))  # before there was a time of `put`: the event's
        spooled_s = time.time() - put_ns / 1e9 if isinstance(put_ns, int) else 0.0
        return max(spooled_s, time.monotonic() - self._first_s)

    def _let_go(self, entries: Sequence[Entry], why: str) -> float:
        for entry in entries:
            _LOG.error("given up", target=self.target, id=entry.record.get("id"), why=why)
            self._given_up.append({"message": entry.record, "why": why})
        return self._done(entries)

    def _done(self, entries: Sequence[Entry]) -> float:
        self._tried = 0
        self._cursor.store(entries[-1].seq)
        return 0.0

    def close(self) -> None:
        self._queue.close()
        self._given_up.close()
