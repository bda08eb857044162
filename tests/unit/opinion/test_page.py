"""The opinion on the page of its run: in a section of its own, marked, and its text stays text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.tokens import make_token
from osremed.flows.settings import ControlPaths
from osremed.runbook.opinions import Asked, Hypothesis, Opinion, Reworded, Suggestion, write_opinion
from osremed.runbook.store import RunStore
from tests.support.console_state import HOSTILE, ROOT

HARMFUL = Opinion(
    call="c1",
    model=HOSTILE,
    about=HOSTILE,
    by="ana",
    at_ns=10**18,
    summary=HOSTILE,
    hypotheses=(Hypothesis(HOSTILE, 0.5, (HOSTILE,), HOSTILE),),
    reworded=(Reworded(HOSTILE, HOSTILE),),
    suggestion=Suggestion("near-oom", HOSTILE, {"level": HOSTILE}, HOSTILE, HOSTILE),
    shown=(HOSTILE,),
    asked=(Asked("answer-1", "events", {"host": HOSTILE}),),
    dropped=(HOSTILE,),
    tokens=1,
    seconds=1.0,
    prompt_sha256="0" * 64,
)


@pytest.fixture
def page(kept):
    token = make_token(kept.state, "reader", ("read",), agent=False)
    places = Places(kept.state, kept.inventory, str(ROOT / "collections"), str(ROOT / "runbooks"), "/nowhere/s.yaml")
    with TestClient(build_app(places), follow_redirects=False) as client:
        client.post("/sign-in", data={"token": token, "back": "/"})
        yield lambda: client.get(f"/runs/{kept.kept}")


@pytest.fixture
def directory(kept):
    return RunStore(ControlPaths(kept.state).runs).of(kept.kept)


def test_a_run_nobody_asked_a_model_about_has_no_such_section(page):
    assert 'id="opinion"' not in page().text


def test_hostile_words_of_a_model_stay_words(page, directory):
    write_opinion(directory, HARMFUL)
    text = page().text
    section = text[text.index('id="opinion"') :].split("</section>")[0]
    assert "not a finding" in section
    assert section.count("&lt;script&gt;alert(1)") >= 9
    assert "<script>alert" not in text
    assert "\x1b" not in text


def test_the_findings_of_the_rules_stand_above_it(page, directory):
    write_opinion(directory, replace(HARMFUL, summary="the rules are wrong"))
    text = page().text
    assert text.index("policy-too-low") < text.index('id="opinion"')


def test_a_damaged_opinion_is_said_and_the_page_is_there(page, directory):
    (opinion,) = [f"{directory.path}/opinion.json"]
    with open(opinion, "w") as stream:
        stream.write("{")
    answer = page()
    assert answer.status_code == 200
    assert "not an opinion" in answer.text
