"""Latency as who asks feels it: requests to services of this host, and how long the head of each answer took.

A child of the recorder asks, with a thread for each service, so that a slow one delays nobody else and neither threads
nor an HTTP client stay in the recorder's memory. It ends by itself when nobody reads its answers any more.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from osremed.core.errors import BadInput
from osremed.core.record import record

MOST_PROBES = 8
TIMEOUT_S = 5.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_URL = re.compile(r"(https?)://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?(/[!-~]*)?")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")  # as a resolver takes it: labels of 1 to 63
_RANGES = {"every_s": (0.1, 3600.0), "slow_ms": (0.1, 1000 * TIMEOUT_S)}
_PIPE_BYTES = 1 << 16
_MOST_FDS = 4096
_HINT = "probes: [{name: web, url: 'http://127.0.0.1:8080/health', every_s: 1, slow_ms: 50}]"


@record
class Probe:
    """Asked each `every_s`. Slow is what takes `slow_ms`; 0: far longer than usual."""

    name: str
    url: str
    every_s: float = 1.0
    slow_ms: float = 0.0


class Answer(NamedTuple):
    """Asked at `at_ns` (wall time). `error` says why nobody answered, "" when somebody did; no answer in time is one
    that took TIMEOUT_S."""

    name: str
    at_ns: int
    took_s: float
    error: str


def parse_probes(rows: Any, where: str) -> tuple[Probe, ...]:
    """BadInput names the key."""
    if not isinstance(rows, list) or len(rows) > MOST_PROBES or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"probes is not a list of {MOST_PROBES} objects at most", where=where, hint=_HINT)
    found = tuple(_probe(row, f"probes[{at}]", where) for at, row in enumerate(rows))
    if len({each.name for each in found}) < len(found):
        raise BadInput("two probes have one name", where=where, hint="name each once")
    return found


def _probe(row: dict[str, Any], at: str, where: str) -> Probe:
    for key, value in row.items():
        lowest, highest = _RANGES.get(key, (0.0, 0.0))
        if key in ("name", "url"):
            pattern = _NAME if key == "name" else _URL
            sound = isinstance(value, str) and pattern.fullmatch(value) is not None
        else:
            sound = isinstance(value, (int, float)) and not isinstance(value, bool) and lowest <= value <= highest
        if key not in ("name", "url", *_RANGES) or not sound:
            raise BadInput(f"{at}.{key} is {value!r}", where=where, hint=_HINT)
    if "name" not in row or "url" not in row:
        raise BadInput(f"{at} needs a name and a url", where=where, hint=_HINT)
    _check_can_be_asked(row["url"], f"{at}.url", where)
    return Probe(**row)


def _check_can_be_asked(url: str, at: str, where: str) -> None:
    """BadInput for a port or a host that no socket takes: it would end the thread that asks, not just the question."""
    match = _URL.fullmatch(url)
    assert match is not None
    _scheme, host, port, _path = match.groups()
    if port and not 1 <= int(port) <= 65535:
        raise BadInput(f"{at} has port {port}", where=where, hint="a port is from 1 to 65535")
    if host.startswith("["):
        import socket  # noqa: PLC0415  memory of the recorder

        try:
            socket.inet_pton(socket.AF_INET6, host[1:-1])
        except OSError:
            raise BadInput(f"{at}: {host} is no IPv6 address", where=where, hint="such as [::1]") from None
    elif _HOST.fullmatch(host) is None:
        hint = "parts of 1 to 63 letters, digits and hyphens with dots between, such as web.example"
        raise BadInput(f"{at}: {host[:80]!r} is no name of a host", where=where, hint=hint)


class Prober:
    """The child, while there is something to ask. `answers` are those since the last call."""

    def __init__(self) -> None:
        self._probes: tuple[Probe, ...] = ()
        self._child = 0
        self._reader = -1
        self._rest = b""

    def ask(self, probes: tuple[Probe, ...]) -> bool:
        """These from now on. False when they are the same as before."""
        if probes == self._probes:
            return False
        self.close()
        self._probes = probes
        if probes:
            self._begin()
        return True

    def answers(self) -> list[Answer]:
        if self._reader < 0:
            if self._probes:  # it could not begin
                self._begin()
            return []
        try:
            data = os.read(self._reader, _PIPE_BYTES)
        except BlockingIOError:
            return []
        if not data:  # it ended, which it does not of its own will
            probes, self._probes = self._probes, ()
            self.close()
            self.ask(probes)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [Answer(*json.loads(line)) for line in lines]

    def close(self) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            os.close(self._reader)
        self._child, self._reader, self._rest, self._probes = 0, -1, b"", ()

    def _begin(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._child = os.fork()
        except OSError:  # no process more for now: `answers` tries again
            os.close(reader)
            os.close(writer)
            return
        self._reader = reader
        if self._child == 0:
            _serve(self._probes, writer)
        os.close(writer)


def _serve(probes: Sequence[Probe], writer: int) -> None:
    """In the child. Does not return."""
    import threading  # noqa: PLC0415

    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL if number != signal.SIGHUP else signal.SIG_IGN)
    os.dup2(writer, 3)  # the recorder's lock and programs must not outlive it here
    os.closerange(4, _MOST_FDS)
    for probe in probes:
        threading.Thread(target=_ask_forever, args=(probe, 3), daemon=True).start()
    while True:
        signal.pause()


def _ask_forever(probe: Probe, writer: int) -> None:
    next_s = time.monotonic()
    while True:
        line = json.dumps(ask(probe)).encode() + b"\n"  # shorter than PIPE_BUF: whole, or not at all
        try:
            os.write(writer, line)
        except BlockingIOError:
            pass  # nobody has read for an hour: the oldest answers are as good as these
        except OSError:
            os._exit(0)
        next_s = max(next_s + probe.every_s, time.monotonic())
        time.sleep(next_s - time.monotonic() if next_s > time.monotonic() else 0)


def ask(probe: Probe) -> Answer:
    """One request on a connection of its own, as a new client makes it; until the head of the answer is there."""
    import http.client  # noqa: PLC0415  two megabytes

    match = _URL.fullmatch(probe.url)
    assert match is not None
    scheme, host, port, path = match.groups()
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host.strip("[]"), int(port) if port else None, timeout=TIMEOUT_S)
    at_ns, began_s, error = time.time_ns(), time.monotonic(), ""
    try:
        connection.request("GET", path or "/", headers={"User-Agent": "osremed-hotspot"})
        status = connection.getresponse().status
        error = f"status {status}" if status >= 500 else ""
    except (OSError, http.client.HTTPException) as problem:
        error = str(problem)[:200] or type(problem).__name__
    finally:
        connection.close()
    return Answer(probe.name, at_ns, min(time.monotonic() - began_s, TIMEOUT_S), error)
