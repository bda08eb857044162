from __future__ import annotations

import base64

import pytest

from osremed.notify.policy import Policy
from tests.support.receiver import receiving

KEY = b"k" * 32


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


@pytest.fixture
def secrets(monkeypatch, receiver):
    monkeypatch.setenv("OPS_URL", f"{receiver.url}/hook")
    monkeypatch.setenv("OPS_SECRET", "whsec_" + base64.b64encode(KEY).decode())
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def policy(receiver):
    """policy(*rules) tells `ops` by webhook and `alerts` by Alertmanager, both the receiver."""

    def make(*rules, **more):
        return Policy.model_validate(
            {
                "apiVersion": "osremed/v1",
                "kind": "Notifications",
                "targets": {
                    "ops": {"webhook": {"url_from": "OPS_URL", "secret_from": "OPS_SECRET"}},
                    "alerts": {"alertmanager": {"url": receiver.url, "hold": "1h"}},
                    "otel": {"traces": {"url": receiver.url}},
                },
                "rules": list(rules) or [{"on": "run", "to": ["ops"]}, {"on": "intervention", "to": ["ops"]}],
                **more,
            }
        )

    return make
