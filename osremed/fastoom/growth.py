"""Who grows: how much programs hold together over the last half minute, and what each held at a few moments of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from osremed.core.record import record
from osremed.fastoom.model import Process

_WINDOW_NS, _EVERY_NS = 30_000_000_000, 500_000_000
_STEP_RATIO, _LOOK_NS = 0.01, 5_000_000_000  #: a change, in shares of the limit, worth another look at everybody


@record
class _Heaps:
    """`of` is None when not everybody could be looked at: who could not would seem to be new."""

    at_ns: int
    held_bytes: int
    of: Mapping[tuple[int, int], int] | None


class Growth:
    """`held` is anonymous memory and swap in use of the whole host. A look at everybody is due when it moved by a
    hundredth of the limit, so a host that stands still is looked at once, and at most every five seconds."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self._samples: list[tuple[int, int]] = []
        self._heaps: list[_Heaps] = []

    def note(self, now_ns: int, held_bytes: int) -> int:
        """Takes it down; how far it is above its least within the window."""
        self.held_bytes = held_bytes
        if not self._samples or now_ns - self._samples[-1][0] >= _EVERY_NS:
            self._samples = [one for one in self._samples if now_ns - one[0] <= _WINDOW_NS]
            self._samples.append((now_ns, held_bytes))
        return max(0, held_bytes - min(held for _, held in self._samples))

    def due(self, now_ns: int, limit_bytes: int) -> bool:
        """Whether who holds what should be looked at."""
        if not self._heaps:
            return True
        last = self._heaps[-1]
        moved = abs(self.held_bytes - last.held_bytes) >= _STEP_RATIO * limit_bytes
        return moved and now_ns - last.at_ns >= _LOOK_NS

    def crept_bytes(self, now_ns: int) -> int:
        """How far it is above its least at any look that still counts: growth that may have taken hours."""
        return max(
            0, self.held_bytes - min((one.held_bytes for one in self._relevant(now_ns)), default=self.held_bytes)
        )

    def keep(self, now_ns: int, processes: Iterable[Process] | None) -> None:
        """What was seen of everybody; None when that was not everybody."""
        heaps = None if processes is None else {one.identity: one.heap_bytes for one in processes}
        self._heaps = [*self._relevant(now_ns), _Heaps(now_ns, self.held_bytes, heaps)]

    def before(self, now_ns: int) -> Mapping[tuple[int, int], int] | None:
        """What each held at the look at which all together held least; None when nobody looked yet."""
        found = [one for one in self._relevant(now_ns) if one.of is not None]
        return min(found, key=lambda one: one.held_bytes).of if found else None

    def _relevant(self, now_ns: int) -> list[_Heaps]:
        """The looks of the window and the one before: little moved between that and the next."""
        recent = sum(now_ns - one.at_ns <= _WINDOW_NS for one in self._heaps)
        return self._heaps[-recent - 1 :]
