"""The place of a story: its state folder, its processes, its control group; and its way back to nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from osremed.core.errors import OsremedError, Unavailable
from osremed.core.language import said
from osremed.core.reading import Missing
from osremed.sensors import cgroup
from osremed.sensors.bpf import features

T = TypeVar("T")
_END_TIMEOUT_S = 15.0
_LAST_WORDS_BYTES = 2000


def say(text: str) -> None:
    """One line of progress, for the person who watches."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {said(text)}\n")
    sys.stderr.flush()


def require(what: str, *, bpf: bool = False, hint: str = "run as root") -> None:
    """Unavailable, before anything is begun, without root, or without BPF if the story needs it."""
    if os.geteuid() != 0:
        raise Unavailable(f"the story needs {what}, so it needs root", hint=hint)
    able = features.features() if bpf else None
    if isinstance(able, Missing):
        raise Unavailable(f"the story needs BPF: {able}", hint="osremed doctor says what works here")


class Place:
    """Starts processes and makes control groups, and remembers them. `close` ends each process by its pid and removes
    the groups."""

    def __init__(self, state: str) -> None:
        self.state = os.path.abspath(state)
        self.logs = os.path.join(self.state, "logs")
        os.makedirs(self.logs, mode=0o700, exist_ok=True)
        hierarchy = cgroup.memory_hierarchy()
        if isinstance(hierarchy, Missing):
            hint = "mount cgroup v2 with the memory controller, or the v1 memory controller"
            raise Unavailable(f"no memory control groups: {hierarchy}", hint=hint)
        self._hierarchy = hierarchy.value
        self._groups: list[cgroup.Group] = []
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def make_group(self, path: str, limit_bytes: int) -> cgroup.Group:
        """A new control group with a memory limit."""
        self._groups.append(cgroup.create(self._hierarchy, path, limit_bytes))
        return self._groups[-1]

    def start(self, name: str, argv: Sequence[str], *, inside: cgroup.Group | None = None) -> subprocess.Popen[bytes]:
        """A child with its output in logs/NAME.log; `inside` a control group from its first instruction on."""
        if inside:
            tasks = os.path.join(inside.directory, "cgroup.procs")
            argv = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', tasks, *argv]
        with open(os.path.join(self.logs, f"{name}.log"), "ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append((name, process))
        return process

    def is_alive(self, name: str) -> bool:
        return any(each == name and process.poll() is None for each, process in self._processes)

    def wait_for(self, what: str, condition: Callable[[], T | None], timeout_s: float, *needs: str) -> T:
        """As `wait_for` below; OsremedError at once, with its last words, when a process named in `needs` has ended."""
        return wait_for(what, condition, timeout_s, lambda: self._check(what, needs))

    def _check(self, what: str, needs: Sequence[str]) -> None:
        newest = dict(self._processes)
        for name in needs:
            process = newest[name]
            if process.poll() is not None:
                log = os.path.join(self.logs, f"{name}.log")
                raise OsremedError(f"{what}: {name} ended with {process.returncode}:\n{_last_words(log)}", where=log)

    def end(self, prefix: str) -> None:
        """Ends the processes whose name begins with `prefix`, newest first: TERM, a bounded wait, KILL."""
        for name, process in reversed(self._processes):
            if name.startswith(prefix):
                _end(name, process)

    def close(self) -> None:
        self.end("")
        for group in self._groups:
            cgroup.remove(group)


def _end(name: str, process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT_S)
    if process.poll() is None:
        say(f"{name} (pid {process.pid}) does not end")


def _last_words(log: str) -> str:
    with open(log, "rb") as stream:
        stream.seek(max(0, os.path.getsize(log) - _LAST_WORDS_BYTES))
        return stream.read().decode("utf-8", "replace").strip() or "without a word"


def wait_for(
    what: str, condition: Callable[[], T | None], timeout_s: float, check: Callable[[], None] = lambda: None
) -> T:
    """The first answer that is not None or False. OsremedError naming `what` when there is none in time; `check` raises
    when there will be none."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        check()
        time.sleep(0.05)
    raise OsremedError(f"{what}: not within {timeout_s:g} s", hint="see the logs in the state folder")


@contextlib.contextmanager
def open_place(state: str) -> Iterator[Place]:
    place = Place(state)
    try:
        yield place
    finally:
        place.close()
