"""A host in a temporary directory, and an intake that really listens."""

from __future__ import annotations

import http.server
import json
import os
import threading

import pytest

from osremed.agent.config import parse_endpoint
from osremed.agent.intake import post
from osremed.agent.ship import Shipper
from osremed.agent.spool import Spool
from osremed.core.clock import FakeClock
from osremed.core.journal import Journal
from osremed.core.log import Log
from osremed.core.paths import host_paths

TOKEN = "a-token"


def event(number, **attributes):
    document = {"id": f"e{number}", "name": "test.event", "host": "h", "time_ns": 1 + number}
    return {**document, "attributes": {"n": number, **attributes}}


class Intake:
    """Acknowledges everything unless `behave` says otherwise: a function of (handler, events) that answers itself."""

    def __init__(self):
        self.events, self.requests, self.behave, self.port = [], [], None, 0
        self.start()

    def start(self):
        intake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                events = json.loads(body)["events"]
                intake.requests.append((self.path, dict(self.headers), len(body), len(events)))
                if self.headers["Authorization"] != f"Bearer {TOKEN}":
                    self.answer(401, {"detail": "who are you?"})
                elif intake.behave is not None:
                    intake.behave(self, events)
                else:
                    self.take(events)

            def take(self, events):
                intake.events.extend(events)
                self.answer(200, {"acked": [each["id"] for each in events], "refused": []})

            def answer(self, status, document, **headers):
                data = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self):
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
            self.server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def unique(self):
        """Numbers of the events as a receiver that drops known ids sees them, in order of arrival."""
        return list(dict.fromkeys(each["attributes"]["n"] for each in self.events))


@pytest.fixture
def intake():
    server = Intake()
    yield server
    server.stop()


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path / "root"))
    found = host_paths()
    for directory in (found.events, found.undo, found.run, os.path.dirname(found.fastoom_policy)):
        os.makedirs(directory)
    return found


class Host:
    """A spool, a shipper and a clock that jumps: no test waits for a back-off."""

    def __init__(self, paths, intake):
        self.paths, self.intake, self.clock, self.token = paths, intake, FakeClock(), TOKEN
        self.state = os.path.join(os.path.dirname(paths.events), "agent")
        self.refused = None
        self.restart()

    def restart(self):
        if self.refused is not None:
            self.refused.close()
        log = Log("test")
        self.refused = Journal(os.path.join(self.state, "refused"))
        cursors = os.path.join(self.state, "cursors")
        self.spool = Spool([self.paths.events], self.paths.events, cursors, log)
        endpoint = parse_endpoint(self.intake.url)
        self.shipper = Shipper(
            self.spool, lambda body: post(endpoint, self.token, body, timeout_s=5), self.refused, self.clock, log
        )

    def write(self, numbers, journal="fastoom", **options):
        writer = Journal(os.path.join(self.paths.events, journal), **options)
        for number in numbers:
            writer.append(number if isinstance(number, dict) else event(number))
        writer.close()

    def run(self, until=None, *, steps=3000):
        """Steps until `until` holds (or nothing is spooled); the seconds that passed on the clock."""
        before = self.clock.monotonic_ns()
        for _ in range(steps):
            wait_s = self.shipper.step()
            if until() if until else not self.spool.spooled:
                return (self.clock.monotonic_ns() - before) / 1e9
            self.clock.advance(wait_s)
        raise AssertionError(f"not in {steps} steps; last error {self.shipper.last_error!r}")


@pytest.fixture
def host(paths, intake):
    made = Host(paths, intake)
    yield made
    made.refused.close()
