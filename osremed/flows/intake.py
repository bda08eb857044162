"""The intake: hosts hand in events over HTTP and may forget them once acknowledged, for then they are on disk here.

`POST /v1/events` with a bearer token and `{"events": [...]}` answers `{"acked": [ids], "refused": [{"id", "why"}]}`;
503 with Retry-After while events could not be turned into runs, so that they stay spooled on their hosts.
`POST /v1/alerts` takes the webhook of Prometheus' Alertmanager the same way.
"""

from __future__ import annotations

import hmac
import json
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from osremed.core.errors import BadInput
from osremed.core.event import Event, event_from_json
from osremed.core.files import read_bytes, write_atomic
from osremed.core.journal import Journal, read_journal, segment_starts
from osremed.flows.alerts import event_of
from osremed.flows.listening import problem

_MAX_BODY_BYTES = 1 << 20
_MAX_EVENTS = 500
_REMEMBERED_IDS = 100_000
_SEGMENTS, _SPARE_SEGMENTS = 64, 4  #: of a megabyte each; the oldest goes when one more begins
_AWAY = "Prefect does not answer; keep the events"
_BEHIND = "more events than the intake keeps wait to be decided; keep the events"


class Intake:
    """Accepts each event id once. `is_ready` says whether runs can be started now; `on_event` is told of each new one
    (sequence number, event) after it is on disk. `decided`: the number of the last event that need not be kept; without
    it none need."""

    def __init__(
        self,
        directory: str,
        is_ready: Callable[[], bool],
        on_event: Callable[[int, Event], None],
        decided: Callable[[], int] | None = None,
    ) -> None:
        self._journal = Journal(directory, max_segments=_SEGMENTS)
        self._is_ready, self._on_event, self._decided = is_ready, on_event, decided
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        for entry in read_journal(directory).entries[-_REMEMBERED_IDS:]:
            self._remember((str(entry.record.get("host")), str(entry.record.get("id"))))

    def _remember(self, event_key: tuple[str, str]) -> None:
        self._seen[event_key] = None
        if len(self._seen) > _REMEMBERED_IDS:
            self._seen.popitem(last=False)

    def why_not(self) -> str:
        """Why nothing is taken now; empty when it is. What was acknowledged, and is not decided, is never dropped for
        what is new: that stays on its host."""
        if not self._is_ready():
            return _AWAY
        starts = segment_starts(self._journal.directory)[_SPARE_SEGMENTS - _SEGMENTS :]
        full = len(starts) == _SEGMENTS - _SPARE_SEGMENTS
        return _BEHIND if self._decided and full and self._decided() + 1 < starts[0] else ""

    def accept(self, events: Sequence[Event]) -> None:
        """After return the events are on disk, after an OSError none of them is. One that was here is dropped."""
        new: dict[tuple[str, str], Event] = {}
        for event in events:
            if (event.host, event.id) not in self._seen:
                new.setdefault((event.host, event.id), event)
        if not new:
            return
        first = self._journal.append_all([event.as_json() for event in new.values()])
        for number, (key, event) in enumerate(new.items()):
            self._remember(key)
            self._on_event(first + number, event)

    def close(self) -> None:
        self._journal.close()


def ensure_token(path: str) -> str:
    """The token of the file, made (0600, 256 random bits) if there is none. BadInput if the file is empty."""
    if not os.path.exists(path):
        write_atomic(path, os.urandom(32).hex().encode() + b"\n", mode=0o600)
    token = read_bytes(path, limit_bytes=4096).decode("ascii", "replace").strip()
    if len(token) < 32:
        raise BadInput("the token is shorter than 32 characters", where=path, hint="delete the file to make a new one")
    return token


async def _body(request: Request) -> bytes | None:
    """The body, None above the limit: it is never read whole then."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _MAX_BODY_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _listed(body: bytes, key: str) -> list[Any]:
    try:
        events = json.loads(body)[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f'the body is not {{"{key}": [...]}}') from error
    if not isinstance(events, list) or len(events) > _MAX_EVENTS:
        raise BadInput(f"{key} must be a list of at most {_MAX_EVENTS}")
    return events


def intake_app(intake: Intake, token: str) -> Starlette:
    """The ASGI application. Every path but /v1/health needs the token."""
    expected = f"Bearer {token}".encode()

    def _taking(key: str, name_key: str, read: Callable[..., Event]) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def post(request: Request) -> JSONResponse:
            given = request.headers.get("authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, expected):
                return problem(401, "a bearer token is needed", **{"WWW-Authenticate": "Bearer"})
            if why := intake.why_not():
                return problem(503, why, **{"Retry-After": "1"})
            body = await _body(request)
            if body is None:
                return problem(413, f"at most {_MAX_BODY_BYTES} bytes")
            try:
                documents = _listed(body, key)
            except BadInput as error:
                return problem(422, error.what)
            return _accepted(intake, documents, key, name_key, read)

        return post

    async def health(_request: Request) -> JSONResponse:
        ready = not intake.why_not()
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    routes = [
        Route("/v1/events", _taking("events", "id", event_from_json), methods=["POST"]),
        Route("/v1/alerts", _taking("alerts", "fingerprint", event_of), methods=["POST"]),
        Route("/v1/health", health, methods=["GET"]),
    ]
    return Starlette(routes=routes)


def _accepted(
    intake: Intake, documents: list[Any], key: str, name_key: str, read: Callable[..., Event]
) -> JSONResponse:
    """What was taken and what was not; 507 if the disk takes nothing more: the sender keeps all of it."""
    good, refused = [], []
    for number, document in enumerate(documents):
        try:
            event = read(document, where=f"{key}[{number}]")
        except BadInput as error:
            name = document.get(name_key) if isinstance(document, dict) else None
            refused.append({"id": name, "why": str(error)})
            continue
        good.append(event)
    try:
        intake.accept(good)
    except OSError as error:
        return problem(507, f"the intake cannot store events: {error.strerror}", **{"Retry-After": "10"})
    return JSONResponse({"acked": [event.id for event in good], "refused": refused})
