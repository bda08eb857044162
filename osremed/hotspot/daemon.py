"""`osremed hotspot run`: drains the kernel's ring, writes segments, watches its own cost, tells jitter."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from osremed import __version__
from osremed.core.canonical import canonical_json
from osremed.core.clock import rfc3339
from osremed.core.errors import Unavailable
from osremed.core.event import Event, new_event_id
from osremed.core.files import exclusive_lock, write_atomic
from osremed.core.journal import Journal
from osremed.core.log import Log
from osremed.core.paths import HostPaths, host_name
from osremed.core.reading import Missing, Reading, Reason, Value, reading_as_json
from osremed.core.record import record
from osremed.hotspot import records
from osremed.hotspot.budget import Budget, budget_file
from osremed.hotspot.capture import Capture, Captured, Key
from osremed.hotspot.governor import Governor, Level, govern, levels
from osremed.hotspot.hostseconds import HostSeconds, Throttling, second_of
from osremed.hotspot.jitter import AnswerJitter, JitterDetector
from osremed.hotspot.kernelsymbols import keep_kernel_symbols, keep_vdso
from osremed.hotspot.probes import Prober
from osremed.hotspot.ring import RingWriter, ring_directory
from osremed.hotspot.sensor import Sensor, measuring
from osremed.hotspot.trapwatch import EVENT as TRAP_EVENT
from osremed.hotspot.trapwatch import Standing, TrapWatch
from osremed.hotspot.unwind import Unwinder
from osremed.hotspot.waiting import Waiting
from osremed.sensors import procfs
from osremed.sensors.process import return_free_memory

STATUS_FILE = "hotspot.json"
_TRAPS_FILE = "hotspot-traps.json"
_TICK_S = 1.0
_CALL_TICKS = 4  #: a window of system calls each so many: opening one takes a millisecond, however long it is
_MEASURED_TICKS = 1  #: of each round run statistics are on for so many ticks: they cost 40 ns a run themselves
_TICK_NS = 10_000_000
_MOST_GROUPS = 200
_BREATHS_S = (0.1, 0.04)  #: after a look at what the sampler has just met: without and with looks left
_SURE_SAMPLES = 4  #: 40 ms on a CPU: such a program is always looked at
_MOST_WAITING = 500  #: programs that are still to be looked at
_BOOK_SEGMENTS = 60  #: names are written again after so many segments
_GAP_MANY = "more processes began at once than may be looked at: some have no names"
_GAP_ENDED = "some processes ended before they could be looked at: their addresses have no names"


@record
class Settings:
    """`budget` counts where the policy of the host says nothing else; `policy` is another file of it."""

    segment_s: float = 10.0
    budget: Budget = Budget()
    policy: str | None = None
    stop_after_s: float = 0.0  #: 0: until a signal
    traps_every_s: float = 300.0  #: 0: traps are not looked for


def run(settings: Settings, paths: HostPaths) -> dict[str, Any]:
    """Runs until SIGTERM or SIGINT; SIGHUP reads the policy again; the last status. BadInput for the policy.
    Unavailable without BPF, or if another runs here."""
    directory = ring_directory(paths)
    try:
        os.makedirs(paths.run, exist_ok=True)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        lock = exclusive_lock(os.path.join(paths.run, "hotspot.lock"), wait=False)
        with Waiting() as waiting, lock, Sensor() as sensor:
            waiting.listen(*sensor.ring_fds)
            return _loop(Recorder(settings, paths, sensor), settings, waiting)
    except BlockingIOError:
        raise Unavailable("another hotspot recorder runs here", where=paths.run) from None
    except PermissionError as error:
        raise Unavailable(f"{error.strerror}", where=str(error.filename), hint="run as root") from error


def _loop(recorder: Recorder, settings: Settings, waiting: Waiting) -> dict[str, Any]:
    began_s = time.monotonic()
    recorder.start()
    try:
        next_s = time.monotonic() + _TICK_S
        while not waiting.until(next_s):
            if waiting.hangup:
                waiting.hangup = False
                recorder.obey()
            if time.monotonic() < next_s:
                time.sleep(recorder.look())
                continue
            next_s = max(next_s + _TICK_S, time.monotonic() + _TICK_S / 4)
            recorder.tick()
            if settings.stop_after_s and time.monotonic() - began_s >= settings.stop_after_s:
                break
        return recorder.status()
    finally:
        recorder.stop()


class _Round:
    """What one segment gathers."""

    def __init__(self, wall_ns: int, monotonic_s: float) -> None:
        self.start_ns, self.began_s = wall_ns, monotonic_s
        self.parts: list[bytes] = []
        self.texts: list[bytes] = []
        self.seconds: list[dict[str, Any]] = []
        self.windows_s = 0.0
        self.gaps: set[str] = set()


class Recorder:
    """The running recorder; `tick` every second, `look` when it is woken."""

    def __init__(self, settings: Settings, paths: HostPaths, sensor: Sensor) -> None:
        self.log = Log("hotspot")
        self._settings, self._paths, self._sensor = settings, paths, sensor
        self._host = host_name(paths)
        self._policy = budget_file(paths, settings.budget, self.log, settings.policy)
        self._policy.start()
        budget = self._policy.settings
        self._ring = RingWriter(ring_directory(paths), max_bytes=budget.max_bytes, max_age_s=budget.max_age_s)
        boot = procfs.boot_id()
        self._boot_id = boot.value if isinstance(boot, Value) else ""
        self._capture = Capture(keep_vdso(self._ring.directory))
        self._levels = levels(len(sensor.cpus))
        self._governor = Governor()
        self._host_seconds, self._throttling = HostSeconds(), Throttling()
        self._unwinder = Unwinder(sensor, self._ring.directory)
        self._jitter, self._answers, self._prober = JitterDetector(len(sensor.cpus)), AnswerJitter(), Prober()
        self._standing = Standing()
        self._trap_watch = TrapWatch(settings.traps_every_s, os.path.join(paths.run, _TRAPS_FILE), self.log)
        self._journal: Journal | None = None
        self._round = _Round(time.time_ns(), time.monotonic())
        self._before = sensor.tally()
        self._ticks = 0
        self._looks_left = 0
        self._waiting: dict[Key, tuple[int, int]] = {}  #: samples, and its number in its own namespace
        self._to_write: dict[Key, Captured] = {}  #: what the book does not say yet
        self._books: list[int] = [self._round.start_ns]
        self._segments = 0
        self._measured_s = self._measured_run_s = 0.0
        self._cost: dict[str, float] = {"wall_s": 0.0, "bpf_s": 0.0, "own_s": 0.0}
        self._own_before_s = time.process_time()
        self._written = self._lost = 0
        self._last_error = ""
        self._started_ns = time.time_ns()

    def start(self) -> None:
        self._sensor.set_level(self._levels[self._governor.at])
        if not keep_kernel_symbols(self._ring.directory, self._boot_id):
            self._last_error = "kernel symbols could not be kept: kernel frames will have no names"
        self._second_base = (self._sensor.tally(), time.monotonic())
        self._measured_at = 0.0
        self._ask_services()
        return_free_memory()  # loading the programs took some
        self._own_before_s = time.process_time()  # what starting cost is not the price of recording
        self.log.info("hotspot records", ring=self._ring.directory, cpus=len(self._sensor.cpus))

    def obey(self) -> None:
        """The policy is read again; the status says at once what came of it."""
        self._policy.reload()
        self._ring.bound(self._policy.settings.max_bytes, self._policy.settings.max_age_s)
        self._ask_services()
        self._write_status()

    def _ask_services(self) -> None:
        if self._prober.ask(self._policy.settings.probes):
            self._answers = AnswerJitter()

    def tick(self) -> None:
        """Drains; each second counts the host; each round writes a segment."""
        self._ticks += 1
        self._looks_left = self._levels[self._governor.at].looks
        ticks = round(self._settings.segment_s / _TICK_S)
        step = self._ticks % ticks
        if step == 1:
            self._measure_begin()
        self._drain()
        if step == (1 + _MEASURED_TICKS) % ticks:
            self._measure_end()
        self._second()
        self._unwinder.step(self._capture.processes)
        level = self._levels[self._governor.at]
        if level.duty and self._ticks % _CALL_TICKS == 0:
            self._round.windows_s += self._sensor.look_at_calls(level.duty * _CALL_TICKS * _TICK_S)
        self._look_for_traps()
        if step == 0:
            self._drain()
            self._flush()
            self._trap_watch.begin()

    def _measure_begin(self) -> None:
        self._measuring = measuring()
        self._measured_at = time.monotonic()
        self._run_before_s = self._sensor.run_time_s()

    def _measure_end(self) -> None:
        if not self._measured_at:
            return
        self._measured_run_s = self._sensor.run_time_s() - self._run_before_s
        self._measured_s = time.monotonic() - self._measured_at
        self._measuring.close()
        self._measured_at = 0.0

    def look(self) -> float:
        """At what the sampler has just met, while it lives; how long to wait before the next look."""
        self._meet()
        if self._sensor.filling():
            self._drain()
        return _BREATHS_S[self._looks_left > 0]

    def _drain(self) -> None:
        self._meet()
        events = self._sensor.take_events()
        if events:
            self._round.parts.append(events)

    def _meet(self) -> None:
        batch = self._sensor.take_texts()
        if batch.data:
            self._round.texts.append(batch.data)
        for begin, _ in batch.spans:
            if batch.data[begin] == records.MET:
                _, program, tgid, start_ns, samples, inside, _comm = records.MEETING.unpack_from(batch.data, begin)
                self._waiting[tgid, start_ns // _TICK_NS, program] = samples, inside
        if self._waiting:
            self._look_at_those_waiting()

    def _look_at_those_waiting(self) -> None:
        """Those with the most samples first; who has ended costs next to nothing."""
        left: dict[Key, tuple[int, int]] = {}
        for key, (samples, inside) in sorted(self._waiting.items(), key=lambda each: -each[1][0]):
            fresh = key not in self._capture.processes
            if fresh and self._looks_left <= 0 and samples < _SURE_SAMPLES:
                self._round.gaps.add(_GAP_MANY)
                if len(left) < _MOST_WAITING:
                    left[key] = samples, inside
                continue
            captured = self._capture.see(key, samples, inside)
            if captured is None:
                self._round.gaps.add(_GAP_ENDED)
                continue
            self._looks_left -= fresh
            self._introduce(captured)
        self._waiting = left

    def _introduce(self, captured: Captured) -> None:
        """The sampler how to walk its frames, and the book what it is."""
        if captured.interpreter is not None and not captured.told:
            captured.told = True
            interpreter = captured.interpreter
            self._sensor.set_python(captured.key[0], interpreter.layout.walk(interpreter.runtime))
        if captured.unwritten:
            captured.unwritten = False
            self._to_write[captured.key] = captured

    def _second(self) -> None:
        before, then_s = self._second_base
        tally, now_s = self._sensor.tally(), time.monotonic()
        self._second_base = (tally, now_s)
        self._sensor.thin(tally, now_s - then_s)
        delay: Reading[float] = Missing(Reason.NO_DATA, "sched_switch", "switched off by the governor")
        if self._levels[self._governor.at].switches:
            delay = Value(round((tally.run_delay_ns - before.run_delay_ns) / 1e9, 6))
        row = self._host_seconds.second(time.time_ns(), delay, self._throttled())
        self._round.seconds.append(row)
        jitter = self._jitter.second(second_of(row))
        if jitter is not None:
            self._tell("latency.jitter", jitter)
        probes = {each.name: each for each in self._policy.settings.probes}
        for answer in self._prober.answers():
            slow = self._answers.answer(answer, probes[answer.name])
            if slow is not None:
                self._tell("latency.jitter", slow)

    def _throttled(self) -> Reading[Mapping[str, float]]:
        groups: dict[str, str] = {}
        for captured in self._capture.processes.values():
            groups.update(captured.groups)
        return self._throttling.totals(dict(sorted(groups.items())[:_MOST_GROUPS]))

    def _tell(self, name: str, attributes: dict[str, Any]) -> None:
        event = Event(new_event_id(), name, self._host, time.time_ns(), attributes)
        try:
            if self._journal is None:
                self._journal = Journal(os.path.join(self._paths.events, "hotspot"))
            self._journal.append(event.as_json())
        except OSError as error:
            self._last_error = f"event not recorded: {error.strerror}"
        self.log.warning(name, **attributes)

    def _look_for_traps(self) -> None:
        found = self._trap_watch.result()
        for attributes in self._standing.look(found) if found is not None else ():
            self._tell(TRAP_EVENT, attributes)

    def _flush(self) -> None:
        """Writes what was gathered, names first. What the sampler sends from here on belongs to the next segment, and
        to the next book, if it is time for one."""
        now_s = time.monotonic()
        self._segments += 1
        turns = self._segments >= _BOOK_SEGMENTS
        self._sensor.begin_epoch(book=turns)
        self._drain()
        done, end_ns = self._round, time.time_ns()
        self._round = _Round(end_ns, now_s)
        done.parts.append(self._sensor.take_counts())
        tally = self._sensor.tally()
        level = self._levels[self._governor.at]
        self._account(now_s - done.began_s)
        tables = self._tables(done, level, tally.lost - self._before.lost)
        self._lost += tally.lost - self._before.lost
        self._before = tally
        try:
            self._write(done, end_ns, tables)
            self._last_error = ""
        except OSError as error:
            self._last_error = f"segment lost: {error.strerror}"
            self.log.error("segment lost", why=error.strerror)
            self._segments = _BOOK_SEGMENTS  # names may be lost with it: each is sent again soon
        for ended in self._capture.forget_ended():
            self._unwinder.forget(ended)
            if ended.told and not self._walked(ended.key):
                self._sensor.forget_python(ended.key[0])
        if turns:
            self._books, self._segments = [self._books[-1], end_ns], _BOOK_SEGMENTS if self._last_error else 0
            self._to_write = dict(self._capture.processes)
        self._write_status()
        del done
        return_free_memory()

    def _walked(self, key: Key) -> bool:
        """Whether what the process has become is a Python program too."""
        return any(each.told for each in self._capture.processes.values() if each.key[:2] == key[:2])

    def _write(self, done: _Round, end_ns: int, tables: dict[str, Any]) -> None:
        rows = [captured.row for captured in self._to_write.values()]
        if rows or done.texts:
            self._written += self._ring.add_names(self._books[-1], rows, b"".join(done.texts))
        self._to_write = {}
        self._written += self._ring.append(done.start_ns, end_ns, tables, done.parts)

    def _account(self, wall_s: float) -> None:
        """The cost of the round, and the governor's step."""
        own_s = time.process_time()
        busy_s = self._measured_run_s / self._measured_s * wall_s if self._measured_s else 0.0
        self._cost = {"wall_s": wall_s, "bpf_s": busy_s, "own_s": own_s - self._own_before_s}
        self._own_before_s = own_s
        before = self._governor
        count = len(self._levels)
        self._governor = govern(before, self.share(), self._policy.settings.ceiling, count)
        if self._governor.at != before.at:
            level = self._levels[self._governor.at]
            self.log.warning("governor", level=level.name, share=round(self.share(), 5))
            self._sensor.set_level(level)

    def share(self) -> float:
        """Of the machine, in the last round."""
        cost = self._cost
        return (cost["bpf_s"] + cost["own_s"]) / cost["wall_s"] / len(self._sensor.cpus) if cost["wall_s"] else 0.0

    def _tables(self, done: _Round, level: Level, lost: int) -> dict[str, Any]:
        return {
            "version": __version__,
            "host": self._host,
            "boot_id": self._boot_id,
            "run": self._started_ns,
            "books": self._books,
            "mono_to_wall_ns": time.time_ns() - time.monotonic_ns(),
            "clock": "cpu-clock",
            "hz": level.hz,
            "cpus": len(self._sensor.cpus),
            "level": level.name,
            "lost": lost,
            "windows_s": round(done.windows_s, 4),
            "seconds": done.seconds,
            "cost": {name: round(value, 6) for name, value in self._cost.items()},
            "gaps": sorted({*done.gaps, *self._sensor.gaps(), *self._full()}),
        }

    def _full(self) -> tuple[str, ...]:
        return (
            ("no room for more unwind tables: some native stacks go by frame pointers",) if self._unwinder.full else ()
        )

    def status(self) -> dict[str, Any]:
        pid = os.getpid()
        stat = procfs.stat(pid)
        statm = procfs.statm(pid)
        return {
            "pid": pid,
            "start_time_ticks": reading_as_json(_field(stat, "start_time_ticks")),
            "since": rfc3339(self._started_ns),
            "level": self._levels[self._governor.at].name,
            "share": round(self.share(), 6),
            "ceiling": self._policy.settings.ceiling,
            **self._policy.document(),
            "cost": {name: round(value, 6) for name, value in self._cost.items()},
            "cpus": len(self._sensor.cpus),
            "rss_bytes": statm.value.resident_pages * procfs.PAGE_BYTES
            if isinstance(statm, Value)
            else statm.as_json(),
            "ring": self._ring.directory,
            "ring_bytes": self._ring.bytes,
            "written_bytes": self._written,
            "lost": self._lost,
            "processes": len(self._capture.processes),
            "prepared_s": round(self._unwinder.prepared_s, 3),
            "traps_s": round(self._trap_watch.spent_s, 3),
            "services": self._answers.document(),
            "last_error": self._last_error,
        }

    def _write_status(self) -> None:
        try:
            write_atomic(os.path.join(self._paths.run, STATUS_FILE), canonical_json(self.status()) + b"\n")
        except OSError as error:
            self.log.warning("status file not written", why=error.strerror)

    def stop(self) -> None:
        if self._measured_at:
            self._measure_end()
        self._drain()
        self._flush()
        self._unwinder.close()
        self._trap_watch.close()
        self._prober.close()
        if self._journal is not None:
            self._journal.close()
        try:
            os.unlink(os.path.join(self._paths.run, STATUS_FILE))
        except OSError as error:
            self.log.debug("status file not removed", why=error.strerror)
        self.log.info("hotspot stopped", written_bytes=self._written)


def _field(reading: Reading[Any], name: str) -> Reading[Any]:
    return reading if isinstance(reading, Missing) else Value(getattr(reading.value, name))
