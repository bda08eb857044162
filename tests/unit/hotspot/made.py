"""Profiles, records and segments made by hand."""

from __future__ import annotations

import random
import struct
from typing import Any

from osremed.hotspot import records
from osremed.hotspot.book import Book
from osremed.hotspot.model import Frame, Mode, Profile, Sample
from osremed.hotspot.segment import Segment

START_NS = 1_790_000_000_000_000_000
HZ = 99
RUN = 5
COUNTS = ((records.WAITS, "blocked"), (records.CALLS, "calls"))
APP: dict[str, Any] = {"pid": 7, "start_ticks": 100, "name": "app", "container": "abc", "inside": 7, "maps": []}


def frame(name: str, kind: str = "python", file: str = "app.py", line: int = 0) -> Frame:
    return Frame(kind, name, file, line)


def sample(at_s: float, *stack: Frame, state: str = "cpu", weight_ns: int = 10_101_010, **other: Any) -> Sample:
    facts: dict[str, Any] = {"pid": 7, "tid": 7, "process": "app", "thread": "app", "container": "", "syscall": "",
                             "argument": 0, **other}  # fmt: skip
    return Sample(at_ns=START_NS + round(at_s * 1e9), state=state, weight_ns=weight_ns, stack=stack, **facts)


def profile(*samples: Sample, length_s: float = 10.0, **other: Any) -> Profile:
    facts: dict[str, Any] = {"host": "h1", "mode": Mode("cpu-clock", HZ, 2), **other}
    return Profile(start_ns=START_NS, end_ns=START_NS + round(length_s * 1e9), samples=samples, **facts)


def service(seed: int, seconds: int, injected: float = 0.0, functions: int = 229, a_second: int = 50) -> Profile:
    """A service whose mix of 229 functions drifts slowly, as real ones do: a request of one kind is many samples. The
    share `injected` is added to one function."""
    chance = random.Random(seed)
    weights = [1 / (rank + 3) for rank in range(functions)]
    names = [frame(f"f{number}") for number in range(functions)]
    top, taken = frame("main"), []
    stacks = {name: (top, name) for name in names}
    for second in range(seconds):
        noisy = [weight * chance.uniform(0.8, 1.2) for weight in weights]
        for at, leaf in enumerate(chance.choices(names, noisy, k=a_second)):
            chosen = names[40] if chance.random() < injected else leaf
            taken.append(sample(second + at / a_second, *stacks[chosen]))
    return profile(*taken, length_s=seconds)


def raw(at_ns: int = 5_000_000_000, kind: int = records.CPU_SAMPLE, **other: Any) -> records.Raw:
    facts: dict[str, Any] = {"since_ns": 0, "start_ns": 1_000_000_000, "argument": 0, "tgid": 7,
                             "tid": 8, "syscall": -1, "flags": 0, "comm": "app", "kernel": (), "user": (),
                             "python": (), "path": "", **other}  # fmt: skip
    return records.Raw(at_ns=at_ns, kind=kind, **facts)


def segment(*raws: records.Raw, start_s: float = 0.0, length_s: float = 10.0, **tables: Any) -> Segment:
    """Monotonic 0 is START_NS. `blocked` and `calls` are rows of counts."""
    stream = records.join(
        [
            *(part for each in raws for part in records.build(each)),
            *(counts(which, tables.pop(name, [])) for which, name in COUNTS),
        ]
    )
    facts: dict[str, Any] = {
        "host": "h1", "boot_id": "b", "mono_to_wall_ns": START_NS, "clock": "cpu-clock", "hz": HZ, "cpus": 2, "lost": 0,
        "run": RUN, "books": [], "windows_s": 0.2, "seconds": [], "gaps": [], **tables,
    }  # fmt: skip
    start_ns = START_NS + round(start_s * 1e9)
    return Segment(start_ns, start_ns + round(length_s * 1e9), facts, stream)


def counts(which: int, rows: list[dict[str, Any]]) -> bytes:
    """As the recorder keeps what a map held; of system calls for two CPUs."""
    keys = b"".join(struct.pack("<Ii", row["pid"], row["syscall"]) for row in rows)
    if which == records.WAITS:
        values = [
            struct.pack(
                "<3Q20I16s", row["count"], row["total_ns"], row["longest_ns"], *row["buckets"], row["name"].encode()
            )
            for row in rows
        ]
        return records.counts(which, keys, b"".join(values), 120)
    halves = [
        struct.pack("<2Q16s2Q16s", row["count"], row["bytes"] - 1, b"", 0, 1, row["name"].encode()) for row in rows
    ]
    return records.counts(which, keys, b"".join(halves), 64)


def text(number: int, name: str, file: str, *, version: int = 0x030B, first_line: int = 1, table: bytes = b"") -> bytes:
    """The record of a name, as the sampler sends it."""
    parts = name.encode("latin-1"), file.encode("latin-1"), table
    head = records.TEXT_HEAD.pack(records.TEXT, version, 1, 1, number, first_line, *map(len, parts))
    return head + b"".join(parts)


def book(*rows: dict[str, Any], texts: bytes = b"") -> Book:
    """Without rows, the process 7 is named app."""
    return Book(rows or (APP,), dict(records.texts_of(texts)), "")
