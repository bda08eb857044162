"""The BPF side: programs on and off, maps read. Nothing here decides; the governor's level says what is on."""

from __future__ import annotations

import errno
import struct
import time
from array import array
from collections.abc import Sequence

from osremed.core.errors import Unavailable
from osremed.core.reading import Missing, Reading
from osremed.core.record import record
from osremed.hotspot import records
from osremed.hotspot.governor import Level
from osremed.hotspot.unwind import MOST_ROWS
from osremed.sensors.bpf import perf
from osremed.sensors.bpf.loader import Objects, load
from osremed.sensors.bpf.programs import Link, measuring
from osremed.sensors.bpf.ring import Batch

_ZERO = struct.pack("=I", 0)
_KNOBS = struct.Struct("=QIIQQ")
#: struct tally: lost, eligible, taken, run delay, worst delay, when, opens, whose, tokens, refilled, epoch, uncounted
#: waits and calls, unread opens
_TALLY = struct.Struct("=7Q2I5Q")
_MOST_PAIRS = 16384  #: of a process and a system call it waits in, a segment
_GATE_NS = 1_000_000
_RING_BYTES_A_CPU = 1 << 18
_WANTED_STACKS_PER_CPU_S = 50.0
SAMPLING, COUNTING = ("on_clock", "on_switch"), ("on_call",)  #: programs that are always on, and those of a window


@record
class Tally:
    """Sums over CPUs since the start; `worst_*` is the longest wait for a CPU in this epoch. `uncounted_*` found no
    place in the maps of exact counts, the paths of `unread_opens` were too many."""

    lost: int
    eligible: int
    taken: int
    run_delay_ns: int
    worst_delay_ns: int
    worst_tgid: int
    uncounted_waits: int = 0
    uncounted_calls: int = 0
    unread_opens: int = 0


class Sensor:
    """Loaded programs. Use it as a context; Unavailable when this kernel or user may not."""

    def __init__(self) -> None:
        cpus = perf.online_cpus()
        if isinstance(cpus, Missing):
            raise Unavailable(f"which CPUs there are is not known: {cpus}")
        self.cpus = cpus.value
        size = _RING_BYTES_A_CPU
        while size < min(len(self.cpus), 32) * _RING_BYTES_A_CPU:
            size *= 2
        entries = {"ring": size, "texts": size // 2, "rows": MOST_ROWS, "blocked": _MOST_PAIRS}
        loaded = load("hotspot", max_entries=entries)
        if isinstance(loaded, Missing):
            raise Unavailable(f"the profiler's BPF programs do not load: {loaded}", hint="osremed doctor")
        self._objects: Objects = loaded.value
        self._ring, self._texts = self._objects.ring("ring"), self._objects.ring("texts")
        self._links: dict[str, list[Link]] = {}
        self._hz = 0
        self._keep = 1.0
        self._eligible = self._stacks = self._epoch = self._book = 0
        self._offline_gaps: set[str] = set()

    def __enter__(self) -> Sensor:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._links):
            self._off(name)
        self._objects.close()

    def set_level(self, level: Level) -> None:
        """Switches to a level of the governor."""
        if level.hz != self._hz:
            self._sample_at(level.hz)
        if level.switches and "on_switch" not in self._links:
            self._on("on_new_task")
            self._welcome_tasks()
            self._on("on_switch")
        elif not level.switches:
            self._off("on_switch")
            self._off("on_new_task")
        self._stacks = int(level.stacks)
        self._set_knobs()

    def _sample_at(self, hz: int) -> None:
        self._off("on_clock")
        self._hz, links = hz, []
        self._offline_gaps.clear()
        for cpu in self.cpus:
            opened = perf.open_event(cpu, hz=hz)
            if isinstance(opened, Missing):
                self._offline_gaps.add(f"CPU {cpu} is not sampled: {opened}")
                continue
            # The link owns the descriptor from here: destroying it closes both.
            links.append(_linked(self._objects.program("on_clock").attach_perf_event(opened.value)))
        self._links["on_clock"] = links

    def follow_cpus(self) -> tuple[str, ...]:
        """Samples the CPUs that are online now: an event ends with its CPU and does not come back with it. A gap when
        they are others than before."""
        online = perf.online_cpus()
        if isinstance(online, Missing) or online.value == self.cpus:
            return ()
        others = sorted(set(online.value) ^ set(self.cpus))
        self.cpus = online.value
        self._sample_at(self._hz)
        return (f"CPUs came or went: {', '.join(map(str, others))} not sampled all the time",)

    def _on(self, name: str) -> None:
        self._links[name] = [_linked(self._objects.program(name).attach())]

    def _welcome_tasks(self) -> None:
        """Switches are followed of tasks that are known alone."""
        met = self._objects.program("on_each_task").read()
        if isinstance(met, Missing):
            raise Unavailable(f"tasks cannot be walked: {met}", hint="osremed doctor")

    def _off(self, name: str) -> None:
        for link in self._links.pop(name, []):
            link.detach()

    def gaps(self) -> tuple[str, ...]:
        return tuple(sorted(self._offline_gaps))

    def take_events(self) -> bytes:
        """Events and stacks since the last call."""
        return self._ring.take()

    def filling(self) -> bool:
        """Whether events should be taken before it is time to."""
        return self._ring.waiting_bytes() > _RING_BYTES_A_CPU // 2

    def take_texts(self) -> Batch:
        """Names, and programs that were met, since the last call."""
        return self._texts.drain()

    @property
    def ring_fds(self) -> tuple[int, int]:
        """Told to wake when a program was met for the first time or may have changed since, or when half full."""
        return self._objects.map("ring").fd, self._objects.map("texts").fd

    def look_at_calls(self, window_s: float) -> float:
        """Counts system calls for `window_s`; how long it really was. Costs some 100 ns a call of every task meanwhile,
        and 1 to 5 ms to open and close."""
        began = time.monotonic()
        self._on("on_call")
        time.sleep(window_s)
        self._off("on_call")
        return time.monotonic() - began

    def tally(self) -> Tally:
        raw = self._objects.map("tallies").lookup(_ZERO) or b""
        rows = [_TALLY.unpack_from(raw, at) for at in range(0, len(raw) - _TALLY.size + 1, _TALLY.size)]
        worst = max(rows, key=lambda row: row[4])
        lost, eligible, taken, delay = (sum(row[at] for row in rows) for at in range(4))
        unplaced = (sum(row[at] for row in rows) for at in range(11, 14))
        return Tally(lost, eligible, taken, delay, worst[4], worst[7], *unplaced)

    def begin_epoch(self, *, book: bool) -> None:
        """Stacks are sent again from here, the longest wait for a CPU and the paths of opened files are counted anew;
        with a new book each name is sent again too."""
        self._epoch += 1
        self._book += book
        self._set_knobs()

    def thin(self, tally: Tally, seconds: float) -> None:
        """Sets the part of eligible waits whose stack is taken, from how many there were: random, not first come."""
        rate = (tally.eligible - self._eligible) / max(seconds, 1e-3)
        self._eligible = tally.eligible
        wanted = _WANTED_STACKS_PER_CPU_S * len(self.cpus)
        self._keep = min(1.0, wanted / rate) if rate > 0 else 1.0
        self._set_knobs()

    def _set_knobs(self) -> None:
        keep = min(0xFFFFFFFF, round(self._keep * 0xFFFFFFFF))
        self._objects.map("knobs").update(_ZERO, _KNOBS.pack(_GATE_NS, keep, self._stacks, self._epoch, self._book))

    def take_counts(self) -> bytes:
        """Exact waits, and system calls in the windows, by process and system call since the last call: a stream of two
        records."""
        return records.join([self._counts(records.WAITS, "blocked"), self._counts(records.CALLS, "calls")])

    def _counts(self, which: int, name: str) -> bytes:
        source = self._objects.map(name)
        return records.counts(which, *source.read(take=True), source.value_bytes)

    def set_python(self, pid: int, walk: bytes) -> bool:
        """Makes the programs walk the frames of a process. False without room for one more: its stacks are native
        only."""
        return self._update("pythons", pid, walk)

    def forget_python(self, pid: int) -> None:
        self._objects.map("pythons").delete(struct.pack("=I", pid))

    def set_rows(self, first: int, values: bytes) -> None:
        """Unwind rows of 8 bytes, from this one on."""
        keys = array("I", range(first, first + len(values) // 8)).tobytes()
        self._objects.map("rows").update_packed(keys, values)

    def set_unwind(self, pid: int, value: bytes) -> bool:
        """Makes the programs unwind a process by its tables. False without room for one more: it keeps its frame
        pointers."""
        return self._update("unwinds", pid, value)

    def _update(self, name: str, pid: int, value: bytes) -> bool:
        try:
            self._objects.map(name).update(struct.pack("=I", pid), value)
        except OSError as error:
            if error.errno not in (errno.E2BIG, errno.ENOMEM):
                raise
            return False
        return True

    def forget_unwind(self, pid: int) -> None:
        self._objects.map("unwinds").delete(struct.pack("=I", pid))

    def run_time_s(self, programs: Sequence[str]) -> float:
        """Of these since they were loaded, as far as statistics were on."""
        costs = [self._objects.program(name).cost() for name in programs]
        return sum(cost.value.run_time_ns for cost in costs if not isinstance(cost, Missing)) / 1e9


def _linked(reading: Reading[Link]) -> Link:
    if isinstance(reading, Missing):
        raise Unavailable(f"a BPF program cannot be attached: {reading}", hint="osremed doctor")
    return reading.value


__all__ = ["COUNTING", "SAMPLING", "Sensor", "Tally", "measuring"]
