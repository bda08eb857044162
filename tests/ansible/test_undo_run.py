"""A kept run is taken back on this machine, asked over HTTP, through the real executor: one settings file, whole."""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from osremed.cli.main import main
from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.tokens import make_token
from tests.support import an_agent
from tests.support.console_state import ROOT

pytestmark = pytest.mark.ansible

BOOK = """
apiVersion: osremed/v1
kind: Runbook
metadata: {name: swaps-less, title: Keeps a setting over restarts, owners: [sre]}
mode: auto
on: [{event: memory.near_oom}]
guards: {cooldown: 1m, concurrency: {per_host: 1, fleet: 1}, storm: {max_runs: 9, per: 1m}}
collect: [{panorama: {files: 1, processes: 1}}]
diagnose: [{finding: asked, when: "true", summary: somebody asked}]
remediate:
  - when: finding('asked')
    action: sysctl
    with: {settings: {vm.swappiness: 11}, runtime: false}
    confirm_within: 5m
verify: [{probe: memory.available_ratio, expect: value > 0, within: 5s, for: 0s}]
"""
BEFORE = "# by hand\nvm.overcommit_ratio = 50\n"


@pytest.fixture
def there(tmp_path):
    """A control plane with a run that was kept, and its console."""
    prefix = tmp_path / "prefix"
    for directory in ("etc/sysctl.d", "var/lib/osremed/undo"):
        (prefix / directory).mkdir(parents=True)
    settings = prefix / "etc/sysctl.d/90-osremed.conf"
    settings.write_text(BEFORE)
    local = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "osremed_command": [sys.executable, "-m", "osremed"],
        "osremed_prefix": str(prefix),
    }
    inventory, book = tmp_path / "inventory.json", tmp_path / "books/swaps-less/runbook.yaml"
    inventory.write_text(json.dumps({"all": {"hosts": {"here": local}}}))
    book.parent.mkdir(parents=True)
    book.write_text(BOOK)
    state, collections = str(tmp_path / "control"), str(ROOT / "collections")
    options = ["--state", state, "--inventory", str(inventory), "--collections", collections]
    with an_agent.running(prefix):
        assert main(["run", str(book.parent), "--host", "here", *options]) == 0
    places = Places(state, str(inventory), collections, str(book.parent.parent), "/nowhere")
    with TestClient(build_app(places)) as client:

        def said(verb, path, who="", **body):
            token = {"Authorization": f"Bearer {tokens[who or 'bob']}"}
            return client.request(verb, f"/v1/runs{path}", headers=token, json=body or None)

        tokens = {name: make_token(state, name, ("run", "approve", "read"), agent=False) for name in ("ana", "bob")}
        (old,) = said("GET", "").json()["document"]["runs"]
        yield SimpleNamespace(settings=settings, said=said, old=old, options=options)


def until(there, run_id, *states):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        run = there.said("GET", f"/{run_id}").json()["document"]
        if run["state"] in states:
            return run
        time.sleep(0.2)
    raise AssertionError(f"the run does not come to {states}: {run['state']}: {run['reason']}")


def test_one_asks_another_allows_and_the_file_is_as_it_was(there, capsys):
    run_id = there.old["run_id"]
    changed = there.settings.read_text()
    assert "vm.swappiness" in changed
    shown = there.said("POST", f"/{run_id}/undo", check=True).json()["document"]
    assert (shown["check"], shown["would_act"], [step["action"] for step in shown["plan"]]) == (True, True, ["sysctl"])
    assert there.settings.read_text() == changed
    asked = there.said("POST", f"/{run_id}/undo", reason="not needed", check=False).json()["document"]
    again = there.said("POST", f"/{run_id}/undo", check=False).json()["document"]
    assert asked["run_id"] == again["run_id"]
    until(there, asked["run_id"], "AWAITING_APPROVAL")
    seen = there.said("GET", f"/{asked['run_id']}").json()["document"]["plan"]["digest"]
    path = f"/{asked['run_id']}/approve"
    assert there.said("POST", path, who="bob", plan=seen, reason="mine").status_code == 422
    assert there.said("POST", path, who="ana", plan=seen, reason="seen").status_code == 200
    run = until(there, asked["run_id"], "SUCCEEDED", "REFUSED", "UNDO_INCOMPLETE")
    assert (run["state"], run["undoes"], run["approved_by"]) == ("SUCCEEDED", run_id, "ana"), run["reason"]
    assert there.settings.read_text() == BEFORE
    assert there.said("GET", f"/{run_id}").json()["document"]["undone_by"] == run["run_id"]
    capsys.readouterr()
    assert main(["runs", "show", run_id, *there.options[:2]]) == 0
    assert f"taken back by run {run['run_id']}" in capsys.readouterr().out


def test_a_file_that_somebody_changed_since_is_left_and_a_person_is_called(there):
    theirs = there.settings.read_text().replace("vm.swappiness = 11", "vm.swappiness = 33")
    there.settings.write_text(theirs)
    asked = there.said("POST", f"/{there.old['run_id']}/undo", check=False).json()["document"]
    run = until(there, asked["run_id"], "SUCCEEDED", "REFUSED", "UNDO_INCOMPLETE")
    assert (run["state"], run["undo"][0]["result"]) == ("UNDO_INCOMPLETE", "conflict"), run["reason"]
    assert there.settings.read_text() == theirs
