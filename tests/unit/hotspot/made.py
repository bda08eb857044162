"""Profiles, records and segments made by hand."""

from __future__ import annotations

import random
from typing import Any

from osremed.hotspot import records
from osremed.hotspot.model import Frame, Mode, Profile, Sample
from osremed.hotspot.segment import Segment

START_NS = 1_790_000_000_000_000_000
HZ = 99


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
    """Monotonic 0 is START_NS; the process 7 is named app."""
    facts: dict[str, Any] = {
        "host": "h1", "boot_id": "b", "mono_to_wall_ns": START_NS, "clock": "cpu-clock", "hz": HZ, "cpus": 2, "lost": 0,
        "processes": [{"pid": 7, "start_ticks": 100, "name": "app", "container": "abc", "inside": 7, "maps": []}],
        "codes": [], "blocked": [], "calls": [], "windows_s": 0.2, "seconds": [], "gaps": [], **tables,
    }  # fmt: skip
    start_ns = START_NS + round(start_s * 1e9)
    stream = records.join([part for each in raws for part in records.build(each)])
    return Segment(start_ns, start_ns + round(length_s * 1e9), facts, stream)
