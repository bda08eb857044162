"""The words of a heap report and its JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Union

from osremed.core.reading import Missing, Reading, reading_as_json
from osremed.core.record import record


@record
class TypeRow:
    """Objects of one type, class or size; `bytes` with what an object owns alone (tables, text), `large_bytes` those of
    objects so large that each was measured by itself."""

    name: str
    count: int
    bytes: int
    large_bytes: int

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "count": self.count, "bytes": self.bytes, "large_bytes": self.large_bytes}


@record
class HolderRow:
    """A container and what hangs on it. `path` reaches it from a module; `` when nothing named does. `address` tells
    nameless ones apart."""

    path: str
    kind: str
    items: int
    bytes: int
    element: str
    address: int

    def as_json(self) -> dict[str, Any]:
        found = {"path": self.path, "kind": self.kind, "items": self.items, "bytes": self.bytes}
        return {**found, "element": self.element}


@record
class ArenaRow:
    """One heap of glibc's malloc: `bytes` = in use + free + top. What is in its tcache and fast bins was freed
    and waits for the next malloc; it is among what is in use."""

    name: str
    bytes: int
    chunks: int
    in_use_bytes: int
    free_bytes: int
    top_bytes: int
    tcache_bytes: Reading[int]
    fast_bytes: Reading[int]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "bytes": self.bytes,
            "chunks": self.chunks,
            "in_use_bytes": self.in_use_bytes,
            "free_bytes": self.free_bytes,
            "top_bytes": self.top_bytes,
            "tcache_bytes": reading_as_json(self.tcache_bytes),
            "fast_bytes": reading_as_json(self.fast_bytes),
        }


@record
class Pause:
    """How long the target stood still for this report: said before, and measured by the target's own counters."""

    estimate_s: float
    measured_s: Reading[float]

    def as_json(self) -> dict[str, Any]:
        return {"estimate_s": self.estimate_s, "measured_s": reading_as_json(self.measured_s)}


@record
class RootPath:
    """Where `samples` of the recorded objects hang. `held_in`: a static field, or the root as the JVM calls it;
    `container`: the type of what that holds, `detail` what the JVM says of it (`Size: 7`); `object`: the type of the
    sampled ones; `path`: from `held_in` down; `stack`: where one was made, innermost first."""

    held_in: str
    container: str
    detail: str
    object: str
    path: str
    samples: int
    stack: tuple[str, ...]


@record
class Recording:
    """Objects made in `seconds` and kept: a sample, by where they hang, the most first."""

    seconds: float
    samples: int
    paths: tuple[RootPath, ...]
    pause: Pause

    def as_json(self) -> dict[str, Any]:
        paths = [{**asdict(path), "stack": list(path.stack)} for path in self.paths]
        return {"seconds": self.seconds, "samples": self.samples, "paths": paths, "pause": self.pause.as_json()}


@record
class Snapshot:
    """One look. `resident_bytes` is the heap in memory, `attributed_bytes` what the types below add up to, `coverage`
    the share (0..1) of the heap that was read: below 1, counts and bytes are an even sample scaled up. `torn_reads` met
    memory that went away. `pause` is None for methods that stop nothing."""

    runtime: str
    method: str
    monotonic_s: float
    resident_bytes: int
    attributed_bytes: int
    coverage: float
    types: tuple[TypeRow, ...]
    holders: tuple[HolderRow, ...]
    arenas: tuple[ArenaRow, ...]
    pause: Pause | None
    torn_reads: int
    gaps: tuple[Missing, ...]


@record
class TypeGrowth:
    name: str
    count_per_s: float
    bytes_per_s: float


@record
class HolderGrowth:
    path: str
    kind: str
    element: str
    items: int
    items_per_s: float
    bytes_per_s: float


@record
class Growth:
    """Between two snapshots `window_s` apart; the fastest first. Rows that shrink or stay are left out."""

    window_s: float
    bytes_per_s: float
    types: tuple[TypeGrowth, ...]
    holders: tuple[HolderGrowth, ...]


@record
class HeapReport:
    """`sentence` says who grows, by how much, held where; or what holds most. `recording`: of a Java program that was
    looked at twice, with consent."""

    pid: int
    start_time_ticks: int
    name: str
    sentence: str
    snapshot: Snapshot
    growth: Growth | None
    duration_s: float
    cpu_s: float
    recording: Reading[Recording] | None = None

    def as_json(self) -> dict[str, Any]:
        seen = self.snapshot
        return {
            "pid": self.pid,
            "start_time_ticks": self.start_time_ticks,
            "name": self.name,
            "sentence": self.sentence,
            "runtime": seen.runtime,
            "method": seen.method,
            "resident_bytes": seen.resident_bytes,
            "attributed_bytes": seen.attributed_bytes,
            "coverage": round(seen.coverage, 4),
            "types": [row.as_json() for row in seen.types],
            "holders": [row.as_json() for row in seen.holders],
            "arenas": [row.as_json() for row in seen.arenas],
            "recording": None if self.recording is None else _recording_as_json(self.recording),
            "growth": None if self.growth is None else growth_as_json(self.growth),
            "pause": None if seen.pause is None else seen.pause.as_json(),
            "torn_reads": seen.torn_reads,
            "gaps": [gap.as_json() for gap in seen.gaps],
            "duration_s": round(self.duration_s, 3),
            "cpu_s": round(self.cpu_s, 3),
        }


@record
class NoHeap:
    """A process whose heap could not be read, and why."""

    pid: int
    name: str
    missing: Missing

    def as_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "name": self.name, **self.missing.as_json()}


def _recording_as_json(recording: Reading[Recording]) -> dict[str, Any]:
    return recording.as_json() if isinstance(recording, Missing) else recording.value.as_json()


Heap = Union[HeapReport, NoHeap]


def growth_as_json(growth: Growth) -> dict[str, Any]:
    types = [
        {"name": row.name, "count_per_s": round(row.count_per_s, 3), "bytes_per_s": round(row.bytes_per_s)}
        for row in growth.types
    ]
    holders = [
        {
            "path": row.path,
            "kind": row.kind,
            "element": row.element,
            "items": row.items,
            "items_per_s": round(row.items_per_s, 3),
            "bytes_per_s": round(row.bytes_per_s),
        }
        for row in growth.holders
    ]
    window_s, bytes_per_s = round(growth.window_s, 3), round(growth.bytes_per_s)
    return {"window_s": window_s, "bytes_per_s": bytes_per_s, "types": types, "holders": holders}
