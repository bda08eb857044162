"""A P99 is that of a service as who asks feels it, and one that does not answer is not a fast one."""

from __future__ import annotations

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from osremed.agent import answers as module
from osremed.agent.answers import Asking, answers, p99_ratio, percentile
from osremed.core.errors import BadInput, NotFound
from osremed.core.reading import Missing, Reason, Value


class Handler(BaseHTTPRequestHandler):
    delay_s = 0.0
    status = 200

    def do_GET(self):
        time.sleep(type(self).delay_s)
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def web(paths, monkeypatch):
    """A service that the recorder's policy of this host names; its handler's class is what it does."""
    monkeypatch.setattr(Handler, "delay_s", 0.0)
    monkeypatch.setattr(Handler, "status", 200)
    monkeypatch.setattr(module, "_WINDOW_S", 2.0)
    begun = []
    monkeypatch.setattr(module, "Asking", lambda service: begun.append(Asking(service)) or begun[-1])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        name_probes(paths, [{"name": "web", "url": url}])
        yield Handler
        for asking in begun:
            asking.close()
        server.shutdown()


def name_probes(paths, probes):
    policy = {"apiVersion": "osremed/v1", "kind": "HotspotPolicy", "probes": probes}
    with open(os.path.join(os.path.dirname(paths.fastoom_policy), "hotspot.json"), "w") as stream:
        json.dump(policy, stream)


def last_of(ratio, timeout_s=20.0):
    """The first reading that is a value."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        reading = ratio()
        if isinstance(reading, Value):
            return reading.value
        time.sleep(0.05)
    raise AssertionError(reading)


def test_the_percentile_is_the_nearest_rank():
    assert [percentile(range(1, 101), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.99)


def test_every_service_of_the_policy_is_asked_and_told(web):
    web.delay_s = 0.05
    (row,) = answers(window_s=2)["services"]
    assert (row["service"], row["failed"]) == ("web", 0)
    assert row["answers"] >= 5
    assert 50 <= row["p50_ms"] <= row["p99_ms"] <= row["worst_ms"]


def test_without_a_policy_there_is_nothing_to_ask(paths):
    assert answers(window_s=1) == {"window_s": 1, "services": []}


def test_a_service_that_became_faster_has_a_small_ratio_and_one_that_did_not_has_not(web):
    web.delay_s = 0.3
    assert last_of(p99_ratio(service="web", of="0.1s")) >= 3
    web.delay_s = 0.0
    assert last_of(p99_ratio(service="web", of="5s")) < 0.5


def test_nothing_is_told_before_the_window_is_full(web):
    reading = p99_ratio(service="web", of="5s")()
    assert isinstance(reading, Missing)
    assert reading.reason is Reason.NO_DATA


def test_a_service_that_fails_is_the_slowest_there_is(web):
    web.status = 500
    assert last_of(p99_ratio(service="web", of="5s")) == 1.0


def test_requests_that_found_nobody_free_to_ask_count_as_given_up(web, monkeypatch):
    """One asker, a second for each answer: twelve requests a second are due."""
    monkeypatch.setattr(module, "_ASKERS", 1)
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    web.delay_s = 1.0
    (row,) = answers(window_s=4)["services"]
    assert row["answers"] > 20
    assert row["p50_ms"] == 500


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        ({"service": "shop", "of": "35ms"}, NotFound, "no service 'shop'"),
        ({"service": "web", "of": "35"}, BadInput, "no unit"),
        ({"service": "web", "of": "0ms"}, BadInput, "of is '0ms'"),
    ],
)
def test_what_cannot_be_compared_is_refused(web, arguments, error, what):
    with pytest.raises(error, match=what):
        p99_ratio(**arguments)
