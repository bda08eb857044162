"""One HTTP POST to the intake, and what its answer means."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from osremed import __version__
from osremed.agent.config import Endpoint
from osremed.core.record import field, record

TIMEOUT_S = 10.0
_ANSWER_BYTES = 1 << 20
_DETAIL_CHARS = 200


class Result(Enum):
    TAKEN = "taken"  #: each event was acknowledged, refused, or left for later
    UNFIT = "unfit"  #: the batch as such was refused (400, 413, 422): smaller batches may pass
    UNAUTHORIZED = "unauthorized"
    UNAVAILABLE = "unavailable"


@record
class Delivery:
    """`refused`: event id -> why. `retry_after_s` is what the intake asked for, 0 if it did not."""

    result: Result
    acked: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""
    retry_after_s: float = 0.0


def post(endpoint: Endpoint, token: str, body: bytes, *, timeout_s: float = TIMEOUT_S) -> Delivery:
    """The intake's answer; a network that fails is UNAVAILABLE, never an exception. `timeout_s` bounds each wait on the
    socket. Redirects are not followed: they would hand the token to another place."""
    kind = http.client.HTTPSConnection if endpoint.https else http.client.HTTPConnection
    connection = kind(endpoint.host, endpoint.port, timeout=timeout_s)
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "User-Agent": f"osremed-agent/{__version__}",
    }
    try:
        connection.request("POST", endpoint.path, body, headers)
        response = connection.getresponse()
        data = response.read(_ANSWER_BYTES)  # a longer answer is cut and then not understood
        retry_after_s = parse_retry_after(response.getheader("Retry-After"), time.time())
        return understand(response.status, data, retry_after_s)
    except (OSError, http.client.HTTPException) as error:
        return Delivery(Result.UNAVAILABLE, detail=f"{type(error).__name__}: {error}"[:_DETAIL_CHARS])
    finally:
        connection.close()


def understand(status: int, data: bytes, retry_after_s: float = 0.0) -> Delivery:
    """Pure: status and body -> Delivery. An answer that is not the agreed one acknowledges nothing."""
    said = f"intake answered {status}: {data[:_DETAIL_CHARS].decode('utf-8', 'replace')}"
    if status == 200:
        return _taken(data)
    if status in (401, 403):
        return Delivery(Result.UNAUTHORIZED, detail=said, retry_after_s=retry_after_s)
    if status in (400, 413, 422):
        return Delivery(Result.UNFIT, detail=said)
    return Delivery(Result.UNAVAILABLE, detail=said, retry_after_s=retry_after_s)


def _taken(data: bytes) -> Delivery:
    try:
        document: Any = json.loads(data)
        acked = frozenset(_text(each) for each in document["acked"])
        refused = {_text(each["id"]): _text(each["why"]) for each in document.get("refused", ())}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Delivery(Result.UNAVAILABLE, detail=f"the intake's answer is not understood: {error!r}"[:_DETAIL_CHARS])
    return Delivery(Result.TAKEN, acked, refused)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not text: {value!r}")
    return value


def parse_retry_after(value: str | None, now_s: float) -> float:
    """Seconds from now of a Retry-After header: a number or an HTTP date. 0 when there is none or it is not one."""
    if not value:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_s)
    except (TypeError, ValueError, OverflowError):
        return 0.0
