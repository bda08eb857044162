"""Signed-in browsers: a random cookie stands for a token that is checked again at each request."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict

from osremed.core.record import record

COOKIE = "osremed_session"
_LASTS_S = 8 * 3600.0
_MOST = 1000


@record
class Session:
    token: str
    csrf: str  #: every form carries it
    until: float


class Sessions:
    """In memory alone: a restart signs everybody out."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Session] = OrderedDict()

    def begin(self, token: str) -> str:
        """The cookie's value."""
        name = secrets.token_urlsafe(32)
        self._open[name] = Session(token, secrets.token_urlsafe(32), time.monotonic() + _LASTS_S)
        if len(self._open) > _MOST:
            self._open.popitem(last=False)
        return name

    def find(self, name: str) -> Session | None:
        session = self._open.get(name)
        if session is not None and time.monotonic() >= session.until:
            self._open.pop(name, None)
            return None
        return session

    def end(self, name: str) -> None:
        self._open.pop(name, None)


def is_same(session: Session, csrf: str) -> bool:
    return hmac.compare_digest(session.csrf.encode(), csrf.encode("utf-8", "replace"))
