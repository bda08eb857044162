"""The guard's own footing: pages locked, priority, service manager, descriptors, and proof that its weapon works.

Each step says what it got: "yes", or why not. None is needed to guard; all are needed to guard well.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import time

from osremed.core.reading import Missing, Value
from osremed.fastoom import kill
from osremed.fastoom.model import Candidate, Process, Thresholds
from osremed.sensors import process, procfs

try:
    import _socket as socket  # the module around it is 1 MB resident
except ImportError:  # pragma: no cover  an interpreter without the private name
    import socket  # type: ignore[no-redef]

_DESCRIPTORS = 8192
_TEST_S = 5.0


def lock_memory() -> str:
    """Pins what was touched so far and freezes it for the garbage collector."""
    gc.collect()
    gc.freeze()
    process.return_free_memory()
    failure = process.lock_memory()
    return "yes" if failure is None else str(failure)


def raise_priority() -> str:
    """Real-time round robin, not inherited; else the best nice value that is allowed, and why no better."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        return "yes"
    except OSError as error:
        why = error.strerror
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        return f"nice -20 only: {why}"
    except OSError:
        return f"no: {why}"


def raise_descriptor_limit() -> None:
    """A batch holds one descriptor for each victim. No more than the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def self_test() -> str:
    """Ends a child of its own the way it would end a victim: pidfd, start time, SIGKILL, wait, release. "yes", or what
    did not work. The child does nothing, and ends by itself if the guard dies first."""
    pid = os.fork()
    if pid == 0:
        time.sleep(2 * _TEST_S)
        os._exit(0)
    try:
        return _end(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _end(pid: int) -> str:
    stat = procfs.stat(pid)
    if isinstance(stat, Missing):
        return str(stat)
    victim = Process(pid, stat.value.start_time_ticks, "self-test", Value(()), 0, 0)
    shots, lost = kill.aim([Candidate(victim, 0, "self-test")], {pid})
    if not shots:
        return lost[0].why
    try:
        now_ns = time.monotonic_ns()
        flight = kill.fire(shots, _TEST_THRESHOLDS, now_ns=now_ns, urgent=True)
        while not kill.follow(flight, now_ns=time.monotonic_ns(), urgent=True):
            process.wait_exited([shots[0].pidfd], 0.05)
        if flight.refused:
            return flight.refused[0].why
        return "yes" if shots[0].gone else f"a child outlived SIGKILL by {_TEST_S:g} s"
    finally:
        kill.close(shots)


_TEST_THRESHOLDS = Thresholds(0.1, 0.1, 0.2, 0.2, grace_s=0.0, deadline_s=_TEST_S)


def send_datagram(address: str, data: bytes) -> None:
    """To a socket of this host, if somebody listens and has room. Never waits, never raises: the next one will tell."""
    try:
        door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError:
        return
    try:
        door.setblocking(False)
        door.sendto(data, address)
    except OSError:
        return
    finally:
        door.close()


class ServiceManager:
    """sd_notify(3), and nothing when nobody listens."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self.address = "\0" + address[1:] if address.startswith("@") else address
        self.period_ns = self._period_ns()
        self.due_ns = 0

    @staticmethod
    def _period_ns() -> int:
        """Half of the time after which the manager gives the guard up; 0 when it does not watch."""
        wanted = os.environ.get("WATCHDOG_USEC", "")
        for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return int(wanted) * 500 if for_us and wanted.isdigit() and len(wanted) < 16 else 0

    def tell(self, *lines: str) -> None:
        if self.address:
            send_datagram(self.address, "\n".join(lines).encode("utf-8", "replace"))

    def alive(self, now_ns: int) -> None:
        """Tells that the loop goes round, as often as is asked for."""
        if self.period_ns and now_ns >= self.due_ns:
            self.due_ns = now_ns + self.period_ns
            self.tell("WATCHDOG=1")
