"""Events of a daemon -> its journal, where the agent finds and ships them."""

from __future__ import annotations

from collections.abc import Sequence

from osremed.core.event import Event
from osremed.core.journal import Journal

_SEGMENTS = 16


class Outbox:
    """What the disk would not take (full, read-only) waits in memory, in order, at most `most`; it is offered again
    with the next event and by `flush`, which a daemon calls now and then. `failure` says why something waits, "" when
    all is on disk; `lost` counts what was dropped."""

    def __init__(self, directory: str, *, most: int = 256) -> None:
        self.directory, self._most = directory, most
        self._journal: Journal | None = None
        self.pending: list[Event] = []
        self.failure = ""
        self.lost = 0

    def tell(self, events: Sequence[Event]) -> None:
        """Returns once they are on disk, or kept in memory because that failed."""
        self.pending += events
        self.flush()

    def flush(self) -> None:
        """Nothing is made or opened while there is nothing to tell, and nothing failed."""
        if not self.pending and not self.failure:
            return
        try:
            journal = self._opened()
            while self.pending:
                journal.append(self.pending[0].as_json())
                del self.pending[0]
            self.failure = ""
        except OSError as error:
            self.failure = f"{self.directory}: {error.strerror}"
            self.lost += max(0, len(self.pending) - self._most)
            del self.pending[: -self._most]

    def open(self) -> None:
        """Now, and not with the first event: `failure` says when that cannot be."""
        try:
            self._opened()
        except OSError as error:
            self.failure = f"{self.directory}: {error.strerror}"

    def _opened(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self.directory, max_segments=_SEGMENTS)
        return self._journal

    def close(self) -> None:
        self.flush()
        if self._journal is not None:
            self._journal.close()
