"""`osremed timeline run`: one watch until a signal comes, with its status, its metrics and its ring on disk."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.clock import Clock, SystemClock
from osremed.core.errors import Unavailable
from osremed.core.files import exclusive_lock, write_atomic
from osremed.core.journal import Journal
from osremed.core.log import Log
from osremed.core.paths import HostPaths
from osremed.core.policyfile import PolicyFile
from osremed.core.reading import Missing, Value
from osremed.sensors import procfs
from osremed.timeline import status
from osremed.timeline.settings import Settings, policy_file
from osremed.timeline.watch import Watch

STATUS_FILE = "timeline.json"
METRICS_FILE = "timeline.prom"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_RING_SEGMENTS = 16


def run(policy: str | None, paths: HostPaths, clock: Clock | None = None) -> dict[str, Any]:
    """Watches until SIGTERM or SIGINT; the last status. BadInput for the policy. Unavailable when another one watches
    here, or the paths cannot be written."""
    log = Log("timeline")
    obeyed = policy_file(paths, log, policy)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with contextlib.ExitStack() as held:
            os.makedirs(paths.run, exist_ok=True)
            ring_path = os.path.join(os.path.dirname(paths.events), "timeline", "ring")
            try:
                held.enter_context(exclusive_lock(os.path.join(paths.run, "timeline.lock"), wait=False))
                ring = Journal(ring_path, max_segments=_RING_SEGMENTS)
            except BlockingIOError:
                raise Unavailable("another watch runs here", where=paths.run, hint="osremed timeline status") from None
            obeyed.start()
            return _run(Watch(obeyed.settings, paths, clock or SystemClock(), log=log), obeyed, paths, ring)
    except PermissionError as error:
        raise Unavailable(f"{error.strerror}", where=str(error.filename), hint="run as root") from error


def _run(watch: Watch, obeyed: PolicyFile[Settings], paths: HostPaths, ring: Journal) -> dict[str, Any]:
    clock = SystemClock()
    watch.log.info("watching", kernel_log=str(watch.kmsg) if isinstance(watch.kmsg, Missing) else "followed")
    _write(watch, obeyed, paths, ring)  # who changes the policy now finds somebody to tell
    try:
        while True:
            due_ns = clock.monotonic_ns() + round(watch.settings.interval_s * 1e9)
            watch.round()
            while (rest_ns := due_ns - clock.monotonic_ns()) > 0:
                told = signal.sigtimedwait(_SIGNALS, 0)
                if told is not None and told.si_signo != signal.SIGHUP:
                    return _document(watch, obeyed)
                if told is not None:
                    if obeyed.reload():
                        watch.obey(obeyed.settings)
                    break  # the status at once: who changed the policy waits for it
                watch.wait_once(min(rest_ns / 1e6, 200.0))
            _write(watch, obeyed, paths, ring)
    finally:
        watch.close()
        ring.close()
        for name in (STATUS_FILE, METRICS_FILE):
            _unlink(os.path.join(paths.run, name))


def _document(watch: Watch, obeyed: PolicyFile[Settings]) -> dict[str, Any]:
    """The status. A process is named by pid and start time together."""
    stat = procfs.stat(os.getpid())
    ticks = stat.as_json() if isinstance(stat, Missing) else stat.value.start_time_ticks
    return {**status.document(watch), **obeyed.document(), "start_time_ticks": ticks}


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _write(watch: Watch, obeyed: PolicyFile[Settings], paths: HostPaths, ring: Journal) -> None:
    """Status, metrics and the ring; a full disk is said, not died of, and the others are written."""
    document = _document(watch, obeyed)

    def keep_ring() -> None:
        if watch.inventory is not None:
            ring.append({"at_ns": document["updated_ns"], "gpus": dict(_ring_rows(watch))})

    status_path, metrics_path = (os.path.join(paths.run, name) for name in (STATUS_FILE, METRICS_FILE))
    writes: tuple[tuple[str, Callable[[], object]], ...] = (
        ("status", lambda: write_atomic(status_path, canonical_json(document) + b"\n")),
        ("metrics", lambda: write_atomic(metrics_path, status.prometheus(watch).encode())),
        ("events", watch.outbox.flush),
        ("baseline", watch.keep_baseline),
        ("ring", keep_ring),
    )
    for what, write in writes:
        try:
            write()
        except OSError as error:
            watch.log.error(f"{what} not written", why=error.strerror, path=error.filename)
    watch.keep_log_place()


def _ring_rows(watch: Watch) -> Iterator[tuple[str, dict[str, int]]]:
    """Only what was read: absent is unknown."""
    for snapshot in watch.snapshots.values():
        values = {name: each.value for name, each in snapshot.metrics.items() if isinstance(each, Value)}
        yield snapshot.identity.uuid, values
