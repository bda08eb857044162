"""What is sent when, and how far the cursor moves: at least once, in order, nothing dropped silently."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from osremed.agent.intake import Delivery, Result
from osremed.agent.spool import BATCH_EVENTS, Follower, Spool
from osremed.core.canonical import canonical_json
from osremed.core.clock import Clock
from osremed.core.errors import BadInput
from osremed.core.event import event_from_json
from osremed.core.journal import Entry, Journal
from osremed.core.log import Log
from osremed.core.record import record

BATCH_BYTES = 256 << 10
POLL_S = 0.1  #: how soon a new entry is noticed
_BACKOFF_MIN_S, _BACKOFF_MAX_S = 0.2, 30.0
_RETRY_AFTER_MAX_S = 600.0
_HEAD, _TAIL = b'{"events":[', b"]}"


@record
class Batch:
    """`body` is what is posted, b"" if nothing is to be; `sent` its entries; `unfit`: sequence number -> why an entry
    can never be sent; `seen` all entries the batch accounts for, in order."""

    body: bytes
    sent: tuple[Entry, ...]
    unfit: Mapping[int, str]
    seen: tuple[Entry, ...]


def build_batch(entries: Iterable[Entry], *, max_events: int = BATCH_EVENTS, max_bytes: int = BATCH_BYTES) -> Batch:
    """Pure: the longest run of entries that fits. An entry that is no event, or too large alone, is unfit."""
    sent: list[Entry] = []
    seen: list[Entry] = []
    parts: list[bytes] = []
    unfit: dict[int, str] = {}
    size = len(_HEAD) + len(_TAIL)
    for entry in entries:
        part, why = _encode(entry.record, max_bytes - len(_HEAD) - len(_TAIL))
        if why:
            unfit[entry.seq] = why
        elif len(sent) == max_events or size + len(part) + bool(parts) > max_bytes:
            break
        else:
            size += len(part) + bool(parts)
            parts.append(part)
            sent.append(entry)
        seen.append(entry)
    body = _HEAD + b",".join(parts) + _TAIL if parts else b""
    return Batch(body, tuple(sent), unfit, tuple(seen))


def _encode(rec: Mapping[str, Any], max_bytes: int) -> tuple[bytes, str]:
    try:
        event_from_json(rec)
    except BadInput as error:
        return b"", f"not an event: {error.what}"[:500]
    part = canonical_json(rec)
    if len(part) > max_bytes:
        return b"", f"too large to send: {len(part)} bytes"
    return part, ""


def told_through(batch: Batch, settled: frozenset[str]) -> int:
    """Pure: the last sequence number up to which every entry is unfit or settled; -1 if the first is not."""
    through = -1
    for entry in batch.seen:
        if entry.seq not in batch.unfit and entry.record["id"] not in settled:
            break
        through = entry.seq
    return through


def backoff_s(failures: int, chance: float) -> float:
    """Pure: the wait after so many failures in a row; `chance` (0..1) spreads a fleet over half of it."""
    longest = min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2.0 ** min(failures, 20))
    return max(_BACKOFF_MIN_S, longest * (0.5 + chance / 2))


class Shipper:
    """Sends what is spooled through `send`. Figures are for the status file and count since start."""

    def __init__(
        self, spool: Spool, send: Callable[[bytes], Delivery], refused: Journal, clock: Clock, log: Log
    ) -> None:
        self._spool, self._send, self._refused_journal = spool, send, refused
        self._clock, self._log = clock, log
        self._chance = random.Random()  # noqa: S311  spreads retries, hides nothing
        self._failures = 0
        self._not_before_ns = 0
        self._max_events = BATCH_EVENTS
        self.shipped = self.refused = 0
        self.last_error = ""

    def step(self) -> float:
        """Sends at most one batch of each journal; the seconds until the next step."""
        wait_s = (self._not_before_ns - self._clock.monotonic_ns()) / 1e9
        if wait_s > 0:
            self._spool.waiting()  # the status file shows what is piling up
            return min(wait_s, POLL_S)
        try:
            for follower in self._spool.waiting():
                if not self._ship(follower):
                    break
        except OSError as error:  # a full disk, an unreadable journal: nothing was told, nothing is lost
            self._failed(f"{error.filename or 'spool'}: {error.strerror or error}", 0.0, loud=False)
        return 0.0 if self._failures == 0 and self._spool.spooled else POLL_S

    def _ship(self, follower: Follower) -> bool:
        """False when the intake needs a rest."""
        batch = build_batch(follower.read(), max_events=self._max_events)
        delivery = self._send(batch.body) if batch.body else Delivery(Result.TAKEN)
        if delivery.result is Result.UNFIT and len(batch.sent) > 1:
            self._max_events = len(batch.sent) // 2
            return True
        if delivery.result is Result.UNFIT:
            delivery = Delivery(Result.TAKEN, refused={batch.sent[0].record["id"]: delivery.detail})
        if delivery.result is not Result.TAKEN:
            self._failed(delivery.detail, delivery.retry_after_s, loud=delivery.result is Result.UNAUTHORIZED)
            return False
        return self._settle(follower, batch, delivery)

    def _settle(self, follower: Follower, batch: Batch, delivery: Delivery) -> bool:
        settled = delivery.acked | frozenset(delivery.refused)
        through = told_through(batch, settled)
        shipped = refused = 0
        for entry in batch.seen:
            if entry.seq > through:
                break
            why = batch.unfit.get(entry.seq) or ""
            if not why and entry.record["id"] not in delivery.acked:
                why = delivery.refused[entry.record["id"]]
            if why:
                self._refuse(follower, entry, why)
                refused += 1
            else:
                shipped += 1
        if through >= 0:
            follower.tell_through(through)
        self.shipped += shipped  # only now: what counts as told is not spooled any more, and not told again
        self.refused += refused
        if batch.seen and through < batch.seen[-1].seq:
            self._failed("the intake left events unanswered", delivery.retry_after_s, loud=False)
            return False
        if batch.body:
            self._recovered()
        return True

    def _refuse(self, follower: Follower, entry: Entry, why: str) -> None:
        self._refused_journal.append(
            {
                "journal": follower.name,
                "seq": entry.seq,
                "why": why,
                "at_ns": self._clock.wall_ns(),
                "event": entry.record,
            }
        )
        self._log.error("event refused", journal=follower.name, seq=entry.seq, why=why)

    def _failed(self, detail: str, retry_after_s: float, *, loud: bool) -> None:
        wait_s = max(backoff_s(self._failures, self._chance.random()), min(retry_after_s, _RETRY_AFTER_MAX_S))
        self._failures += 1
        self._not_before_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)
        if loud:
            self._log.error("the intake does not accept the token; events stay spooled", why=detail, retry_s=wait_s)
        elif detail != self.last_error:
            self._log.warning("events stay spooled", why=detail, retry_s=wait_s)
        self.last_error = detail

    def _recovered(self) -> None:
        if self._failures:
            self._log.info("the intake takes events again", after_failures=self._failures)
        self._failures, self.last_error, self._max_events = 0, "", BATCH_EVENTS
