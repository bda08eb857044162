"""Every verb's document is of the type that OpenAPI tells."""

from __future__ import annotations

import pytest

from osremed.console import verbs
from osremed.console.answers import ANSWERS, answer_model
from osremed.console.binding import call, exposed, name_of
from osremed.console.shapes import shape
from osremed.core.errors import OsremedError
from osremed.core.reading import Missing, Reading, Reason, Value, reading_as_json
from osremed.core.record import record
from osremed.panorama.verbs import panorama
from osremed.verbs.load import find
from tests.support.answers import fits
from tests.unit.spoken import spoken

_ROUTES = {name_of(verb): verb for verb in exposed()}


@pytest.fixture
def told(places):
    def ask(operation, **given):
        verb = _ROUTES[operation]
        plain = {arg.dest: (False if arg.kind == "flag" else arg.default) for arg in verb.args if not arg.place}
        return call(verb, places, "ana", {**plain, **given}).document

    return ask


def test_every_verb_on_the_network_says_what_it_answers():
    assert set(ANSWERS) == set(_ROUTES)
    for operation in ANSWERS:
        assert answer_model(operation).model_json_schema()["properties"]["document"] not in ({}, {"title": "Document"})


@pytest.mark.parametrize(
    "operation", ["runs_list", "runbook_list", "hosts", "events", "freezes", "stats", "audit_verify"]
)
def test_what_is_read_is_of_its_type(told, operation):
    document = told(operation)
    assert document
    fits(operation, document)


def test_what_is_told_of_one_run_is_of_its_type_whatever_became_of_it(told, kept):
    for run_id in (kept.kept, kept.undone, kept.waiting):
        fits("runs_show", told("runs_show", run_id=run_id))
    fits("runs_report", told("runs_report", run_id=kept.kept))
    fits("runs_case", told("runs_case", run_id=kept.undone))
    fits("why_not", told("why_not", event_id="e-web-1"))


def test_what_people_say_is_answered_in_its_type(told, kept):
    fits("freeze", told("freeze", reason="x", host="web-1", hold="2h"))
    fits("freezes", told("freezes"))
    fits("unfreeze", told("unfreeze", every=True))
    fits("runs_reset_breaker", told("runs_reset_breaker", runbook="near-oom"))
    with pytest.raises(OsremedError):
        told("runs_acknowledge", run_id=kept.kept)
    with pytest.raises(OsremedError, match="asked for"):
        told("runs_approve", run_id=kept.waiting, reason="x")


def test_a_denial_is_of_its_type(places, kept):
    verb = find(["runs", "deny"])[0]
    fits("runs_deny", call(verb, places, "ben", {"run_id": kept.waiting, "reason": "no"}).document)


def test_a_plan_shown_instead_of_a_run_is_of_its_type(told):
    document = told("runs_start", runbook="near-oom", host="nobody", attributes='{"level": "high"}', check=True, key="")
    assert document["check"] is True
    fits("runs_start", document)


def test_a_canary_is_of_its_type_from_its_plan_to_its_stop(told, kept, monkeypatch):
    monkeypatch.setattr("osremed.flows.canary_verbs._leave", lambda *_: None)
    given = {"runbook": "near-oom", "hosts": "web-1,web-2", "attributes": '{"level": "high"}', "key": "", "leave": True}
    planned = told("canary_start", **given, check=True)
    assert planned["waves"]
    fits("canary_start", planned)
    begun = told("canary_start", **given)
    fits("canary_start", begun)
    fits("canary_show", told("canary_show", canary_id=begun["canary_id"]))
    fits("canary_resume", told("canary_resume", canary_id=begun["canary_id"], leave=True))
    fits("canary_stop", told("canary_stop", canary_id=begun["canary_id"], reason="x"))
    fits("canary_list", told("canary_list"))


def test_a_panorama_of_this_machine_is_of_its_type():
    document = panorama(files=5, processes=5, growth="1s", heaps=1).document
    fits("panorama", {**document, "host": "here"})


def test_a_document_that_has_lost_or_gained_a_key_is_not_of_its_type(told, kept):
    row = told("runs_show", run_id=kept.kept)
    wrong = {"runs": [row], "damaged": []}
    with pytest.raises(AssertionError, match="next_before"):
        fits("runs_list", wrong)
    with pytest.raises(AssertionError, match="more"):
        fits("runs_list", {**wrong, "next_before": None, "more": 1})


@record
class _Row:
    name: str
    used_bytes: Reading[int]


def test_a_reading_is_its_value_or_the_reason_why_there_is_none():
    model = shape(_Row)
    missing = reading_as_json(Missing(Reason.DENIED, "/proc/1/maps"))
    for said in (reading_as_json(Value(7)), missing):
        assert model.model_validate({"name": "x", "used_bytes": said})
    with pytest.raises(ValueError, match="used_bytes"):
        model.model_validate({"name": "x", "used_bytes": None})


@pytest.mark.parametrize(
    ("language", "ana", "bot", "none", "gone"),
    [
        ("en", "person  until it is revoked", "agent   until 20", "no tokens", "the token of ana is worth nothing now"),
        ("zh_CN", "人员     直至 吊销", "AI 代理  直至 20", "没有令牌", "ana 的令牌已失效"),
        ("zh_TW", "人員     直至 撤銷", "AI 代理  直至 20", "沒有權杖", "ana 的權杖已失效"),
    ],
)
def test_who_has_a_token_is_told_in_the_language_that_is_spoken(tmp_path, language, ana, bot, none, gone):
    state = str(tmp_path)
    with spoken(language):
        assert verbs.tokens(state=state).text == none
        made = verbs.token(name="ana", state=state)
        assert made.text == made.document["token"]
        verbs.token(name="bot", state=state, agent=True, lasting="1d")
        told = verbs.tokens(state=state).text.splitlines()
        assert verbs.revoke(name="ana", state=state).text == gone
    assert told[0] == f"{'ana':<24} {'read':<24} {ana}"
    assert told[1].startswith(f"{'bot':<24} {'read':<24} {bot}")
