"""The live Host: the guard's doors to this machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from osremed.core.clock import SystemClock
from osremed.core.reading import Reading
from osremed.fastoom import collect, kill
from osremed.fastoom.model import Candidate, Scan, Scope, Signals, Spared, Thresholds


class LiveHost(SystemClock):
    """Reads through `source` and acts on real processes."""

    def __init__(self, source: collect.Source) -> None:
        self.source = source

    def signals(self, scope: Scope) -> Reading[Signals]:
        return collect.signals(scope, self.source)

    def members(self, scope: Scope) -> Reading[frozenset[int]]:
        return collect.members(scope, self.source)

    def own_chain(self) -> frozenset[int]:
        return collect.own_chain(os.getpid(), self.source)

    def scan(self, pids: Collection[int], floor_bytes: int) -> Scan:
        return collect.scan(pids, floor_bytes, self.source)

    def aim(self, victims: Sequence[Candidate], members: Collection[int]) -> tuple[list[kill.Shot], list[Spared]]:
        return kill.aim(victims, members, self.source.proc)

    def fire(self, shots: list[kill.Shot], thresholds: Thresholds, *, urgent: bool) -> kill.Flight:
        return kill.fire(shots, thresholds, now_ns=self.monotonic_ns(), urgent=urgent)

    def follow(self, flight: kill.Flight, *, urgent: bool) -> bool:
        return kill.follow(flight, now_ns=self.monotonic_ns(), urgent=urgent)

    def close(self, shots: Sequence[kill.Shot]) -> None:
        kill.close(shots)
