"""`osremed agent run`: the main thread takes changes back and writes the status file, a second thread ships."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from osremed.agent.config import AgentConfig, read_token, state_directory
from osremed.agent.spool import Spool
from osremed.agent.sweep import Sweeper
from osremed.core.canonical import canonical_json
from osremed.core.clock import Clock, SystemClock, rfc3339
from osremed.core.errors import BadInput, Unavailable
from osremed.core.files import exclusive_lock, write_atomic
from osremed.core.journal import Journal
from osremed.core.log import Log
from osremed.core.paths import HostPaths
from osremed.core.reading import Missing
from osremed.sensors import procfs

if TYPE_CHECKING:
    from osremed.agent.history import HistoryKeeper
    from osremed.agent.intake import Delivery
    from osremed.agent.ship import Shipper

STATUS_FILE = "agent.json"
_TICK_S = 1.0
_STATUS_EVERY_S = 5.0
_STOP_WAIT_S = 2.0
_REFUSED_SEGMENTS = 8
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(config: AgentConfig, paths: HostPaths, clock: Clock | None = None) -> dict[str, Any]:
    """Runs until SIGTERM or SIGINT; the last status. Unavailable if another agent has these paths, they cannot be
    written, or shipping broke down. The signals stay blocked in this process: they are taken by sigtimedwait, so no
    handler ever runs in the middle of an undo."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        os.makedirs(paths.run, exist_ok=True)
        with exclusive_lock(os.path.join(paths.run, "agent.lock"), wait=False):
            return _run(Agent(config, paths, clock or SystemClock()))
    except BlockingIOError:
        raise Unavailable("another agent runs here", where=paths.run, hint="osremed agent status") from None
    except PermissionError as error:
        raise Unavailable(f"{error.strerror}", where=str(error.filename), hint="run as root") from error


def _run(agent: Agent) -> dict[str, Any]:
    agent.start()
    try:
        while True:
            agent.tick()
            if signal.sigtimedwait(_SIGNALS, _TICK_S) is not None:
                return agent.status()
    finally:
        agent.stop()


class Agent:
    """The parts of one running agent."""

    def __init__(self, config: AgentConfig, paths: HostPaths, clock: Clock) -> None:
        self.log = Log("agent")
        self._config, self._paths, self._clock = config, paths, clock
        state = state_directory(paths)
        roots = config.events_dirs or (paths.events,)
        self.spool = Spool(roots, paths.events, os.path.join(state, "cursors"), self.log)
        self.sweeper = Sweeper(paths, clock, self.log)
        self.shipper: Shipper | None = None
        self._refused: Journal | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._started_ns = clock.wall_ns()
        self._written: tuple[dict[str, Any], int] = ({}, 0)
        self._history: HistoryKeeper | None = None
        if config.history:
            from osremed.agent.history import HistoryKeeper  # noqa: PLC0415
            from osremed.panorama.history import history_directory  # noqa: PLC0415

            self._history = HistoryKeeper(
                history_directory(paths), clock, self.log, events=os.path.join(paths.events, "panorama")
            )
        if config.intake is not None:
            from osremed.agent.ship import Shipper  # noqa: PLC0415  an agent without an intake needs no HTTP and TLS

            self._refused = Journal(os.path.join(state, "refused"), max_segments=_REFUSED_SEGMENTS)
            self.shipper = Shipper(self.spool, self._send, self._refused, clock, self.log)

    def _send(self, body: bytes) -> Delivery:
        from osremed.agent.intake import Delivery, Result, post  # noqa: PLC0415

        assert self._config.intake is not None
        try:
            token = read_token(self._config.token_file)  # read again each time: tokens are rotated
        except BadInput as error:
            return Delivery(Result.UNAUTHORIZED, detail=str(error))
        return post(self._config.intake, token, body)

    def start(self) -> None:
        where = "none" if self._config.intake is None else self._config.intake.host
        self.log.info("agent runs", intake=where, undo=self._paths.undo, events=self._paths.events)
        if self.shipper is not None:
            # A thread of its own: an intake that hangs must not hold up an undo. Daemonic: at exit a request in flight
            # is given up, its events are still spooled.
            self._thread = threading.Thread(target=self._ship, name="ship", daemon=True)
            self._thread.start()
        if self._history is not None:
            threading.Thread(target=self._history.run, args=(self._stop,), name="history", daemon=True).start()

    def _ship(self) -> None:
        assert self.shipper is not None
        while not self._stop.is_set():
            self._stop.wait(self.shipper.step())

    def tick(self) -> None:
        """Once a second: sweep, then tell the status file."""
        self.sweeper.sweep()
        if self.shipper is None:
            self.spool.waiting()  # nobody ships, but the status says what is spooled
        elif self._thread is not None and not self._thread.is_alive():
            raise Unavailable("shipping broke down; its traceback is in the log", hint="the service restarts the agent")
        self._write_status()

    def status(self) -> dict[str, Any]:
        shipper, registered = self.shipper, self.sweeper.registered
        shipped = shipper.shipped if shipper else 0  # before `spooled`: what is told meanwhile is not counted twice
        refused = shipper.refused if shipper else 0
        pid = os.getpid()
        return {
            "pid": pid,
            "start_time_ticks": _start_time_ticks(pid),
            "undo_dir": self._paths.undo,
            "since": rfc3339(self._started_ns),
            "intake": "" if self._config.intake is None else self._config.intake.host,
            "spooled": self.spool.spooled,
            "shipped": shipped,
            "refused": refused,
            "lost": self.spool.lost,
            "damaged": self.spool.damaged,
            "undo_pending": [each.undo_id for each in registered.pending],
            "undo_conflicts": list(registered.conflicts),
            "undo_damaged": list(registered.damaged),
            "history_error": self._history.last_error if self._history else "",
            "last_error": (shipper.last_error if shipper else "") or self.sweeper.last_error,
        }

    def _write_status(self) -> None:
        """When something changed, and every 5 s for the cost figures, which are left out of the comparison."""
        document, now_ns = self.status(), self._clock.monotonic_ns()
        before, written_ns = self._written
        if document == before and now_ns - written_ns < _STATUS_EVERY_S * 1e9:
            return
        self._written = (document, now_ns)
        cost = {"rss_bytes": _rss_bytes(), "cpu_s": round(time.process_time(), 3), "written_ns": self._clock.wall_ns()}
        try:
            write_atomic(os.path.join(self._paths.run, STATUS_FILE), canonical_json({**document, **cost}) + b"\n")
        except OSError as error:
            self.log.warning("status file not written", why=error.strerror)

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_WAIT_S)
        stopped = self._thread is None or not self._thread.is_alive()
        if self._refused is not None and stopped:
            self._refused.close()
        try:
            os.unlink(os.path.join(self._paths.run, STATUS_FILE))
        except OSError as error:
            self.log.debug("status file not removed", why=error.strerror)
        self.log.info("agent stopped", spooled=self.spool.spooled)


def _start_time_ticks(pid: int) -> int:
    reading = procfs.stat(pid)
    if isinstance(reading, Missing):
        raise Unavailable(f"cannot tell who we are: {reading}", hint="mount /proc")
    return reading.value.start_time_ticks


def _rss_bytes() -> Any:
    reading = procfs.statm(os.getpid())
    return reading.as_json() if isinstance(reading, Missing) else reading.value.resident_pages * procfs.PAGE_BYTES
