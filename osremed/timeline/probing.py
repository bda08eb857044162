"""One process for each GPU asks the driver: a call that hangs there hangs nobody else, and is itself a finding.

The parent must have one thread: its children are forks. A child ends when its parent closes the pipe. A child that
hung is sent SIGKILL and not waited for; until it is gone (a process in state D cannot be killed) no other one takes
its place.
"""

from __future__ import annotations

import gc
import json
import math
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from osremed.core.files import write_all
from osremed.core.reading import Missing, Reason
from osremed.sensors import procfs
from osremed.sensors.nvml import LIBRARY, STALE_CODES, EventSet, Nvml, NvmlError, snapshot
from osremed.timeline.model import Hang, snapshot_as_json

_LONGEST_ANSWER = 4 << 20
_FIRST_FREE_FD = 5
_MOST_FDS = 4096
_EVENT_WAIT_MS = 500
_TRY_ALL_S = 60.0
_ENDED = Missing(Reason.NO_DATA, "nvml", "the probe ended without an answer")

Serve = Callable[[int, int], None]  #: (request fd, answer fd), in the child


class Probe:
    """One child and what it is asked. `hang` is set while it does not answer; `answered`: the child that is there has,
    at least once."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.pid = 0
        self.fd = -1
        self._request = -1
        self._buffer = b""
        self.asked_ns = 0
        self.hang: Hang | None = None
        self.answered = False

    def ask(self, now_ns: int) -> bool:
        """True once a question is under way. False while a child that hung is still there. OSError when no child can be
        started; nothing is left of the attempt."""
        if self.pid and self.fd < 0:
            self._reap()
        if self.pid and self.fd < 0:
            return False
        if not self.pid:
            self._start()
        if not self.asked_ns:
            try:
                os.write(self._request, b"?")
            except BrokenPipeError:  # it ended after its last answer, as it does when the driver was replaced
                self.close()
                return self.ask(now_ns)
            self.asked_ns = now_ns
        return True

    def _start(self) -> None:
        ends: list[int] = []
        try:
            ends += os.pipe2(os.O_CLOEXEC)
            ends += os.pipe2(os.O_CLOEXEC)
            pid = os.fork()
        except OSError:
            for end in ends:
                os.close(end)
            raise
        request_read, self._request, self.fd, answer_write = ends
        if pid == 0:
            _child(self._serve, request_read, answer_write)
        self.pid = pid
        os.set_blocking(self.fd, False)
        os.close(request_read)
        os.close(answer_write)
        self._buffer = b""
        self.answered = False

    def answers(self) -> list[Any]:
        """Whole answers that are there; `{"ended": true}` with what is missing once the child is gone without one. One
        that has answered may end, as it does when its library is stale: the next question starts another."""
        try:
            data = os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return []
        if not data or len(self._buffer) > _LONGEST_ANSWER:
            silent = bool(self.asked_ns) and not self.answered
            self.close()
            return [{"ended": True, **_ENDED.as_json()}] if silent else []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if lines:
            self.asked_ns, self.hang, self.answered = 0, None, True
        return [json.loads(line) for line in lines]

    def expire(self, now_ns: int, deadline_s: float) -> Hang | None:
        """The Hang, once, when the answer is overdue; the child is left behind."""
        waited_s = (now_ns - self.asked_ns) / 1e9
        if not self.asked_ns or waited_s < deadline_s:
            return None
        self.hang = Hang(self.pid, *_where(self.pid), waited_s)
        self._leave()
        return self.hang

    def _leave(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.fd)
        os.close(self._request)
        self.fd = self._request = -1
        self.asked_ns = 0
        self._reap()

    def _reap(self) -> None:
        if os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0

    def gone(self) -> bool:
        """Whether a child that was left is; asks again until it is."""
        if self.pid:
            self._reap()
        return not self.pid

    def close(self) -> None:
        """Ends the child; one that cannot be ended is left to init."""
        if self.pid and self.fd >= 0:
            self._leave()
        if self.pid:
            self._reap()


def _where(pid: int) -> tuple[str, str]:
    """State and wait channel; `?` for what cannot be read."""
    stat = procfs.stat(pid)
    try:
        wchan = procfs.read_file(f"/proc/{pid}/wchan", once=True).decode("ascii", "replace") or "?"
    except OSError:
        wchan = "?"
    return ("?" if isinstance(stat, Missing) else stat.value.state), wchan


def _child(serve: Serve, request: int, answer: int) -> None:
    """Never returns: a fork must not run its parent's clean-up."""
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        high = os.dup(answer)
        os.dup2(request, 3)
        os.dup2(high, 4)
        os.closerange(_FIRST_FREE_FD, _MOST_FDS)
        gc.freeze()  # what came from the parent is not looked through, nor copied, again and again
        serve(3, 4)
        code = 0
    finally:
        os._exit(code)


def tell(fd: int, document: Any) -> None:
    write_all(fd, json.dumps(document).encode() + b"\n")


def _failure(error: NvmlError) -> dict[str, Any]:
    return {"error": error.code, **error.as_missing().as_json()}


def serve_inventory(request: int, answer: int) -> None:
    try:
        nvml = Nvml(LIBRARY)
    except NvmlError as error:
        if os.read(request, 1):
            tell(answer, _failure(error))
        return
    while os.read(request, 1):
        try:
            tell(answer, {"count": nvml.count(), "driver": nvml.driver_version()})
        except NvmlError as error:
            tell(answer, _failure(error))
            return


def serve_gpu(index: int) -> Serve:
    """Answers with the GPU's snapshot. It ends after an answer that only a new process could better."""

    def serve(request: int, answer: int) -> None:
        opened = None
        while os.read(request, 1):
            try:
                if opened is None:
                    nvml = Nvml(LIBRARY)
                    device = nvml.device(index)
                    opened = nvml, nvml.identity(index, device), device
                tell(answer, {"snapshot": snapshot_as_json(snapshot(*opened))})
                if _stale(opened[0], opened[2]):
                    return
            except NvmlError as error:
                tell(answer, _failure(error))
                return

    return serve


def _stale(nvml: Nvml, device: Any) -> bool:
    try:
        nvml.unsigned("nvmlDeviceGetIndex", device)
    except NvmlError as error:
        return error.code in STALE_CODES
    return False


def serve_events(request: int, answer: int) -> None:
    """Tells how many GPUs it follows, then each Xid event as it comes. Ends, saying why, when the driver has no events
    or is replaced; after a minute when it could not follow all, so that the next one tries."""
    try:
        events = EventSet(Nvml(LIBRARY))
        tell(answer, {"followed": events.followed, "missed": sorted(events.missed)})
        end_s = time.monotonic() + _TRY_ALL_S if events.missed else math.inf
        while time.monotonic() < end_s and (not select.select([request], [], [], 0)[0] or os.read(request, 64)):
            event = events.wait(_EVENT_WAIT_MS)
            if event is not None:
                tell(answer, {"index": event.index, "type": event.type, "data": event.data, "mig": event.mig})
    except NvmlError as error:
        tell(answer, _failure(error))
