"""Reports -> events on disk, where the agent finds and ships them."""

from __future__ import annotations

from osremed.core.event import Event, new_event_id
from osremed.core.journal import Journal
from osremed.timeline.incidents import Report

_MAX_PENDING = 256


class Outbox:
    """What the disk would not take waits in memory, in order, at most 256; `lost` counts what was dropped then."""

    def __init__(self, directory: str, host: str) -> None:
        self._directory, self._host = directory, host
        self._journal: Journal | None = None
        self._pending: list[Event] = []
        self.failure = ""
        self.told = self.lost = 0

    def tell(self, reports: list[Report], time_ns: int) -> list[Event]:
        """The events, on disk or waiting for it."""
        events = [Event(new_event_id(), each.name, self._host, time_ns, each.attributes) for each in reports]
        self._pending += events
        self.told += len(events)
        try:
            if self._journal is None:
                self._journal = Journal(self._directory, max_segments=16)
            while self._pending:
                self._journal.append(self._pending[0].as_json())
                del self._pending[0]
            self.failure = ""
        except OSError as error:
            self.failure = f"{self._directory}: {error.strerror}"
            self.lost += max(0, len(self._pending) - _MAX_PENDING)
            del self._pending[:-_MAX_PENDING]
        return events

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
