"""A code host says that something was pushed: a wake-up and nothing more.

The body is checked and never read: what is live is decided by what a fetch finds and who signed it. A lost call costs
one interval.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from osremed.flows.listening import problem

_MAX_BODY_BYTES = 32 << 20  #: GitHub cuts at 25 MB
_REST_S = 5.0  #: calls closer together are one wake-up


def _bare(value: str) -> str:
    return value


def _prefixed(value: str) -> str:
    """`sha256=<hex>`; another algorithm is none."""
    name, _equals, hexadecimal = value.partition("=")
    return hexadecimal if name == "sha256" else ""


#: Header with the HMAC-SHA256 (hex) of the body -> how to read it.
_SIGNATURES: Mapping[str, Callable[[str], str]] = {
    "x-hub-signature-256": _prefixed,  # GitHub, and Gitea and Forgejo beside their own
    "x-gitea-signature": _bare,
    "x-forgejo-signature": _bare,
}
_TOKEN = "x-gitlab-token"  # noqa: S105 the name of a header: GitLab sends the secret itself


async def is_genuine(request: Request, secret: str) -> bool | None:
    """Whether the sender knows the secret; None if the body is too large to tell. Reads the body without keeping it."""
    mac, size = hmac.new(secret.encode(), digestmod=hashlib.sha256), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _MAX_BODY_BYTES:
            return None
        mac.update(chunk)
    given = [read(request.headers[name]) for name, read in _SIGNATURES.items() if name in request.headers]
    expected = mac.hexdigest()
    if given:
        return all(hmac.compare_digest(each.encode("latin-1", "replace"), expected.encode()) for each in given)
    token = request.headers.get(_TOKEN, "")
    return hmac.compare_digest(token.encode("latin-1", "replace"), secret.encode())


def webhook_app(secret: str, wake: Callable[[], None]) -> Starlette:
    """`POST /v1/wake` with a signature of `secret` calls `wake`, at most once in five seconds; 202 either way."""
    last_s = -_REST_S

    async def post_wake(request: Request) -> JSONResponse:
        nonlocal last_s
        genuine = await is_genuine(request, secret)
        if genuine is None:
            return problem(413, f"at most {_MAX_BODY_BYTES} bytes")
        if not genuine:
            return problem(401, "no good signature of the body; see the page on GitOps")
        woken = time.monotonic() - last_s >= _REST_S
        if woken:
            last_s = time.monotonic()
            wake()
        return JSONResponse({"woken": woken}, status_code=202)

    return Starlette(routes=[Route("/v1/wake", post_wake, methods=["POST"])])
