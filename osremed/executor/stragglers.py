"""Ends what a call left running on this machine. ansible-playbook's workers have sessions of their own, so killing its
process group is not enough: each call puts its directory into the environment, and who carries that mark is ours. A
process that was forked without one (a warm ansible-playbook) works in that directory."""

from __future__ import annotations

import os
import signal
import time

MARK = "OSREMED_CALL_DIRECTORY"
#: The same on a host that is reached over a network, where the value is the call's name.
CALL_MARK = "OSREMED_CALL"


def marked_processes(directory: str, mark: str = MARK) -> tuple[int, ...]:
    """Pids of the processes that calls in or below `directory` started, and of their children. Processes of other users
    cannot be read and are not ours."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return tuple(pid for pid in pids if pid != os.getpid() and _is_marked(pid, directory, mark))


def _is_marked(pid: int, directory: str, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            entries = stream.read().split(b"\0")
        works_in = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False
    exact = f"{mark}={directory}".encode()
    marked = any(entry == exact or entry.startswith(exact + b"/") for entry in entries)
    return marked or works_in == directory or works_in.startswith(f"{directory}/")


def end_marked(directory: str, *, within_s: float = 5.0, mark: str = MARK) -> int:
    """SIGKILLs marked processes until none is left; how many there were. Gives up after `within_s`."""
    ended: set[int] = set()
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        alive = marked_processes(directory, mark)
        if not alive:
            break
        ended.update(pid for pid in alive if _kill(pid, directory, mark))
        time.sleep(0.02)
    return len(ended)


def _kill(pid: int, directory: str, mark: str) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Looked at again with the process held, so that a number given to someone else is not hit.
        if not _is_marked(pid, directory, mark):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def owner_name() -> str:
    """Names this process for ever: pid and start time (field 22 of /proc/PID/stat)."""
    return f"{os.getpid()}.{_start_ticks(os.getpid())}"


def owner_lives(name: str) -> bool:
    pid, _, ticks = name.partition(".")
    return pid.isdigit() and ticks.isdigit() and _start_ticks(int(pid)) == int(ticks)


def _start_ticks(pid: int) -> int:
    """-1 if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            text = stream.read()
    except OSError:
        return -1
    return int(text[text.rindex(b")") + 2 :].split()[19])
