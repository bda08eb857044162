"""One attempt to tell one target, and whether another would make sense."""

from __future__ import annotations

import logging
import time
from typing import Any

import apprise
import httpx

from osremed import __version__
from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.notify import alertmanager, traces, webhook
from osremed.notify.message import Kind, Message
from osremed.notify.policy import Alertmanager, Chat, Target, Traces, Webhook, is_safe, secret

_TIMEOUT_S = 10.0
#: Answers after which the same request may well be taken: wait, conflict, too early, too many.
_TRY_AGAIN = frozenset({408, 409, 425, 429})
_SEVERITY = {
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "critical": apprise.NotifyType.FAILURE,
}

#: Without pictures: theirs lie on a server of others.
_ASSET = apprise.AppriseAsset(
    app_id="osremed", app_desc="osremed", app_url="", image_url_mask="", image_url_logo="", image_path_mask=""
)


@record
class Sent:
    pass


@record
class Failed:
    """`why` holds no secret. `for_good`: the target will never take it."""

    why: str
    for_good: bool = False
    after_s: float = 0.0  #: the target asked to be left alone for so long


def link_of(message: Message, console: str | None) -> str:
    if console is None or message.kind is Kind.TEST:
        return ""
    base = console.rstrip("/")
    if message.kind is Kind.DIGEST:
        return base
    return f"{base}/runs/{message.run_id}" if message.run_id else f"{base}/hosts/{message.host}"


def _post(url: str, **what: Any) -> Sent | Failed:
    """No redirect is followed: a signature goes to the address it was made for."""
    try:
        answer = httpx.post(url, timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False, **what)
    except httpx.HTTPError as error:
        return Failed(type(error).__name__)  # its words may hold the address, which is a secret
    except (httpx.InvalidURL, UnicodeError):
        return Failed("the address is none", for_good=True)
    if answer.is_success:
        return Sent()
    wait = answer.headers.get("retry-after", "")
    again = answer.status_code in _TRY_AGAIN or answer.is_server_error
    after_s = min(float(wait), 3600.0) if wait.isascii() and wait.isdigit() else 0.0
    return Failed(f"HTTP {answer.status_code}", for_good=not again, after_s=after_s)


def _by_webhook(way: Webhook, message: Message, link: str) -> Sent | Failed:
    url = secret(way.url_from)
    if not is_safe(url):
        return Failed(f"{way.url_from} is neither https nor of this machine")
    body = webhook.body_of(message, link)
    headers = webhook.headers_of(message.id, body, secret(way.secret_from), int(time.time()))
    return _post(url, content=body, headers=dict(headers))


def _by_alertmanager(way: Alertmanager, message: Message, link: str) -> Sent | Failed:
    alerts = alertmanager.alerts_of(message, way.hold, link)
    return _post(f"{way.url.rstrip('/')}/api/v2/alerts", json=alerts) if alerts else Sent()


def _by_traces(way: Traces, message: Message) -> Sent | Failed:
    if not message.spans:
        return Sent()
    return _post(f"{way.url.rstrip('/')}/v1/traces", json=traces.body_of(message.spans, __version__))


def _by_chat(way: Chat, message: Message, link: str) -> Sent | Failed:
    """Apprise says why it failed in its log alone, with the address in it: it is not kept."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    chat = apprise.Apprise(asset=_ASSET)
    if not chat.add(secret(way.url_from)):
        return Failed(f"{way.url_from} is no address Apprise knows")
    for each in chat:
        each.notify_format = apprise.NotifyFormat.TEXT
    body = "\n".join([*message.lines, *([link] if link else [])]) or message.title
    told = chat.notify(
        body=body, title=message.title, notify_type=_SEVERITY[message.severity], body_format=apprise.NotifyFormat.TEXT
    )
    return Sent() if told else Failed("the service did not take it")


def send(target: Target, message: Message, console: str | None) -> Sent | Failed:
    """Takes at most about ten seconds. What is wrong with a secret may be mended meanwhile: it is not for good."""
    link, way = link_of(message, console), target.way
    try:
        if isinstance(way, Webhook):
            return _by_webhook(way, message, link)
        if isinstance(way, Alertmanager):
            return _by_alertmanager(way, message, link)
        if isinstance(way, Traces):
            return _by_traces(way, message)
        assert isinstance(way, Chat)
        return _by_chat(way, message, link)
    except BadInput as error:
        return Failed(error.what)
