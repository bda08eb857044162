"""A step that a person is asked for, on the page, over HTTP and on the command line: who may answer it, and how."""

from __future__ import annotations

import html
import json

import pytest
from fastapi.testclient import TestClient

from osremed.cli.main import main
from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.tokens import SCOPES, make_token
from osremed.core.errors import BadInput
from osremed.core.journal import read_journal
from osremed.flows.settings import ControlPaths
from osremed.flows.verbs import runs_refuse, runs_show, runs_tick
from osremed.runbook.audit import acting_as
from osremed.runbook.store import RunStore
from osremed.runbook.ticks import read_tick
from tests.support.asking import INSTRUCTION, asking_run
from tests.support.console_state import ROOT
from tests.unit.console.test_answers import fits
from tests.unit.console.test_pages import form_of


@pytest.fixture
def state(tmp_path):
    return str(tmp_path / "control")


@pytest.fixture
def run(state):
    return asking_run(ControlPaths(state).runs)


@pytest.fixture
def tick(state, run):
    """tick() -> what was said of the step, or None."""
    return lambda: read_tick(RunStore(ControlPaths(state).runs).of(run.run_id), 1, run.plan.digest)


@pytest.fixture
def client(state, tmp_path):
    (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": {"web-9": {}}}}))
    places = Places(state, str(tmp_path / "inventory.json"), str(ROOT / "collections"), str(ROOT / "runbooks"), "/none")
    with TestClient(build_app(places), follow_redirects=False) as found:
        yield found


def enter(client, state, scopes):
    client.post("/sign-in", data={"token": make_token(state, "cleo", scopes, agent=False), "back": "/"})
    return client


def audited(state):
    return [entry.record for entry in read_journal(ControlPaths(state).hands).entries]


def test_the_page_asks_with_a_box_to_tick_and_keeps_who_ticked_it(client, state, run, tick):
    enter(client, state, SCOPES)
    assert "AWAITING_PERSON" in client.get("/").text
    page = client.get(f"/runs/{run.run_id}").text
    assert html.escape(INSTRUCTION, quote=False) in page.replace("&#34;", '"')
    assert "<b>then</b>" not in page
    assert '<input type="checkbox" required>' in page
    fields = form_of(page, "runs_tick")
    assert client.post("/act/runs_tick", data={**fields, "csrf": "", "words": "x"}).status_code == 403
    assert tick() is None
    assert client.post("/act/runs_tick", data={**fields, "words": "empty now"}).status_code == 303
    assert (tick().done, tick().by, tick().words) == (True, "cleo", "empty now")
    told = {"verb": "tick", "by": "cleo", "run_id": run.run_id, "step": 1, "words": "empty now"}
    assert told.items() <= audited(state)[-1].items()


def test_a_person_says_no_on_the_page(client, state, run, tick):
    page = enter(client, state, SCOPES).get(f"/runs/{run.run_id}").text
    assert client.post("/act/runs_refuse", data={**form_of(page, "runs_refuse"), "words": "not now"}).status_code == 303
    assert (tick().done, tick().by) == (False, "cleo")


def test_who_may_only_read_or_run_is_shown_it_and_cannot_tick_it(client, state, run, tick):
    page = enter(client, state, ("read", "run")).get(f"/runs/{run.run_id}").text
    assert "Your token may not tick it" in page
    assert "/act/runs_tick" not in page
    agent = make_token(state, "robot", ("read", "run"), agent=True)
    for verb in ("tick", "refuse"):
        answer = client.post(
            f"/v1/runs/{run.run_id}/{verb}", headers={"Authorization": f"Bearer {agent}"}, json={"step": 1}
        )
        assert answer.status_code == 403
    assert tick() is None


def test_over_http_the_step_is_named_and_another_one_is_not_ticked(client, state, run, tick):
    token = make_token(state, "cleo", ("approve",), agent=False)
    send = {"headers": {"Authorization": f"Bearer {token}"}}
    path = f"/v1/runs/{run.run_id}/tick"
    assert client.post(path, json={}, **send).status_code == 422
    wrong = client.post(path, json={"step": 2}, **send)
    assert (wrong.status_code, tick()) == (422, None)
    assert "waits for step 1" in wrong.json()["title"]
    answer = client.post(path, json={"step": 1, "words": "done"}, **send)
    assert answer.status_code == 200
    fits("runs_tick", answer.json()["document"])


def test_the_command_line_shows_what_to_do_and_how_to_tick_it(state, run, tick, capsys):
    assert main(["runs", "show", run.run_id, "--state", state]) == 6
    text = capsys.readouterr().out
    assert f"a person is asked: {INSTRUCTION}" in text
    assert f"osremed runs tick {run.run_id} 1" in text
    fits("runs_show", runs_show(run_id=run.run_id, state=state).document)
    with acting_as("ben"):
        answer = runs_refuse(run_id=run.run_id, step=1, state=state, words="busy")
    assert "not done, says ben" in answer.text
    fits("runs_refuse", answer.document)
    assert (tick().done, tick().by, tick().words) == (False, "ben", "busy")
    with acting_as("ben"), pytest.raises(BadInput, match="not for step 3"):
        runs_tick(run_id=run.run_id, step=3, state=state)
