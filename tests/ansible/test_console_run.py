"""A run begun over HTTP: a process of its own, begun once a key, with its caller's name, and refused like any other."""

from __future__ import annotations

import json
import sys
import time

import pytest
from fastapi.testclient import TestClient

from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.tokens import make_token
from tests.support.console_state import ROOT

pytestmark = pytest.mark.ansible

ATTRIBUTES = json.dumps({"level": "high", "sensitivity": "low", "scope": "node", "available_ratio": 0.05})


@pytest.fixture
def begin(tmp_path):
    """begin(host, key, **more) -> the answer to POST /v1/runs; `begin.show(run_id)` the run when it has ended."""
    state, inventory = str(tmp_path / "control"), tmp_path / "inventory.json"
    local = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "osremed_command": [sys.executable, "-m", "osremed"],
        "osremed_prefix": str(tmp_path / "prefix"),
    }
    inventory.write_text(json.dumps({"all": {"hosts": {"here": local}}}))
    token = make_token(state, "ana", ("run",), agent=False)
    places = Places(state, str(inventory), str(ROOT / "collections"), str(ROOT / "runbooks"), "/nowhere")
    headers = {"Authorization": f"Bearer {token}"}
    with TestClient(build_app(places), headers=headers) as client:

        def ask(host, key, **more):
            body = {"runbook": "near-oom", "host": host, "attributes": ATTRIBUTES, **more}
            return client.post("/v1/runs", json=body, headers={"Idempotency-Key": key})

        def show(run_id):
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                run = client.get(f"/v1/runs/{run_id}").json()["document"]
                if run["state"] in {"SUCCEEDED", "REFUSED", "UNDONE", "UNDO_INCOMPLETE"}:
                    return run
                time.sleep(0.2)
            raise AssertionError(f"the run does not end: {run['state']}")

        ask.show, ask.client = show, client
        yield ask


def test_the_same_key_begins_one_run_that_goes_on_by_itself(begin):
    first, again = begin("here", "case-17"), begin("here", "case-17")
    assert first.status_code == again.status_code == 200
    run_id = first.json()["document"]["run_id"]
    assert again.json()["document"]["run_id"] == run_id
    run = begin.show(run_id)
    # No guard runs on this host: there is evidence, and nothing that a change would prove.
    assert (run["state"], run["requested_by"]) == ("REFUSED", "ana")
    assert run["guards"]
    assert all(guard["passed"] for guard in run["guards"])
    assert len(begin.client.get("/v1/runs").json()["document"]["runs"]) == 1


def test_a_host_that_is_not_in_the_inventory_is_refused_by_the_guards(begin):
    answer = begin("elsewhere", "case-18")
    assert "not in the inventory" in begin.show(answer.json()["document"]["run_id"])["reason"]


def test_a_run_that_cannot_begin_says_why_at_once(begin):
    answer = begin("here", "case-19", attributes="{}")
    assert answer.status_code == 422
    assert "does not want this event" in answer.json()["title"]


def test_a_plan_is_shown_without_a_run(begin):
    answer = begin("here", "case-20", check=True)
    assert answer.json()["document"]["check"] is True
    assert begin.client.get("/v1/runs").json()["document"]["runs"] == []
