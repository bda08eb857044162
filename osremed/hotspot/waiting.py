"""What the recorder waits for: the next second, a signal, or a program that the sampler met."""

from __future__ import annotations

import os
import select
import signal
import time

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Waiting:
    """Waits for the next tick, a signal to stop, or something new in the ring."""

    def __init__(self) -> None:
        self._epoll = select.epoll(3)
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.hangup = False  #: SIGHUP came
        self._epoll.register(self._reader, select.EPOLLIN)
        self._before = [(each, signal.signal(each, lambda *_: None)) for each in _SIGNALS]
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def listen(self, *ring_fds: int) -> None:
        """Only when the programs say so: that there are records alone is no reason."""
        for each in ring_fds:
            self._epoll.register(each, select.EPOLLIN | select.EPOLLET)

    def until(self, deadline_s: float) -> bool:
        """True when it was a signal to stop. May be early, when the sampler met a program that is to be looked at."""
        ready = self._epoll.poll(max(0.0, deadline_s - time.monotonic()))
        seen = set(os.read(self._reader, 64)) if any(fd == self._reader for fd, _ in ready) else set()
        self.hangup |= signal.SIGHUP in seen
        return bool(seen - {signal.SIGHUP})

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before:
            signal.signal(number, handler)
        self._epoll.close()
        os.close(self._reader)
        os.close(self._writer)
