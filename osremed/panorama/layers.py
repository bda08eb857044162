"""A layer runs for at most its share of the time, says what it cost, and names what it could not read.

Some system calls cannot be given a timeout: a process stuck in the kernel can hold its mmap lock, and reading its maps
or cmdline then waits. So each layer runs in a thread of its own that is left behind when it does not come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from osremed.core.reading import Missing, Reason
from osremed.panorama.model import Gap, Layer

T = TypeVar("T")
_GRACE_S = 0.25


class Progress:
    """Where a running layer is: its deadline, what it is reading now, and the gaps met so far."""

    def __init__(self, layer: str, deadline_s: float) -> None:
        self.layer = layer
        self.at = layer
        self._deadline_s = deadline_s
        self._gaps: dict[tuple[Reason, str], tuple[Missing, int]] = {}
        self.rows = 0
        self.out_of_time = False

    def expired(self, at: str) -> bool:
        """True once the time is used up. `at` is what will be read next, to be named if it never answers."""
        self.at = at
        self.out_of_time = self.out_of_time or time.monotonic() > self._deadline_s
        return self.out_of_time

    def gap(self, missing: Missing, kind: str = "") -> None:
        """Counts a failed reading; those of one reason and `kind` become one gap."""
        key = (missing.reason, kind or missing.detail)
        first, count = self._gaps.get(key, (missing, 0))
        self._gaps[key] = (first, count + 1)

    def gaps(self) -> tuple[Gap, ...]:
        return tuple(Gap(self.layer, first, count) for first, count in list(self._gaps.values()))


def run_layer(name: str, work: Callable[[Progress], T], partial: T, limit_s: float) -> tuple[T, Layer, tuple[Gap, ...]]:
    """The result of `work`, or `partial` (which `work` may fill as it goes) when it did not come back in `limit_s`.
    An exception of `work` is raised here."""
    started_s = time.monotonic()
    progress = Progress(name, started_s + limit_s)
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work(progress))
        except BaseException as error:  # raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=body, name=f"panorama-{name}", daemon=True)
    thread.start()
    thread.join(limit_s + _GRACE_S)
    if failures:
        raise failures[0]
    stuck = not results
    if stuck:
        progress.gap(
            Missing(Reason.TIMED_OUT, progress.at, f"no answer within {limit_s:.1f} s; the layer was left behind")
        )
    elif progress.out_of_time:
        progress.gap(
            Missing(Reason.TIMED_OUT, progress.at, f"{limit_s:.1f} s were used up here; the rest was not read")
        )
    finished = not (stuck or progress.out_of_time)
    layer = Layer(name, time.monotonic() - started_s, progress.rows, finished)
    return (partial if stuck else results[0]), layer, progress.gaps()
