"""A second thread that acts when the first one hangs: a disk that does not answer must not cost the host.

While it is armed (near the limit) it looks twice a second whether the loop went round. If not for 3 s, and memory is
below a quarter of enter, it ends the one victim that the loop named last, which is known by pid and start time.
"""

from __future__ import annotations

import _thread
import os
import signal
import time
from collections.abc import Callable

from osremed.core.reading import Missing
from osremed.sensors import process

_LOOK_S, _HUNG_S = 0.5, 3.0
_STACK_BYTES = 256 << 10


class Watchdog:
    """`short()` says whether memory is so short that it cannot wait; it must take no lock that the loop may hold."""

    def __init__(self, short: Callable[[], bool], *, hung_s: float = _HUNG_S) -> None:
        self._short, self._hung_s = short, hung_s
        self._beat = time.monotonic()
        self._armed = False
        self._wanted = _thread.allocate_lock()
        self._wanted.acquire()
        self.victim: tuple[int, int] | None = None  #: (pid, start time) of whom to end
        self.ended: list[tuple[int, int]] = []  #: for the record of the loop, once it goes round again
        self.failure = ""

    def start(self) -> None:
        """RuntimeError when there is no thread to be had."""
        _thread.stack_size(_STACK_BYTES)
        _thread.start_new_thread(self._run, ())
        _thread.stack_size(0)

    def beat(self, victim: tuple[int, int] | None, *, near: bool) -> None:
        """The loop went round. `near` arms; far from the limit the thread sleeps for good and costs nothing."""
        self._beat, self.victim = time.monotonic(), victim
        if near and not self._armed:
            self._armed = True
            if self._wanted.locked():
                self._wanted.release()
        elif not near:
            self._armed = False

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            while self._armed:
                time.sleep(_LOOK_S)
                self.look()

    def look(self) -> None:
        """One look; what the thread does."""
        victim = self.victim
        if victim is None or time.monotonic() - self._beat < self._hung_s or victim in self.ended:
            return
        if not self._short():
            return
        pidfd = process.open_verified(*victim)
        if isinstance(pidfd, Missing):
            self.victim = None
            return
        try:
            failure = process.send(pidfd.value, signal.SIGKILL)
            self.failure = str(failure) if failure else ""
            self.ended.append(victim)
        finally:
            os.close(pidfd.value)
