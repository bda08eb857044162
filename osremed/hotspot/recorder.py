"""The recorder: drains the kernel's ring, writes segments and the book of names, and stays within its budget."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from osremed import __version__
from osremed.core.canonical import canonical_json
from osremed.core.clock import rfc3339
from osremed.core.files import write_atomic
from osremed.core.log import Log
from osremed.core.paths import HostPaths, host_name
from osremed.core.reading import Missing, Reading, Reason, Value, reading_as_json
from osremed.core.record import record
from osremed.hotspot.budget import Budget, budget_file
from osremed.hotspot.capture import Capture
from osremed.hotspot.encounters import Encounters
from osremed.hotspot.governor import Governor, Level, govern, levels
from osremed.hotspot.hostseconds import Throttling
from osremed.hotspot.kernelsymbols import KernelKeeper, keep_vdso
from osremed.hotspot.meter import Meter
from osremed.hotspot.ring import RingWriter, ring_directory
from osremed.hotspot.sensor import Sensor, Tally
from osremed.hotspot.telling import Telling
from osremed.hotspot.trapwatch import TrapWatch
from osremed.hotspot.unwind import Unwinder
from osremed.sensors import procfs
from osremed.sensors.process import return_free_memory

_STATUS_FILE = "hotspot.json"
_TICK_S = 1.0  #: `tick` is called so often
_CALL_TICKS = 4  #: a window of system calls each so many: opening one takes a millisecond, however long it is
_MEASURED_TICKS = 1  #: of each round run statistics are on for so many ticks: they cost 40 ns a run themselves
_BREATHS_S = (0.1, 0.04)  #: after a look at what the sampler has just met: without and with looks left
_UNPLACED = (
    ("uncounted_waits", "waits found no place among the exact ones: totals of some processes are too low"),
    ("uncounted_calls", "system calls found no place: rates of some processes are too low"),
    ("unread_opens", "opened files were too many to read their paths: their rates are too low"),
)
_BOOK_SEGMENTS = 60  #: names are written again after so many segments


@record
class Settings:
    """`budget` counts where the policy of the host says nothing else; `policy` is another file of it."""

    segment_s: float = 10.0
    budget: Budget = Budget()
    policy: str | None = None
    stop_after_s: float = 0.0  #: 0: until a signal
    traps_every_s: float = 300.0  #: 0: traps are not looked for


class _Round:
    """What one segment gathers."""

    def __init__(self, wall_ns: int, monotonic_s: float) -> None:
        self.start_ns, self.began_s = wall_ns, monotonic_s
        self.parts: list[bytes] = []
        self.texts: list[bytes] = []
        self.seconds: list[dict[str, Any]] = []
        self.windows_s = 0.0


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
        self._kernel = KernelKeeper(self._ring.directory, self._boot_id)
        self._capture = Capture(keep_vdso(self._ring.directory))
        self._levels = levels(len(sensor.cpus))
        self._governor = Governor()
        self._throttling = Throttling()
        self._encounters, self._meter = Encounters(sensor, self._capture), Meter(sensor)
        self._unwinder = Unwinder(sensor, self._ring.directory)
        self._trap_watch = TrapWatch(settings.traps_every_s, paths.run, self.log)
        events = os.path.join(paths.events, "hotspot")
        self._telling = Telling(self._host, events, len(sensor.cpus), self._trap_watch, self.log)
        self._round = _Round(time.time_ns(), time.monotonic())
        self._before = sensor.tally()
        self._ticks = 0
        self._books: list[int] = [self._round.start_ns]
        self._segments = 0
        self._written = self._lost = 0
        self._last_error = ""
        self._started_ns = time.time_ns()

    def start(self) -> None:
        self._sensor.set_level(self._levels[self._governor.at])
        if not self._kernel.begin():
            self._last_error = "kernel symbols could not be kept: kernel frames will have no names"
        self._second_base = (self._sensor.tally(), time.monotonic())
        self._ask_services()
        return_free_memory()  # loading the programs took some
        self._meter.reset()
        self.log.info("hotspot records", ring=self._ring.directory, cpus=len(self._sensor.cpus))

    def obey(self) -> None:
        """The policy is read again; the status says at once what came of it."""
        self._policy.reload()
        self._ring.bound(self._policy.settings.max_bytes, self._policy.settings.max_age_s)
        self._ask_services()
        self._write_status()

    def _ask_services(self) -> None:
        self._telling.ask(self._policy.settings.probes)

    def tick(self) -> None:
        """Drains; each second counts the host; each round writes a segment."""
        self._ticks += 1
        self._encounters.looks_left = self._levels[self._governor.at].looks
        ticks = round(self._settings.segment_s / _TICK_S)
        step = self._ticks % ticks
        if step == 1:
            self._meter.begin()
        self._drain()
        if step == (1 + _MEASURED_TICKS) % ticks:
            self._meter.end()
        self._second()
        self._unwinder.step(self._capture.processes)
        level = self._levels[self._governor.at]
        if level.duty and self._ticks % _CALL_TICKS == 0:
            with self._meter.window():
                self._round.windows_s += self._sensor.look_at_calls(level.duty * _CALL_TICKS * _TICK_S)
        self._telling.look_for_traps()
        if step == 0:
            self._drain()
            self._flush()
            self._trap_watch.begin()

    def look(self) -> float:
        """At what the sampler has just met, while it lives; how long to wait before the next look."""
        self._meet()
        if self._sensor.filling():
            self._drain()
        return _BREATHS_S[self._encounters.looks_left > 0]

    def _drain(self) -> None:
        self._meet()
        events = self._sensor.take_events()
        if events:
            self._round.parts.append(events)

    def _meet(self) -> None:
        texts = self._encounters.meet()
        if texts:
            self._round.texts.append(texts)

    def _second(self) -> None:
        before, then_s = self._second_base
        tally, now_s = self._sensor.tally(), time.monotonic()
        self._second_base = (tally, now_s)
        self._sensor.thin(tally, now_s - then_s)
        delay: Reading[float] = Missing(Reason.NO_DATA, "sched_switch", "switched off by the governor")
        if self._levels[self._governor.at].switches:
            delay = Value(round((tally.run_delay_ns - before.run_delay_ns) / 1e9, 6))
        self._round.seconds.append(self._telling.second(delay, self._throttled()))

    def _throttled(self) -> Reading[Mapping[str, float]]:
        groups: dict[str, str] = {}
        for captured in self._capture.processes.values():
            groups.update(captured.groups)
        return self._throttling.totals(groups)

    def _flush(self) -> None:
        """Writes what was gathered, names first. What the sampler sends from here on belongs to the next segment, and
        to the next book, if it is time for one."""
        now_s = time.monotonic()
        self._segments += 1
        turns = self._segments >= _BOOK_SEGMENTS
        self._sensor.begin_epoch(book=turns)
        self._drain()
        done, gaps, end_ns = self._round, self._encounters.take_gaps(), time.time_ns()
        self._round = _Round(end_ns, now_s)
        done.parts.append(self._sensor.take_counts())
        tally = self._sensor.tally()
        level = self._levels[self._governor.at]
        self._account(now_s - done.began_s)
        gaps.update((*_unplaced(self._before, tally), *self._sensor.follow_cpus()))
        tables = self._tables(done, level, tally.lost - self._before.lost, gaps)
        self._lost += tally.lost - self._before.lost
        self._before = tally
        try:
            self._write(done, end_ns, tables)
            self._last_error = ""
        except OSError as error:
            self._last_error = f"segment lost: {error.strerror}"
            self.log.error("segment lost", why=error.strerror)
            self._segments = _BOOK_SEGMENTS  # names may be lost with it: each is sent again soon
            self._ring.trim(end_ns)
        self._unwinder.dropped(self._ring.take_dropped())
        for ended in self._encounters.forget_ended():
            self._unwinder.forget(ended)
        if turns:
            self._books, self._segments = [self._books[-1], end_ns], _BOOK_SEGMENTS if self._last_error else 0
            self._encounters.write_all_again()
        self._write_status()
        del done
        return_free_memory()

    def _write(self, done: _Round, end_ns: int, tables: dict[str, Any]) -> None:
        rows = [captured.row for captured in self._encounters.to_write.values()]
        if rows or done.texts:
            self._written += self._ring.add_names(self._books[-1], rows, b"".join(done.texts))
        self._encounters.to_write = {}
        self._written += self._ring.append(done.start_ns, end_ns, tables, done.parts)

    def _account(self, wall_s: float) -> None:
        """The cost of the round, and the governor's step."""
        self._meter.round(wall_s)
        before, share = self._governor, self._meter.share()
        self._governor = govern(before, share, self._policy.settings.ceiling, len(self._levels))
        if self._governor.at != before.at:
            level = self._levels[self._governor.at]
            self.log.warning("governor", level=level.name, share=round(share, 5))
            self._sensor.set_level(level)

    def _tables(self, done: _Round, level: Level, lost: int, gaps: set[str]) -> dict[str, Any]:
        return {
            "version": __version__,
            "host": self._host,
            "boot_id": self._boot_id,
            "modules": self._kernel.turn(),
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
            "cost": self._meter.document(),
            "gaps": sorted({*gaps, *self._sensor.gaps(), *self._unwinder.gaps(), *self._throttling.gaps()}),
        }

    def status(self) -> dict[str, Any]:
        pid = os.getpid()
        stat = procfs.stat(pid)
        statm = procfs.statm(pid)
        return {
            "pid": pid,
            "start_time_ticks": reading_as_json(_field(stat, "start_time_ticks")),
            "since": rfc3339(self._started_ns),
            "level": self._levels[self._governor.at].name,
            "share": round(self._meter.share(), 6),
            "ceiling": self._policy.settings.ceiling,
            **self._policy.document(),
            "cost": self._meter.document(),
            "cpus": len(self._sensor.cpus),
            "rss_bytes": statm.value.resident_pages * procfs.PAGE_BYTES
            if isinstance(statm, Value)
            else statm.as_json(),
            "ring": self._ring.directory,
            "ring_bytes": self._ring.total_bytes,
            "written_bytes": self._written,
            "lost": self._lost,
            "processes": len(self._capture.processes),
            "prepared_s": round(self._unwinder.prepared_s, 3),
            "traps_s": round(self._trap_watch.spent_s, 3),
            "services": self._telling.services(),
            "last_error": self._last_error or self._telling.error or self._trap_watch.error,
        }

    def _write_status(self) -> None:
        try:
            write_atomic(os.path.join(self._paths.run, _STATUS_FILE), canonical_json(self.status()) + b"\n")
        except OSError as error:
            self.log.warning("status file not written", why=error.strerror)

    def stop(self) -> None:
        self._meter.end()
        self._drain()
        self._flush()
        self._unwinder.close()
        self._kernel.close()
        self._telling.close()
        try:
            os.unlink(os.path.join(self._paths.run, _STATUS_FILE))
        except OSError as error:
            self.log.debug("status file not removed", why=error.strerror)
        self.log.info("hotspot stopped", written_bytes=self._written)


def _unplaced(before: Tally, now: Tally) -> Iterator[str]:
    """Gaps of what the sampler met and had no place for."""
    for name, words in _UNPLACED:
        count = getattr(now, name) - getattr(before, name)
        if count:
            yield f"{count} {words}"


def _field(reading: Reading[Any], name: str) -> Reading[Any]:
    return reading if isinstance(reading, Missing) else Value(getattr(reading.value, name))
