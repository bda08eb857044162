"""One real Prefect server (SQLite, loopback) for the tests of this folder, and a dispatcher in a thread of its own."""

import asyncio
import json
import os
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from osremed.flows.server import start_server, stop_server
from osremed.flows.settings import prefect_environment


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    home = str(tmp_path_factory.mktemp("prefect"))
    server = start_server(home)
    os.environ.update(prefect_environment(home, api_url=server.api_url))
    yield server
    stop_server(server)


def post(url, body, token):
    """(status, document) of a POST."""
    request = urllib.request.Request(url, data=json.dumps(body).encode(), method="POST")
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def wait_for(condition, timeout_s=60.0):
    """The first true answer of `condition`, asked until then."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s")


class RunningDispatcher:
    """A dispatcher in a thread with its own loop, stopped by cancelling, as a process would be by SIGTERM."""

    def __init__(self, settings, operator, publish):
        from osremed.flows.dispatcher import Dispatcher
        from osremed.flows.intake import ensure_token
        from osremed.flows.leading import leading

        os.makedirs(settings.paths.state, exist_ok=True)
        self.token = ensure_token(settings.paths.token)
        self.url = f"http://127.0.0.1:{settings.listen_port}/v1/events"
        self._held = ExitStack()
        lead = self._held.enter_context(leading(settings.paths.lock, standby=False))
        self.dispatcher = Dispatcher(settings, operator, publish, lambda: None, lead)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self):
        asyncio.set_event_loop(self._loop)
        with self._held:
            self._loop.run_until_complete(self.dispatcher.serve_until(self._stop))

    def send(self, *events):
        return post(self.url, {"events": list(events)}, self.token)

    def wait_ready(self):
        def ready():
            try:
                with urllib.request.urlopen(self.url.replace("events", "health"), timeout=5) as answer:
                    return answer.status == 200
            except OSError:
                return False

        wait_for(ready, 120)
        return self

    def stop(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()
