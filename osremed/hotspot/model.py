"""The words of a profile: a window of time on one host, with samples, exact totals beside them, and its gaps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from osremed.core.reading import Missing, Reading, Reason, Value, reading_as_json
from osremed.core.record import field, record

ON_CPU = "cpu"
OFF_CPU = "off"
STATES = (ON_CPU, OFF_CPU)
CALLS, WAITS, SWITCHES, TIME = "calls", "waits", "switches", "time"  #: what may be unrecorded
NOT_RECORDED = Missing(Reason.NO_DATA, "profile", "not recorded")


class Frame(NamedTuple):
    """One level of a stack. `kind`: python, java, node, native, kernel or note (said by us, not by the program);
    `file` is the source file or the mapped object; `line` 0 is unknown."""

    kind: str
    name: str
    file: str = ""
    line: int = 0


#: a futex inside of CPython's own state is its interpreter lock
INTERPRETER_LOCK = Frame("note", "waits for the interpreter lock")


class Sample(NamedTuple):
    """One look at one thread. `at_ns` is wall time, 0 in imports that have none; `weight_ns` is the CPU time it stands
    for (on CPU) or the time away (off CPU); `stack` has the root first; `argument` is the first argument of the system
    call: a descriptor or the address of a futex; `wait_ns` is how long this one wait was, 0 on the CPU;
    `merged` is above 1 where an import has several samples in one."""

    at_ns: int
    state: str
    weight_ns: int
    pid: int
    tid: int
    process: str
    thread: str
    container: str
    syscall: str
    argument: int
    stack: tuple[Frame, ...]
    wait_ns: int = 0
    merged: int = 1


@record
class Mode:
    """What makes two profiles comparable: the clock that took the samples, its rate (0: unknown), and the CPUs."""

    clock: str
    hz: int
    cpus: int


@record
class Blocked:
    """Exact: how long threads of a process were off the CPU in one system call in the window. `buckets[n]` counts waits
    of 2^n microseconds and more, up to the next power."""

    pid: int
    process: str
    syscall: str
    count: int
    total_s: float
    longest_s: float
    buckets: tuple[int, ...]


@record
class CallRate:
    """Estimated from short windows: calls a second of a system call by a process; `windows_s`: how long was looked.
    `mean_bytes` is what a read or write asked for, 0 for other calls."""

    pid: int
    process: str
    syscall: str
    per_s: float
    mean_bytes: float
    windows_s: float


@record
class OpenRate:
    """Estimated from short windows: how often a process opens a path."""

    pid: int
    process: str
    path: str
    per_s: float
    windows_s: float


@record
class Second:
    """Host counters over one second: stalls in seconds a second (PSI `some`), run-queue delay summed over CPUs, direct
    reclaim stalls and major faults by count, and seconds for which control groups were throttled (in `throttled` by
    path, the worst of them)."""

    at_ns: int
    run_delay_s: Reading[float]
    cpu_stall_s: Reading[float]
    io_stall_s: Reading[float]
    memory_stall_s: Reading[float]
    reclaim_stalls: Reading[int]
    major_faults: Reading[int]
    throttled_s: Reading[float]
    throttled: Mapping[str, float] = field(default_factory=dict)


@record
class Cost:
    """What the sensor itself used: seconds of BPF run time and of its own CPU time, over `wall_s`."""

    wall_s: float
    bpf_s: float
    own_s: float

    @property
    def cores(self) -> float:
        return (self.bpf_s + self.own_s) / self.wall_s if self.wall_s else 0.0


@record
class Profile:
    """`lost` counts records that did not fit the kernel's ring; `gaps` says what is not here and why; `unrecorded` what
    was not on for the whole window: call windows, stacks of waits, context switches; or a tenth of its time is missing.
    What a rule does not find there is not absent."""

    host: str
    start_ns: int
    end_ns: int
    mode: Mode
    samples: tuple[Sample, ...]
    blocked: tuple[Blocked, ...] = ()
    call_rates: tuple[CallRate, ...] = ()
    open_rates: tuple[OpenRate, ...] = ()
    seconds: tuple[Second, ...] = ()
    lost: int = 0
    cost: Reading[Cost] = NOT_RECORDED
    gaps: tuple[str, ...] = ()
    unrecorded: frozenset[str] = frozenset()

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def with_gaps(self, gaps: Iterable[str]) -> Profile:
        return dataclasses.replace(self, gaps=(*self.gaps, *dict.fromkeys(gaps)))

    def only(self, keep: Callable[[Sample], bool], keep_row: Callable[[Any], bool]) -> Profile:
        """The samples and rows (blocked, call and open rates) that are wanted."""
        return dataclasses.replace(
            self,
            samples=tuple(filter(keep, self.samples)),
            blocked=tuple(filter(keep_row, self.blocked)),
            call_rates=tuple(filter(keep_row, self.call_rates)),
            open_rates=tuple(filter(keep_row, self.open_rates)),
        )


def of_state(profile: Profile, state: str) -> tuple[Sample, ...]:
    """The samples on or off the CPU; `both` gives all."""
    return tuple(each for each in profile.samples if state in ("both", each.state))


def frame_text(frame: Frame) -> str:
    """`name (file:line)` for people."""
    if frame.kind == "native":
        return frame.name if not frame.file or "+0x" in frame.name else f"{frame.name} [{_base(frame.file)}]"
    if frame.kind in ("kernel", "note"):
        return frame.name
    where = f"{_base(frame.file)}:{frame.line}" if frame.line else _base(frame.file)
    return f"{frame.name} ({where})" if where else frame.name


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def kernel_thread(sample: Sample) -> bool:
    """A thread of the kernel: its stack has kernel frames alone and it makes no system calls."""
    return not sample.syscall and bool(sample.stack) and sample.stack[0].kind == "kernel"


def call_text(sample: Sample) -> str:
    """Who it was: `name[pid]`."""
    return f"{sample.process or '?'}[{sample.pid}]"


def weight_s(samples: tuple[Sample, ...]) -> float:
    return sum(each.weight_ns for each in samples) / 1e9


def document_of(row: Any) -> dict[str, Any]:
    """The JSON object of one flat record of this module; a Missing is an object with the key `missing`."""
    names = row.__dataclass_fields__
    return {name: _plain(getattr(row, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, (Missing, Value)):
        return reading_as_json(value)
    return list(value) if isinstance(value, tuple) else value
