"""The live Host: the guard's doors to this machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from osremed.core.clock import SystemClock
from osremed.core.reading import Missing, Reading, Value
from osremed.fastoom import collect, kill
from osremed.fastoom.model import Candidate, Process, Scan, Scope, Signals, Spared, Thresholds
from osremed.fastoom.plan import FLOOR_BYTES
from osremed.sensors import cgroup, groups


class LiveHost(SystemClock):
    """Reads through `source` and acts on real processes."""

    def __init__(self, source: collect.Source) -> None:
        self.source = source
        self.roster = collect.Roster()

    def signals(self, scope: Scope) -> Reading[Signals]:
        return collect.signals(scope, self.source, self.monotonic_ns())

    def settle(self, scope: Scope) -> None:
        """Forgets the stalls seen so far: what came before an intervention says nothing of what comes after."""
        self.source.windows.pop(scope.cgroup, None)

    def members(self, scope: Scope) -> Reading[frozenset[int]]:
        return collect.members(scope, self.source)

    def group_of(self, process: Process, *, whole_group: bool) -> Reading[tuple[str, tuple[int, ...]]]:
        """(path, processes) of the control group that ends with the process; NO_DATA when it ends alone."""
        hierarchy = self.source.hierarchy
        if isinstance(hierarchy, Missing):
            return hierarchy
        path = collect.cgroup_of(process.pid, self.source)
        if isinstance(path, Missing):
            return path
        unit = groups.on_behalf_of(hierarchy.value, path.value)
        if isinstance(unit, Missing):
            if not whole_group or path.value == "/":
                return unit
            unit = Value(cgroup.group(hierarchy.value, path.value))
        pids = cgroup.pids(unit.value)
        return pids if isinstance(pids, Missing) else Value((unit.value.path, pids.value))

    def group_members(self, path: str) -> Reading[tuple[int, ...]]:
        hierarchy = self.source.hierarchy
        return hierarchy if isinstance(hierarchy, Missing) else cgroup.pids(cgroup.group(hierarchy.value, path))

    def end_group(self, path: str) -> Missing | None:
        """Ends what forked meanwhile as well, where the kernel can."""
        assert isinstance(self.source.hierarchy, Value)
        return groups.kill(cgroup.group(self.source.hierarchy.value, path))

    def own_chain(self) -> frozenset[int]:
        return collect.own_chain(os.getpid(), self.source)

    def scan(self, pids: Collection[int], floor_bytes: int, *, warm: bool = False) -> Scan:
        return collect.scan(pids, floor_bytes, self.source, self.roster if warm else None)

    def warm_up(self, pids: Collection[int], anon_bytes: int) -> Scan:
        """Looks at everybody, so that a decision soon after can do with few reads."""
        seen = collect.scan(pids, FLOOR_BYTES, self.source)
        self.roster.keep(pids, seen.processes, anon_bytes)
        return seen

    def note_growth(self, pids: Collection[int], anon_bytes: int) -> None:
        """`warm_up`, so that a decision soon after can tell who grew, too."""
        seen = self.warm_up(pids, anon_bytes)
        self.source.growth.keep(self.monotonic_ns(), None if seen.missing else seen.processes)

    def heaps_before(self) -> Mapping[tuple[int, int], int] | None:
        return self.source.growth.before(self.monotonic_ns())

    def unexplained_bytes(self, processes: Collection[Process], anon_bytes: int) -> int:
        return self.roster.unexplained_bytes(processes, anon_bytes)

    def look(self, pid: int) -> Reading[Process]:
        return collect.details(pid, self.source)

    def aim(self, victims: Sequence[Candidate], members: Collection[int]) -> tuple[list[kill.Shot], list[Spared]]:
        return kill.aim(victims, members, self.source.proc)

    def fire(self, shots: list[kill.Shot], thresholds: Thresholds, *, urgent: bool) -> kill.Flight:
        return kill.fire(shots, thresholds, now_ns=self.monotonic_ns(), urgent=urgent)

    def follow(self, flight: kill.Flight, *, urgent: bool) -> bool:
        return kill.follow(flight, now_ns=self.monotonic_ns(), urgent=urgent)

    def close(self, shots: Sequence[kill.Shot]) -> None:
        kill.close(shots)
