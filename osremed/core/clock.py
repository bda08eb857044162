"""Time comes in through a Clock, so that tests and replays own it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def wall_ns(self) -> int:
        """Nanoseconds since the epoch: for records and for comparing hosts."""
        ...

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC nanoseconds: for durations and deadlines within one boot."""
        ...


class SystemClock:
    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class FakeClock:
    """A clock that moves only when told; wall and monotonic advance together."""

    def __init__(self, wall_ns: int = 1_700_000_000_000_000_000, monotonic_ns: int = 1_000_000_000) -> None:
        self._wall_ns, self._monotonic_ns = wall_ns, monotonic_ns

    def wall_ns(self) -> int:
        return self._wall_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        self._wall_ns += round(seconds * 1e9)
        self._monotonic_ns += round(seconds * 1e9)


def rfc3339(wall_ns: int) -> str:
    """UTC with milliseconds: `2026-11-22T01:02:03.456Z`."""
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1_000_000:03d}Z"
