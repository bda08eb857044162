"""Makers of the guard's words, and a scripted Host."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from osremed.core.clock import FakeClock
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.fastoom import kill
from osremed.fastoom.model import Candidate, Process, Scan, Scope, Signals, Spared, Thresholds
from osremed.fastoom.policy import Policy, parse_policy

MIB = 1 << 20


def process(pid: int, heap_mib: float = 10, *, name: str = "", argv: Any = (), adj: int = 0, **more: Any) -> Process:
    reading = argv if isinstance(argv, Missing) else Value(tuple(argv))
    start = more.pop("start", pid * 10)
    return Process(pid, start, name or f"p{pid}", reading, adj, round(heap_mib * MIB), **more)


def policy(**parts: Any) -> Policy:
    document = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", **parts}
    return parse_policy(json.dumps(document).encode(), "policy.json")


def signals(available: float, *, limit: int = 1000 * MIB, **more: Any) -> Signals:
    """`available` as a share of the limit."""
    return Signals(limit, round(limit * available), **more)


class ScriptedHost(FakeClock):
    """A world in which killing works: memory returns as soon as `die` is called for a victim."""

    def __init__(self, *processes: Process, limit: int = 1000 * MIB) -> None:
        super().__init__()
        self.processes = {one.pid: one for one in processes}
        self.limit = limit
        self.available: Reading[int] = Value(0)
        self.outside: set[int] = set()
        self.chain = frozenset({1, 2})
        self.swap = (0, 0)
        self.sent: list[tuple[int, str]] = []
        self.scans: list[int] = []
        self.immortal: set[int] = set()
        self.replaced: set[int] = set()
        self.unsignalable: set[int] = set()
        self.closed = 0
        self.groups: dict[str, tuple[int, ...]] = {}
        self.ended: list[str] = []
        self.settled: list[Scope] = []
        self.more: dict[str, Any] = {}  #: further signals
        self.before: dict[tuple[int, int], int] | None = None
        self.before_aim = lambda: None

    def signals(self, scope: Scope) -> Reading[Signals]:
        if isinstance(self.available, Missing):
            return self.available
        return Value(Signals(self.limit, self.available.value, *self.swap, **self.more))

    def settle(self, scope: Scope) -> None:
        self.settled.append(scope)

    def members(self, scope: Scope) -> Reading[frozenset[int]]:
        return Value(frozenset(self.processes) - self.outside)

    def own_chain(self) -> frozenset[int]:
        return self.chain

    def scan(self, pids: Collection[int], floor_bytes: int, *, warm: bool = False) -> Scan:
        self.scans.append(floor_bytes)
        large = tuple(one for one in self.processes.values() if one.heap_bytes >= floor_bytes)
        return Scan(large, sum(one.heap_bytes for one in self.processes.values() if one not in large))

    def heaps_before(self) -> dict[tuple[int, int], int] | None:
        return self.before

    def unexplained_bytes(self, processes: Collection[Process], anon_bytes: int) -> int:
        return 0

    def look(self, pid: int) -> Reading[Process]:
        found = self.processes.get(pid)
        return Value(found) if found else Missing(Reason.GONE, f"/proc/{pid}")

    def group_of(self, process: Process, *, whole_group: bool) -> Reading[tuple[str, tuple[int, ...]]]:
        for path, pids in self.groups.items():
            if process.pid in pids:
                return Value((path, pids))
        return Missing(Reason.NO_DATA, "no group")

    def group_members(self, path: str) -> Reading[tuple[int, ...]]:
        return Value(tuple(pid for pid in self.groups[path] if pid in self.processes))

    def end_group(self, path: str) -> Missing | None:
        self.ended.append(path)
        return None

    def aim(self, victims: Sequence[Candidate], members: Collection[int]) -> tuple[list[kill.Shot], list[Spared]]:
        self.before_aim()
        lost = [one for one in victims if one.process.pid in self.replaced or one.process.pid not in members]
        return [kill.Shot(one, -1) for one in victims if one not in lost], [kill.spare(one, "gone") for one in lost]

    def fire(self, shots: list[kill.Shot], thresholds: Thresholds, *, urgent: bool) -> kill.Flight:
        flight = kill.Flight(shots, self.monotonic_ns(), thresholds.deadline_s)
        for shot in shots:
            if shot.candidate.process.pid in self.unsignalable:
                shot.refusal = "cannot be signalled"
            else:
                self.sent.append((shot.candidate.process.pid, "KILL" if urgent or not thresholds.grace_s else "TERM"))
        return flight

    def follow(self, flight: kill.Flight, *, urgent: bool) -> bool:
        for shot in flight.waiting:
            shot.gone = shot.candidate.process.pid not in self.processes
        return not flight.waiting or self.monotonic_ns() >= flight.deadline_ns

    def close(self, shots: Sequence[kill.Shot]) -> None:
        self.closed += len(shots)

    # --- what the test does to this world ---

    def set_available(self, share: float) -> None:
        self.available = Value(round(self.limit * share))

    def vanish(self) -> None:
        self.available = Missing(Reason.GONE, "/app")

    def die(self, *pids: int) -> None:
        for pid in pids:
            if pid not in self.immortal:
                freed = self.processes.pop(pid).heap_bytes
                self.available = Value(self.available.value + freed)


@pytest.fixture
def world():
    return ScriptedHost
