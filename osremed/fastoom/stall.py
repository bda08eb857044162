"""How much of the last moment was lost waiting for memory: readings of growing counters -> Stall."""

from __future__ import annotations

from dataclasses import replace

from osremed.core.reading import Missing, Reading
from osremed.core.record import record
from osremed.fastoom.model import NOT_ASKED, Stall
from osremed.sensors.procfs import PAGE_BYTES

_EVERY_NS, _STIRRED_EVERY_NS, _STIR_RATIO = 200_000_000, 100_000_000, 0.05
_SHORTEST_NS, _LONGEST_NS = 400_000_000, 3_000_000_000
_LASTING_NS, _KEPT_NS = 10_000_000_000, 15_000_000_000


@record
class Sample:
    """Counters at one time. `full_us` is None when the kernel has no PSI; a group tells neither scans nor steals."""

    at_ns: int
    full_us: int | None
    refaulted_pages: int
    scanned_pages: int = 0
    reclaimed_pages: int = 0


class Window:
    """The last samples of one scope, and what they mean."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._failure: Missing | None = None
        self._stirs = False

    def due(self, now_ns: int) -> bool:
        """Whether a new sample is worth its reads: five a second are, and ten while tasks wait."""
        every_ns = _STIRRED_EVERY_NS if self._stirs else _EVERY_NS
        return not self._samples or now_ns - self._samples[-1].at_ns >= every_ns

    def add(self, sample: Reading[Sample]) -> None:
        if isinstance(sample, Missing):
            self._failure = sample
            self._samples.clear()
            return
        self._failure = None
        latest = sample.value
        if self._samples:
            self._stirs = (_full_ratio(self._samples[-1], latest) or 0.0) >= _STIR_RATIO
        while self._samples and latest.at_ns - self._samples[0].at_ns > _KEPT_NS:
            del self._samples[0]
        self._samples.append(latest)

    def stall(self, file_lru_bytes: int) -> Stall | Missing:
        """Over the latest half second or more; Missing until there was one, and while the counters cannot be read."""
        if self._failure is not None:
            return self._failure
        latest = self._samples[-1] if self._samples else None
        for earlier in reversed(self._samples[:-1]):
            assert latest is not None
            if _SHORTEST_NS <= latest.at_ns - earlier.at_ns <= _LONGEST_NS:
                return replace(between(earlier, latest, file_lru_bytes), lasting_ratio=self._lasting_ratio(latest))
        return NOT_ASKED

    def _lasting_ratio(self, latest: Sample) -> float | None:
        old = [one for one in self._samples if latest.at_ns - one.at_ns >= _LASTING_NS]
        return _full_ratio(old[-1], latest) if old else None


def _full_ratio(earlier: Sample, later: Sample) -> float | None:
    if earlier.full_us is None or later.full_us is None or later.at_ns <= earlier.at_ns:
        return None
    return min(1.0, max(0, later.full_us - earlier.full_us) * 1e3 / (later.at_ns - earlier.at_ns))


def between(earlier: Sample, later: Sample, file_lru_bytes: int) -> Stall:
    """Counters that ran backwards count as no growth."""
    seconds = (later.at_ns - earlier.at_ns) / 1e9
    full = _full_ratio(earlier, later)
    rates = [
        max(0, after - before) * PAGE_BYTES / seconds
        for before, after in (
            (earlier.refaulted_pages, later.refaulted_pages),
            (earlier.scanned_pages, later.scanned_pages),
            (earlier.reclaimed_pages, later.reclaimed_pages),
        )
    ]
    return Stall(full, rates[0], file_lru_bytes, rates[1], rates[2])
