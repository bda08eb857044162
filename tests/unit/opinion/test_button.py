"""The button that asks a model about a run: there for who may, where it is switched on; what comes back leads to what
it cites."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.tokens import make_token
from osremed.flows.settings import ControlPaths
from osremed.runbook.opinions import read_opinion
from osremed.runbook.store import RunStore
from tests.support.chat_endpoint import Endpoint, hypothesis, reply
from tests.support.console_state import HOSTILE, ROOT

ANSWER = reply(hypotheses=[hypothesis("event#/killed/0", "findings")])


@pytest.fixture
def enter(kept):
    """enter(who, settings file, *scopes) -> a client, signed in."""
    clients = []

    def signed_in(opinion, *scopes):
        token = make_token(kept.state, f"ana-{len(clients)}", ("read", *scopes), agent=False)
        runbooks, collections = str(ROOT / "runbooks"), str(ROOT / "collections")
        places = Places(kept.state, kept.inventory, collections, runbooks, "/nowhere/s.yaml", opinion=opinion)
        clients.append(TestClient(build_app(places), follow_redirects=False))
        clients[-1].__enter__()
        clients[-1].post("/sign-in", data={"token": token, "back": "/"})
        return clients[-1]

    yield signed_in
    for client in clients:
        client.__exit__(None, None, None)


def button(text):
    """The hidden fields of the form, None without one."""
    form = re.search(r'<form[^>]*action="/act/runs_opinion".*?</form>', text, re.DOTALL)
    return form and dict(re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', form.group(0)))


def opinion_of(kept):
    return read_opinion(RunStore(ControlPaths(kept.state).runs).of(kept.kept))


def test_there_is_no_button_where_nobody_switched_opinions_on_or_for_who_may_not(enter, kept, settings):
    page = f"/runs/{kept.kept}"
    on = settings("http://127.0.0.1:9")
    assert button(enter("/nowhere/opinion.yaml", "run").get(page).text) is None
    reader = enter(on)
    assert button(reader.get(page).text) is None
    fields = button(enter(on, "run").get(page).text)
    assert fields["run_id"] == kept.kept
    assert reader.post("/act/runs_opinion", data=fields).status_code == 403
    assert opinion_of(kept) is None


def test_the_form_asks_once_and_leads_back_to_an_opinion_that_is_marked(enter, kept, settings):
    with Endpoint([ANSWER], usage=(1000, 100)) as endpoint:
        client = enter(settings(endpoint.url), "run")
        fields = button(client.get(f"/runs/{kept.kept}").text)
        assert client.post("/act/runs_opinion", data={**fields, "csrf": "x"}).status_code == 403
        assert endpoint.requests == []
        answer = client.post("/act/runs_opinion", data=fields)
        assert len(endpoint.requests) == 1
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{kept.kept}#opinion")
    assert opinion_of(kept).by == "ana-0"
    text = client.get(f"/runs/{kept.kept}").text
    section = text[text.index('id="opinion"') :].split("</section>")[0]
    assert "not a finding" in section
    assert button(text)["run_id"] == kept.kept


def test_what_an_opinion_cites_is_one_click_away_and_stays_text(enter, kept, settings):
    with Endpoint([ANSWER], usage=(1000, 100)) as endpoint:
        client = enter(settings(endpoint.url), "run")
        client.post("/act/runs_opinion", data=button(client.get(f"/runs/{kept.kept}").text))
    text = client.get(f"/runs/{kept.kept}").text
    places = re.findall(rf'href="(/runs/{kept.kept}/evidence\?at=[^"]+)"', text)
    assert len(places) == 2
    shown = client.get(places[0])
    assert shown.status_code == 200
    assert "heap_bytes" in shown.text
    assert "limit_bytes" not in shown.text  # of the event, beside the place that is cited
    assert HOSTILE not in shown.text
    assert "<script>alert" not in shown.text
    assert client.get(f"/runs/{kept.kept}/evidence").status_code == 200
    assert client.get(f"/runs/{kept.kept}/evidence", params={"at": "event#/killed/9"}).status_code == 404
    assert client.get(f"/runs/{kept.kept}/evidence", params={"at": HOSTILE}).status_code == 404


def test_a_model_that_does_not_answer_is_told_on_a_page(enter, kept, settings):
    client = enter(settings("http://127.0.0.1:9"), "run")
    answer = client.post("/act/runs_opinion", data=button(client.get(f"/runs/{kept.kept}").text))
    assert answer.status_code == 422
    assert "text/html" in answer.headers["content-type"]
    assert opinion_of(kept) is None
