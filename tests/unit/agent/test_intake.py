"""What an answer means, header by header."""

from __future__ import annotations

import pytest

from osremed.agent.config import parse_endpoint
from osremed.agent.intake import Result, parse_retry_after, post, understand


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        ("-7", 0),
        ("soon", 0),
        ("9" * 50, 999_999_999),
        ("Thu, 01 Jan 1970 00:16:40 GMT", 100),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("٣", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert parse_retry_after(value, now_s=900) == seconds


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (401, Result.UNAUTHORIZED),
        (403, Result.UNAUTHORIZED),
        (400, Result.UNFIT),
        (413, Result.UNFIT),
        (422, Result.UNFIT),
        *[(status, Result.UNAVAILABLE) for status in (201, 204, 301, 404, 405, 429, 500, 502, 503)],
    ],
)
def test_only_200_takes_events(status, result):
    delivery = understand(status, b'{"acked":["a"]}')
    assert delivery.result is result
    assert not delivery.acked
    assert str(status) in delivery.detail


def test_https_to_a_server_that_cannot_prove_itself_is_unavailable(intake):
    delivery = post(parse_endpoint(f"https://127.0.0.1:{intake.port}"), "t", b"{}", timeout_s=5)
    assert delivery.result is Result.UNAVAILABLE
    assert "SSL" in delivery.detail


def test_a_name_that_does_not_resolve_is_unavailable():
    delivery = post(parse_endpoint("https://no-such-host.invalid"), "t", b"{}", timeout_s=5)
    assert delivery.result is Result.UNAVAILABLE
