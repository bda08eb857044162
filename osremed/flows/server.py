"""A Prefect server as a child process, and the one question asked of any Prefect: are you up?"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from osremed.core.errors import Unavailable
from osremed.core.record import record
from osremed.flows.settings import prefect_environment

#: A new SQLite database needs 12-16 s on two quiet cores, twice that under load.
START_TIMEOUT_S = 120.0


@record
class Server:
    """A running Prefect server. `ui_url` is for people, `api_url` for clients."""

    process: subprocess.Popen[bytes]
    port: int
    log_path: str

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def prefect_is_up(api_url: str, *, timeout_s: float = 2.0) -> bool:
    """True if the server answers its health check; anything else is False."""
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=timeout_s) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == 200)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def start_server(home: str, *, port: int = 0, timeout_s: float = START_TIMEOUT_S) -> Server:
    """A healthy server on loopback with SQLite in `home`. Unavailable, with the end of its log, if it does not come up.

    The caller ends it with `stop_server`."""
    os.makedirs(home, mode=0o700, exist_ok=True)
    log_path = os.path.join(home, "server.log")
    port = port or free_port()
    command = [sys.executable, "-m", "osremed.flows.prefect_process", "server", "start"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **prefect_environment(home)},
            start_new_session=True,
        )
    server = Server(process, port, log_path)
    deadline = time.monotonic() + timeout_s
    up = False
    try:
        while not up and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
            up = prefect_is_up(server.api_url)
    finally:  # also when the wait is interrupted
        if not up:
            stop_server(server)
    if up:
        return server
    with open(log_path, "rb") as log:
        tail = log.read()[-2000:].decode("utf-8", "replace")
    raise Unavailable(f"the Prefect server did not start:\n{tail}", where=log_path)


def stop_server(server: Server, *, timeout_s: float = 20.0) -> None:
    """Ends the server's process group (it has children): SIGINT, and SIGKILL after `timeout_s`."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(server.process.pid, number)
        except ProcessLookupError:
            break
        try:
            server.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            continue
        break
    server.process.wait(timeout_s)
