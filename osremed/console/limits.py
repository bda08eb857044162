"""What one caller may take: size of a body, calls a second. And the headers every answer carries."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osremed.console.problems import problem

MAX_BODY_BYTES = 1 << 20
_KEPT_BUCKETS = 10_000
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Buckets:
    """Token buckets by name: `per_s` calls a second, `burst` at once. The least used names are forgotten."""

    def __init__(self, per_s: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._now = per_s, float(burst), now
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """0.0 if the call may go on, else the seconds until one may."""
        now = self._now()
        level, at = self._levels.pop(name, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_s)
        allowed = level >= 1.0
        self._levels[name] = (level - 1.0 if allowed else level, now)
        if len(self._levels) > _KEPT_BUCKETS:
            self._levels.popitem(last=False)
        return 0.0 if allowed else (1.0 - level) / self._per_s


class Guarded:
    """ASGI: refuses large bodies before they are whole in memory, and puts HEADERS on every answer that has no own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                return {"type": "http.disconnect"}  # whatever the application makes of it, 413 is what is sent
            return message

        async def headed(message: Message) -> None:
            if size > MAX_BODY_BYTES:
                return
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with contextlib.suppress(ClientDisconnect):
            await self._app(scope, limited, headed)
        if size > MAX_BODY_BYTES:
            size = 0
            await problem(413, f"a request is at most {MAX_BODY_BYTES} bytes")(scope, receive, headed)
