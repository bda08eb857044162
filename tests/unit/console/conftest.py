"""One control plane with a past, its console in this process, and a token a scope."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.tokens import SCOPES, make_token
from tests.support.console_state import ROOT, past


@pytest.fixture
def kept(tmp_path):
    with past(tmp_path, requested_by="ana") as found:
        yield found


@pytest.fixture
def places(kept):
    return Places(kept.state, kept.inventory, str(ROOT / "collections"), str(ROOT / "runbooks"), "/nowhere/source.yaml")


@pytest.fixture
def tokens(kept):
    """Scope -> a token of a person who has only that one; `ana` has all."""
    made = {scope: make_token(kept.state, f"only-{scope}", (scope,), agent=False) for scope in SCOPES}
    return {**made, "ana": make_token(kept.state, "ana", SCOPES, agent=False)}


@pytest.fixture
def client(places):
    with TestClient(build_app(places), follow_redirects=False) as found:
        yield found


@pytest.fixture
def ask(client, tokens):
    """ask(method, path, who="read", ...) -> the response."""

    def send(method, path, who="read", headers=None, **more):
        return client.request(
            method, path, headers={"Authorization": f"Bearer {tokens[who]}", **(headers or {})}, **more
        )

    return send
