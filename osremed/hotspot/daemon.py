"""`osremed hotspot run`: one recorder on a host, awake every second and when the sampler has news, until a signal."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from osremed.core.errors import Unavailable
from osremed.core.files import exclusive_lock
from osremed.core.paths import HostPaths
from osremed.hotspot.recorder import Recorder, Settings
from osremed.hotspot.ring import ring_directory
from osremed.hotspot.sensor import Sensor
from osremed.hotspot.waiting import Waiting

_TICK_S = 1.0


def run(settings: Settings, paths: HostPaths) -> dict[str, Any]:
    """Runs until SIGTERM or SIGINT; SIGHUP reads the policy again; the last status. BadInput for the policy.
    Unavailable without BPF, or if another runs here."""
    directory = ring_directory(paths)
    try:
        os.makedirs(paths.run, exist_ok=True)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with Waiting() as waiting, _alone(paths.run), Sensor() as sensor:
            waiting.listen(*sensor.ring_fds)
            return _loop(Recorder(settings, paths, sensor), settings, waiting)
    except PermissionError as error:
        raise Unavailable(f"{error.strerror}", where=str(error.filename), hint="run as root") from error


@contextlib.contextmanager
def _alone(directory: str) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(os.path.join(directory, "hotspot.lock"), wait=False))
        except BlockingIOError:
            raise Unavailable("another hotspot recorder runs here", where=directory) from None
        yield


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
