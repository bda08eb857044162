"""Processes by pidfd: what is signalled is what was looked at. Plus the two calls Python has no name for.

pidfd_open and poll on it: Linux 5.3. process_mrelease: 5.15. Signalling others' processes needs CAP_KILL.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import time
from collections.abc import Collection

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.sensors import procfs

_SYS_PROCESS_MRELEASE = 448  # one number on all architectures but alpha
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_MADV_DONTNEED = 4
_libc = ctypes.CDLL(None, use_errno=True)


def open_verified(pid: int, start_time_ticks: int, root: str = procfs.PROC) -> Reading[int]:
    """A pidfd of exactly the process that had this pid and start time; the caller closes it.

    GONE when it ended, or when its pid now belongs to another. The start time is read after the pidfd is open: from
    then on the pid, if its process lives, cannot be anyone else's."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        source = f"pidfd_open({pid})"
        if error.errno == errno.EINVAL:  # no such thread group: a thread's id, or never a pid
            return Missing(Reason.GONE, source, "not a process")
        return missing_from_oserror(error, source)
    reading = procfs.stat(pid, root)
    if isinstance(reading, Value) and reading.value.start_time_ticks == start_time_ticks:
        return Value(pidfd)
    os.close(pidfd)
    if isinstance(reading, Missing):
        return reading
    return Missing(Reason.GONE, f"{root}/{pid}/stat", "the pid belongs to another process now")


def send(pidfd: int, signal_number: int) -> Missing | None:
    """None once the signal is queued; GONE when the process ended, DENIED without the right to signal it."""
    try:
        signal.pidfd_send_signal(pidfd, signal_number)
    except OSError as error:
        return missing_from_oserror(error, "pidfd_send_signal")
    return None


def hasten(pid: int) -> None:
    """Lets a process that was sent SIGKILL go before others: on a busy host its end would wait for its turn. Nothing
    without CAP_SYS_NICE, or when it is gone."""
    try:
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return


def wait_exited(pidfds: Collection[int], timeout_s: float) -> set[int]:
    """Those of `pidfds` whose processes have ended (all threads; memory released), once all have or `timeout_s`
    passed. 0 asks without waiting."""
    deadline = time.monotonic() + timeout_s
    poller = select.poll()
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    exited: set[int] = set()
    while True:
        rest_s = max(0.0, deadline - time.monotonic())
        for pidfd, _events in poller.poll(rest_s * 1000):
            poller.unregister(pidfd)
            exited.add(pidfd)
        if rest_s == 0 or len(exited) == len(set(pidfds)):
            return exited


def release_memory(pidfd: int) -> Missing | None:
    """Frees private anonymous memory of a process that was sent SIGKILL, in the caller's time; needed when the victim
    is frozen or starved of CPU. None when done or when there is nothing left to free. TIMED_OUT: try again.
    UNSUPPORTED before Linux 5.15, and while the process is not dying (it only got SIGTERM)."""
    if _libc.syscall(ctypes.c_long(_SYS_PROCESS_MRELEASE), ctypes.c_int(pidfd), ctypes.c_uint(0)) == 0:
        return None
    code = ctypes.get_errno()
    if code == errno.ESRCH:
        return None
    if code in (errno.EAGAIN, errno.EINTR):
        return Missing(Reason.TIMED_OUT, "process_mrelease", os.strerror(code))
    return missing_from_oserror(OSError(code, os.strerror(code)), "process_mrelease")


def can_release_memory() -> bool:
    """Whether the kernel has process_mrelease: it looks at the descriptor before anything else."""
    _libc.syscall(ctypes.c_long(_SYS_PROCESS_MRELEASE), ctypes.c_int(-1), ctypes.c_uint(0))
    return ctypes.get_errno() == errno.EBADF


def lock_memory() -> Missing | None:
    """Pins every page this process has touched, and those it touches from now on: what ran once runs again without the
    disk. Pages never touched stay out of memory (MCL_ONFAULT, Linux 4.4). DENIED or NO_DATA (over RLIMIT_MEMLOCK)
    without CAP_IPC_LOCK."""
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0:
        return None
    code = ctypes.get_errno()
    return missing_from_oserror(OSError(code, os.strerror(code)), "mlockall")


def forget_code() -> None:
    """Takes the pages of program code out of this process: those that run again come back, from the page cache, and
    what only the start needed does not. Before `lock_memory`; code is never written to, so nothing is lost
    (madvise(2), MADV_DONTNEED). Nothing where /proc/self/maps cannot be read."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as stream:
            lines = stream.readlines()
    except OSError:
        return
    for line in lines:
        where, permissions, _offset, _device, inode = line.split(None, 5)[:5]
        if permissions == "r-xp" and inode != "0":
            begin, end = (int(each, 16) for each in where.split("-"))
            _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(_MADV_DONTNEED))


def return_free_memory() -> None:
    """Gives the C library's free pages back to the kernel; nothing where the library cannot."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
