"""The pages: what they show of a past, whom they let act, and that text of hosts stays text."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from osremed.console.app import build_app
from osremed.console.axis import LANES, axis_of, look_at
from osremed.console.language import LANGUAGES, choose, words_of
from osremed.console.sessions import COOKIE
from osremed.console.tokens import revoke_token
from osremed.core.answer import Answer
from osremed.core.clock import SystemClock
from osremed.core.errors import BadInput
from osremed.core.event import Event
from osremed.flows import host_verbs
from osremed.flows.control_verbs import freeze
from osremed.flows.settings import ControlPaths, page_url
from osremed.runbook.model import RunState
from osremed.runbook.store import RunStore
from tests.support.console_state import HOSTILE, ROOT, make_event
from tests.support.look_documents import gpus_document, heat_document

PAGES = ("/", "/hosts/web-2", "/runs", "/canaries", "/rules", "/audit")


@pytest.fixture
def enter(client, tokens):
    """enter(who) -> the client, signed in."""

    def signed_in(who):
        answer = client.post("/sign-in", data={"token": tokens[who], "back": "/runs"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
        assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
        return client

    return signed_in


def form_of(text, verb):
    """The hidden fields of the page's form for a verb."""
    form = re.search(rf'<form[^>]*action="/act/{verb}".*?</form>', text, re.DOTALL).group(0)
    return dict(re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', form))


def test_every_page_shows_the_past_and_keeps_hostile_text_as_text(enter, kept):
    client = enter("read")
    for path in (*PAGES, *(f"/runs/{run_id}" for run_id in (kept.kept, kept.undone, kept.waiting))):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.text
        assert "\x1b" not in answer.text
    overview = client.get("/").text
    assert all(
        name in overview for name in ("web-1", "quiet-9", "UNDONE", "SUCCEEDED", "AWAITING_APPROVAL", "critical")
    )
    assert "&lt;script&gt;alert(1)" in overview
    assert HOSTILE[-7:] == "{{7*7}}"
    assert "{{7*7}}" in overview


def test_who_is_not_signed_in_is_sent_to_sign_in_and_back(client):
    answer = client.get("/hosts/web-1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?back=%2Fhosts%2Fweb-1")
    assert client.post("/act/freeze", data={"reason": "x"}).status_code == 303


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_signing_in_leads_to_no_other_server(client, tokens, back):
    answer = client.post("/sign-in", data={"token": tokens["read"], "back": back})
    assert answer.headers["location"] == "/"


def test_a_wrong_token_is_said_and_sets_no_cookie(client):
    answer = client.post("/sign-in", data={"token": "osr_no"})
    assert answer.status_code == 401
    assert "not valid" in answer.text
    assert "set-cookie" not in answer.headers


def test_a_session_ends_with_its_token_and_by_signing_out(enter, kept, client, tokens):
    enter("read")
    revoke_token(kept.state, "only-read")
    assert client.get("/").status_code == 401
    enter("ana")
    assert client.get("/").status_code == 200
    client.post("/sign-out")
    assert client.get("/").status_code == 303


def test_a_form_without_its_secret_does_nothing(enter, kept):
    client = enter("ana")
    for csrf in ({}, {"csrf": ""}, {"csrf": "guess"}):
        assert client.post("/act/freeze", data={"reason": "forged", **csrf}).status_code == 403
    assert freeze(state=kept.state).document["freezes"] == ()


def test_the_rules_page_tells_the_time_that_was_saved(enter):
    page = enter("read").get("/rules").text
    assert "Time saved" in page
    assert '<td class="n">20 min</td>' in page


def test_a_host_is_frozen_from_its_page_and_the_rules_page_lifts_it(enter, kept):
    client = enter("ana")
    fields = form_of(client.get("/hosts/web-1").text, "freeze")
    assert (
        client.post("/act/freeze", data={**fields, "reason": "fair", "hold": "2h"}).headers["location"]
        == "/hosts/web-1"
    )
    (found,) = freeze(state=kept.state).document["freezes"]
    assert (found["host"], found["by"], found["reason"]) == ("web-1", "ana", "fair")
    fields = form_of(client.get("/rules").text, "unfreeze")
    assert client.post("/act/unfreeze", data=fields).status_code == 303
    assert freeze(state=kept.state).document["freezes"] == ()


def test_a_run_and_the_one_that_takes_it_back_lead_to_each_other(enter, kept):
    store = RunStore(ControlPaths(kept.state).runs)
    old, _ = store.load(kept.kept)
    undo = store.create_undo(old, SystemClock(), requested_by="ana", why="not needed")
    undo.close()
    client = enter("read")
    assert f'<a href="/runs/{undo.run.run_id}">' in client.get(f"/runs/{kept.kept}").text
    assert f'<a href="/runs/{kept.kept}">' in client.get(f"/runs/{undo.run.run_id}").text


def test_an_approver_lets_a_run_act_and_who_asked_is_not_offered_to(enter, kept):
    page = enter("ana").get(f"/runs/{kept.waiting}").text
    assert "/act/runs_approve" not in page
    assert "somebody else answers" in page
    assert "/act/runs_approve" not in enter("read").get(f"/runs/{kept.waiting}").text
    client = enter("approve")
    fields = form_of(client.get(f"/runs/{kept.waiting}").text, "runs_approve")
    store, deadline = RunStore(ControlPaths(kept.state).runs), time.monotonic() + 30
    assert fields["plan"] == store.load(kept.waiting)[0].plan.digest
    assert client.post("/act/runs_approve", data={**fields, "reason": "seen"}).status_code == 303
    while not store.load(kept.waiting)[0].ended and time.monotonic() < deadline:
        time.sleep(0.05)
    run = store.load(kept.waiting)[0]
    assert (run.state, run.approved_by) == (RunState.SUCCEEDED, "only-approve")


def test_a_run_leads_to_its_flow_run_in_prefect_when_both_are_known(places, kept, tokens):
    directory = RunStore(ControlPaths(kept.state).runs).of(kept.kept)
    flow_run = "0190f3c6-0000-7000-8000-00000000002a"
    with TestClient(build_app(replace(places, prefect_ui="https://prefect.example"))) as client:
        client.post("/sign-in", data={"token": tokens["read"]})
        for told, there in (("", False), ("../../x", False), (f"{flow_run}\n", True)):
            Path(directory.flow_run).write_text(told)
            page = client.get(f"/runs/{kept.kept}").text
            assert (f'href="https://prefect.example/runs/flow-run/{flow_run}"' in page) == there
            assert ("This run in Prefect" in page) == there
    with TestClient(build_app(places)) as client:
        client.post("/sign-in", data={"token": tokens["read"]})
        assert "This run in Prefect" not in client.get(f"/runs/{kept.kept}").text


@pytest.mark.parametrize(
    "text", ["prefect.example", "javascript:alert(1)", "https://u:p@x", "https://x/?a=1", "https://x/#a", "https://a b"]
)
def test_a_link_to_what_is_no_page_is_refused_at_the_start(text):
    with pytest.raises(BadInput, match="not where pages are"):
        page_url(text, "--prefect-ui")
    assert page_url("https://prefect.example/ui/", "x") == "https://prefect.example/ui"


def test_an_error_of_a_verb_is_a_page_with_what_to_do(enter):
    client = enter("read")
    assert client.get("/runs/0000000000000000").status_code == 404
    answer = client.get("/hosts/no-such-host")
    assert answer.status_code == 404
    assert "not in the inventory" in answer.text
    assert client.get("/static/../pages.py").status_code == 404


def test_the_cookie_alone_opens_no_api(enter):
    client = enter("ana")
    assert client.cookies.get(COOKIE)
    assert client.post("/v1/freezes", json={"reason": "x"}).status_code == 401


@pytest.mark.parametrize("language", [each for each in LANGUAGES if each != "en"])
def test_every_phrase_of_the_pages_is_translated(language, enter, kept):
    words = words_of(language)
    phrases = set(LANES)
    for path in (ROOT / "osremed/console/templates").iterdir():
        phrases |= set(re.findall(r"""_\((?:"([^"]+)")\)""", path.read_text()))
        phrases |= set(re.findall(r"""_\((?:'([^']+)')\)""", path.read_text()))
    assert len(phrases) > 60
    assert [phrase for phrase in sorted(phrases) if words(phrase) == phrase] == []
    client = enter("read")
    assert words("Overview") in client.get(f"/?lang={language}").text
    report = client.get(f"/runs/{kept.kept}/report").text
    assert f'<html lang="{language.replace("_", "-")}">' in report
    assert words("What FastOOM did") in report


def test_the_browser_says_which_language_it_likes():
    assert choose(None, {"accept-language": "zh-TW,zh;q=0.9"}) == "zh_TW"
    assert choose(None, {"accept-language": "zh-Hant"}) == "zh_TW"
    assert choose(None, {"accept-language": "zh;q=0.9"}) == "zh_CN"
    assert choose("en", {"accept-language": "zh-TW"}) == "en"
    assert choose("../../etc", {"accept-language": "xx, *;q=0.1"}) == "en"


def test_an_axis_has_a_row_a_kind_within_its_width_and_none_for_silence():
    assert axis_of([], []) is None
    axis = axis_of([make_event(f"e{n}", "web-1") for n in range(5)], [])
    assert [row.name for row in axis.rows] == ["FastOOM interventions"]
    assert all(0 < mark.x < 960 for row in axis.rows for mark in row.marks)


def test_an_axis_loses_nothing_marks_that_are_too_near_are_one_that_says_how_many():
    begin_ns = 1_790_000_000_000_000_000
    names = ("memory.near_oom", "memory.level", "gpu.xid", "hotspot.trap", "cpu.throttled")
    events = [
        Event(f"e{n}", names[n % 5], "web-1", begin_ns + n * 10**9, {"level": "high"}) for n in range(1000)
    ]  # fmt: skip
    axis = axis_of(events, [], [look_at("hotspot_at", begin_ns + 10**12, "#hotspot_at")])
    assert [row.name for row in axis.rows] == [lane for lane in LANES if lane not in ("Findings", "Runs")]
    assert sum(mark.count for row in axis.rows for mark in row.marks) == 1001 == len(axis.happenings)
    assert max(len(row.marks) for row in axis.rows) < 60
    assert all(0 < mark.x <= 960 and mark.x + mark.width <= 960 for row in axis.rows for mark in row.marks)
    assert axis.happenings[0].link == "#hotspot_at"
    assert {mark.link for mark in axis.rows[0].marks} <= {f"#e-{event.id}" for event in events}


def test_a_look_at_the_hot_spots_and_gpus_of_a_host_is_drawn_on_its_page(enter, monkeypatch):
    told = {"hotspot_at": heat_document(), "gpus": gpus_document()}
    for name, document in told.items():
        monkeypatch.setattr(host_verbs, name, lambda document=document, **_asked: Answer(document, ""))
    client = enter("ana")
    for verb in ("hotspot_at", "timeline_gpus"):
        fields = form_of(client.get("/hosts/web-2").text, verb)
        assert client.post(f"/act/{verb}", data=fields).headers["location"] == "/hosts/web-2"
    page = client.get("/hosts/web-2").text
    assert page.count('class="heat"') == 2
    assert re.search(r'x="80" .*fill-opacity="1.0"><title>\d\d:\d\d:\d\d \+ 0 ms: 4</title>', page)
    assert "Fake GPU" in page
    assert 'href="#hotspot_at"' in page
    assert "<script>alert" not in page
    assert 'class="heat"' not in client.get("/hosts/web-1").text
    assert "/act/hotspot_at" not in enter("read").get("/hosts/web-2").text


def test_what_a_host_gives_instead_of_a_look_is_said_on_its_page(enter, monkeypatch):
    monkeypatch.setattr(host_verbs, "hotspot_at", lambda **_asked: Answer({"start_ns": "now"}, ""))
    client = enter("ana")
    client.post("/act/hotspot_at", data=form_of(client.get("/hosts/web-2").text, "hotspot_at"))
    page = client.get("/hosts/web-2").text
    assert "malformed" in page
    assert 'class="heat"' not in page
