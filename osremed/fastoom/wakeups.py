"""What ends a sleep: signals, the end of victims, the time."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Collection
from types import FrameType

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class Wakeups:
    """Signals and victims' ends, awaited in one place: a handler only notes its signal, a pipe ends the sleep."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        self._plain = select.poll()
        self._plain.register(self._read, select.POLLIN)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.seen.add(number)

    def wait(self, timeout_s: float, pidfds: Collection[int] = ()) -> bool:
        """Whether something other than the time ended it."""
        poller = self._plain
        if pidfds:
            poller = select.poll()
            for fd in (self._read, *pidfds):
                poller.register(fd, select.POLLIN)
        ready = poller.poll(timeout_s * 1000)
        if any(fd == self._read for fd, _ in ready):
            os.read(self._read, 512)
        return bool(ready)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)
