"""Verbs of the console: serve it, make and revoke its tokens, MCP on stdin, the OpenAPI document."""

from __future__ import annotations

import asyncio
import os

import uvicorn

from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.dashboard import dashboard
from osremed.console.mcp import serve_stdio
from osremed.console.tokens import Caller, Token, make_token, read_tokens, revoke_token
from osremed.core.answer import Answer
from osremed.core.clock import rfc3339
from osremed.core.errors import BadInput
from osremed.core.language import filled
from osremed.core.units import parse_duration_s
from osremed.flows.settings import page_url
from osremed.runbook.audit import person

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _scopes(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def run(
    *,
    state: str,
    inventory: str,
    collections: str,
    runbooks: str,
    source: str,
    opinion: str,
    host: str = "127.0.0.1",
    port: int = 4281,
    prefect_ui: str = "",
    behind_proxy: bool = False,
) -> Answer:
    """Serves HTTP, MCP and the pages until SIGTERM. An address that others reach is refused unless a proxy with TLS is
    said to stand in front: tokens would go over the wire in clear."""
    if host not in _LOOPBACK and not behind_proxy:
        hint = "listen on 127.0.0.1 behind a reverse proxy with TLS, or say --behind-proxy if one reaches it here"
        raise BadInput(f"tokens would go to {host} in clear text", where="--host", hint=hint)
    os.makedirs(os.path.join(os.path.abspath(state), "console"), mode=0o700, exist_ok=True)
    read_tokens(state)  # a damaged file is told now, not at the first request
    pages = page_url(prefect_ui, "--prefect-ui")
    app = build_app(Places(state, inventory, collections, runbooks, source, pages, opinion))
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        proxy_headers=behind_proxy,
    )
    uvicorn.Server(config).run()
    return Answer({"stopped": True}, filled("stopped"))


def token(*, name: str, state: str, scopes: str = "read", agent: bool = False, lasting: str | None = None) -> Answer:
    """A new token, shown this once."""
    lasting_s = parse_duration_s(lasting) if lasting else 0.0
    made = make_token(state, name, _scopes(scopes), agent=agent, lasting_s=lasting_s)
    return Answer({"name": name, "token": made, "scopes": _scopes(scopes)}, made)


def tokens(*, state: str) -> Answer:
    rows = [
        {"name": each.name, "scopes": each.scopes, "agent": each.agent, "expires_ns": each.expires_ns}
        for each in read_tokens(state)
    ]
    lines = [_token_line(each) for each in read_tokens(state)]
    return Answer({"tokens": rows}, "\n".join(lines) or filled("no tokens"))


def _token_line(each: Token) -> str:
    until = rfc3339(each.expires_ns) if each.expires_ns else filled("it is revoked")
    who = filled("agent   until {1}", until) if each.agent else filled("person  until {1}", until)
    return f"{each.name:<24} {','.join(each.scopes):<24} {who}"


def revoke(*, name: str, state: str) -> Answer:
    revoke_token(state, name)
    return Answer({"revoked": name}, filled("the token of {1} is worth nothing now", name))


def mcp(*, state: str, inventory: str, collections: str, runbooks: str, source: str, scopes: str = "read") -> Answer:
    """MCP on stdin and stdout for one local client, as an agent of who started it."""
    wanted = frozenset(_scopes(scopes))
    if not wanted <= {"read", "run"}:
        raise BadInput("an agent may only read and run", where="--scopes", hint="approving is for people")
    caller = Caller(f"agent of {person()}", wanted | {"read"}, agent=True)
    asyncio.run(serve_stdio(Places(state, inventory, collections, runbooks, source), caller))
    return Answer(None, "")


def grafana() -> Answer:
    """A dashboard of what /metrics tells, for Grafana's import."""
    document = dashboard()
    return Answer(document, filled("{1} panels; -o json prints the document", str(len(document["panels"]))))


def openapi() -> Answer:
    """The OpenAPI document of the console; needs no state."""
    document = build_app(Places("", "", "", "", "")).openapi()
    return Answer(document, filled("{1} paths; -o json prints the document", str(len(document["paths"]))))
