"""A policy on a recorded series: the guard's own steps in a world that remembers who it ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from osremed.core.clock import FakeClock
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.fastoom import guard, kill, levels
from osremed.fastoom.growth import Growth
from osremed.fastoom.model import Candidate, Intervention, Process, Scan, Scope, Signals, Spared, Thresholds
from osremed.fastoom.policy import Policy
from osremed.fastoom.series import Look, scope_of


@record
class Decision:
    """What the guard would have done `at_s` into the series."""

    at_s: float
    intervention: Intervention


@record
class LevelAt:
    """When a scope's level changed."""

    at_s: float
    change: levels.Change


class RecordedHost(FakeClock):
    """The series as a world. Whom the policy ended stays ended: their heap, as recorded at their end, is available in
    every later look, and their swap counts as memory."""

    def __init__(self) -> None:
        super().__init__()
        self.look_at = Look(0.0, {}, {}, ())
        self._ended: dict[tuple[int, int], int] = {}
        self._growth = Growth()

    def advance_to(self, look: Look) -> None:
        self.advance(max(0.0, look.at_s - self.look_at.at_s))
        self.look_at = look
        node = look.signals.get(Scope().label)
        if isinstance(node, Value):
            seen, now_ns = node.value, self.monotonic_ns()
            self._growth.note(now_ns, seen.anon_bytes + seen.swap_total_bytes - seen.swap_free_bytes)
            if self._growth.due(now_ns, seen.limit_bytes):
                self._growth.keep(now_ns, look.processes)

    def heaps_before(self) -> Mapping[tuple[int, int], int] | None:
        return self._growth.before(self.monotonic_ns())

    def signals(self, scope: Scope) -> Reading[Signals]:
        reading = self.look_at.signals.get(scope.label)
        if reading is None:
            return Missing(Reason.NO_DATA, scope.label, "not in the series")
        if isinstance(reading, Missing):
            return reading
        seen, members = reading.value, self._members(scope)
        back = sum(size for (pid, _), size in self._ended.items() if members is None or pid in members)
        available = min(seen.limit_bytes, seen.available_bytes + back)
        grown = None if seen.grown_bytes is None else max(0, seen.grown_bytes - back)
        crept = max(0, seen.crept_bytes - back)
        return Value(replace(seen, available_bytes=available, anon_bytes=0, grown_bytes=grown, crept_bytes=crept))

    def _members(self, scope: Scope) -> frozenset[int] | None:
        return self.look_at.members.get(scope.label) if scope.cgroup else None

    def settle(self, scope: Scope) -> None:
        """Stalls are as recorded."""

    def members(self, scope: Scope) -> Reading[frozenset[int]]:
        members = self._members(scope)
        alive = frozenset(one.pid for one in self._alive())
        return Value(alive if members is None else alive & members)

    def _alive(self) -> list[Process]:
        return [one for one in self.look_at.processes if one.identity not in self._ended]

    def own_chain(self) -> frozenset[int]:
        return frozenset()

    def scan(self, pids: Collection[int], floor_bytes: int, *, warm: bool = False) -> Scan:
        del warm
        here = [one for one in self._alive() if one.pid in pids]
        return Scan(tuple(one for one in here if one.heap_bytes >= floor_bytes))

    def unexplained_bytes(self, processes: Collection[Process], anon_bytes: int) -> int:
        return anon_bytes - sum(one.heap_bytes for one in processes)

    def look(self, pid: int) -> Reading[Process]:
        found = [one for one in self._alive() if one.pid == pid]
        return Value(found[0]) if found else Missing(Reason.GONE, f"process {pid}")

    def group_of(self, process: Process, *, whole_group: bool) -> Reading[tuple[str, tuple[int, ...]]]:
        path = process.cgroup
        if not whole_group or isinstance(path, Missing):
            return Missing(Reason.NO_DATA, f"process {process.pid}", "ends alone")
        return Value((path.value, tuple(one.pid for one in self._alive() if one.cgroup == path)))

    def group_members(self, path: str) -> Reading[tuple[int, ...]]:
        return Missing(Reason.NO_DATA, path, "a recording")

    def end_group(self, path: str) -> Missing | None:
        return Missing(Reason.NO_DATA, path, "a recording")

    def aim(self, victims: Sequence[Candidate], members: Collection[int]) -> tuple[list[kill.Shot], list[Spared]]:
        return [kill.Shot(one, -1) for one in victims if one.process.pid in members], []

    def fire(self, shots: list[kill.Shot], thresholds: Thresholds, *, urgent: bool) -> kill.Flight:
        del urgent
        for shot in shots:
            self._ended[shot.identity] = shot.candidate.process.heap_bytes
            shot.gone = True
        return kill.Flight(shots, self.monotonic_ns(), thresholds.deadline_s)

    def follow(self, flight: kill.Flight, *, urgent: bool) -> bool:
        del flight, urgent
        return True

    def close(self, shots: Sequence[kill.Shot]) -> None:
        del shots


def simulate(looks: Iterable[Look], policy: Policy) -> tuple[list[Decision], list[LevelAt]]:
    """Every decision the policy would have made, and every level. Victims die at once: a grace is not waited for, and
    what the others would have done with the freed memory is not known."""
    host, announcer = RecordedHost(), levels.Announcer()
    watches: dict[str, guard.Watch] = {}
    storm = guard.Storm()
    decisions: list[Decision] = []
    told: list[LevelAt] = []
    for look in looks:
        host.advance_to(look)
        for label in look.signals:
            if not _guards(policy, label):
                continue
            watch = watches.setdefault(label, guard.Watch(scope_of(label), storm))
            for _ in range(2):  # decide; then see it end
                done = guard.step(watch, list(watches.values()), policy, host)
                if done is not None:
                    decisions.append(Decision(look.at_s, done))
                change = announcer.note(watch, host.monotonic_ns())
                if change is not None:
                    told.append(LevelAt(look.at_s, change))
                if watch.flight is None:
                    break
    return decisions, told


def _guards(policy: Policy, label: str) -> bool:
    scope = scope_of(label)
    return any(policy.of(scope) is one for one in policy.guarded)
