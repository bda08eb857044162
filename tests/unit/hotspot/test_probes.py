"""Services are asked how fast they are, and an answer that is late beside the others is told once."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.hotspot.jitter import AnswerJitter
from osremed.hotspot.probes import TIMEOUT_S, Answer, Probe, Prober, ask, parse_probes

WEB = Probe("web", "http://127.0.0.1:1/")
SECOND_NS = 10**9


@pytest.fixture
def service() -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/broken" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url(server: ThreadingHTTPServer, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def after(*taken_s: float, probe: Probe = WEB, error: str = "") -> list[int]:
    """Which of these answers, one a second, are told."""
    jitter = AnswerJitter()
    answers = [Answer("web", at * SECOND_NS + 10**18, took, error) for at, took in enumerate(taken_s)]
    return [at for at, answer in enumerate(answers) if jitter.answer(answer, probe) is not None]


def test_an_answer_far_later_than_usual_is_told_once_a_minute():
    assert after(*[0.01] * 20, 0.3, 0.3, *[0.01] * 60, 0.3) == [20, 82]


def test_a_clock_that_is_set_back_silences_nobody():
    jitter, limited = AnswerJitter(), Probe("web", WEB.url, slow_ms=50)
    late = [Answer("web", at * SECOND_NS, 0.3, "") for at in (7200, 3600, 3601)]
    assert [jitter.answer(each, limited) is not None for each in late] == [True, True, False]


def test_without_a_history_nothing_is_unusual():
    assert after(0.3, *[0.01] * 5, 0.3) == []


def test_what_nobody_would_feel_is_not_told():
    assert after(*[0.0005] * 20, 0.015) == []


def test_a_limit_of_the_policy_counts_from_the_first_answer():
    limited = Probe("web", WEB.url, slow_ms=50)
    assert after(0.049, 0.051, probe=limited) == [1]


def test_who_refuses_is_not_slow_and_who_never_answers_is():
    assert after(*[0.01] * 20, 0.4, error="refused") == []
    assert after(*[TIMEOUT_S], probe=Probe("web", WEB.url, slow_ms=50), error="timed out") == [0]


def test_who_refuses_is_named_with_why_until_it_answers():
    jitter = AnswerJitter()
    jitter.answer(Answer("web", SECOND_NS, 0.001, "refused"), WEB)
    assert jitter.document()["web"] == {"usual_s": 0.0, "answers": 0, "error": "refused"}
    jitter.answer(Answer("web", 2 * SECOND_NS, 0.001, ""), WEB)
    assert jitter.document()["web"]["error"] == ""


def test_the_event_names_the_second_the_service_and_what_is_usual():
    jitter = AnswerJitter()
    for at in range(100, 120):
        jitter.answer(Answer("web", at * SECOND_NS, 0.01, ""), WEB)
    told = jitter.answer(Answer("web", 120 * SECOND_NS, 2.0, ""), WEB)
    assert (told["second_ns"], told["source"], told["worst"]) == (121 * SECOND_NS, "probe", "web")
    assert told["signs"][0]["usual"] == 0.01
    assert jitter.document()["web"]["answers"] == 21


def test_an_answer_is_timed_and_one_that_is_none_says_why(service):
    good, broken = ask(Probe("web", url(service))), ask(Probe("web", url(service, "/broken")))
    refused = ask(WEB)
    assert (good.error, 0 < good.took_s < TIMEOUT_S) == ("", True)
    assert broken.error == "status 503"
    assert "refused" in refused.error


def test_services_are_asked_again_and_again_until_the_policy_says_otherwise(service):
    prober = Prober()

    def names(count: int) -> set[str]:
        found: list[Answer] = []
        deadline = time.monotonic() + 30
        while len(found) < count:
            assert time.monotonic() < deadline, found
            found += prober.answers()
            time.sleep(0.02)
        return {each.name for each in found if not each.error}

    try:
        web, other = Probe("web", url(service), every_s=0.1), Probe("other", url(service, "/x"), every_s=0.1)
        assert prober.ask((web, other))
        assert names(6) == {"web", "other"}
        assert not prober.ask((web, other))
        assert prober.ask((other,))
        assert names(4) == {"other"}
    finally:
        prober.close()
    assert prober.answers() == []


def test_services_are_asked_once_the_host_has_a_process_to_spare(service, monkeypatch):
    def no_process():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    prober = Prober()
    with monkeypatch.context() as full:
        full.setattr(os, "fork", no_process)
        prober.ask((Probe("web", url(service), every_s=0.1),))
        assert [prober.answers() for _ in range(50)] == [[]] * 50
    try:
        deadline = time.monotonic() + 60
        while not prober.answers():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        prober.close()


def test_a_probe_is_read_with_its_defaults():
    row = {"name": "web", "url": "https://[::1]:8443/health?deep=1", "slow_ms": 50}
    assert parse_probes([row], "policy") == (Probe("web", row["url"], 1.0, 50),)


@pytest.mark.parametrize(
    "rows",
    [
        {},
        [1],
        [{"name": "web"}],
        [{"name": "web", "url": WEB.url}] * 2,
        [{"name": f"w{at}", "url": WEB.url} for at in range(9)],
        [{"name": "a b", "url": WEB.url}],
        [{"name": "web", "url": "file:///etc/passwd"}],
        [{"name": "web", "url": "http://host/a b"}],
        [{"name": "web", "url": "http://user:secret@host/"}],
        [{"name": "web", "url": WEB.url, "every_s": 0}],
        [{"name": "web", "url": WEB.url, "slow_ms": True}],
        [{"name": "web", "url": WEB.url, "often": 1}],
    ],
)
def test_a_probe_that_makes_no_sense_is_refused(rows):
    with pytest.raises(BadInput, match="probe"):
        parse_probes(rows, "policy")


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("http://127.0.0.1:65536/", "65535"),
        ("http://127.0.0.1:99999/health", "65535"),
        ("http://127.0.0.1:0/", "65535"),
        ("http://a..b/", "dots"),
        (f"http://{'a' * 64}.example/", "63"),
        (f"http://{'a.' * 127}example/", "63"),
        ("http://[::::]/", "::1"),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused_with_its_place_and_what_is_expected(address, hint):
    with pytest.raises(BadInput) as caught:
        parse_probes([{"name": "web", "url": WEB.url}, {"name": "odd", "url": address}], "/etc/osremed/hotspot.json")
    assert caught.value.where == "/etc/osremed/hotspot.json"
    assert "probes[1].url" in caught.value.what
    assert hint in caught.value.hint


@given(
    st.from_regex(
        r"https?://([A-Za-z0-9.-]{1,80}|\[[0-9a-fA-F:.]{1,40}\])(:[0-9]{1,5})?(/[!-~]{0,20})?", fullmatch=True
    )
)
def test_an_address_that_was_taken_has_a_host_and_a_port_that_sockets_take(address):
    try:
        (probe,) = parse_probes([{"name": "web", "url": address}], "policy")
    except BadInput:
        return
    parts = urlsplit(probe.url)
    assert parts.port is None or 0 < parts.port < 1 << 16
    parts.hostname.encode("idna")  # what getaddrinfo does with a name first


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("name", "url", "every_s", "slow_ms", "x")), inner, max_size=4)
    ),
)


@given(JSON)
def test_any_document_is_read_or_refused(document):
    try:
        found = parse_probes(json.loads(json.dumps(document)), "policy")
    except BadInput:
        return
    assert all(0.1 <= each.every_s <= 3600 for each in found)
