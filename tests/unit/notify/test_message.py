"""Messages and what carries them: signatures, alerts, and text of hosts that means nothing to anybody."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.core.event import Event
from osremed.notify.alertmanager import alerts_of
from osremed.notify.message import Kind, Message, as_json, from_json, harmless, of_intervention, of_run
from osremed.notify.webhook import body_of, headers_of, key_of
from osremed.runbook.store import RunStore
from tests.support.console_state import HOSTILE, make_event, past
from tests.unit.notify.conftest import KEY

EVIL = '<!channel> <at user_id="all"> @all [x](http://evil) http://evil `a` *b*\r\nBcc: x@y\x1b[2J\u202e'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with past(tmp_path_factory.mktemp("past")) as kept:
        store = RunStore(f"{kept.state}/runs")
        yield {run.state.value: run for run in store.runs()[0]}


def _is_harmless(text):
    return text.isprintable() and not any(mark in text for mark in ("<", ">", "@", "](", "://", "`", "*", "\u202e"))


@given(st.text())
def test_no_text_is_markup_a_mention_a_link_or_a_second_line(text):
    assert _is_harmless(harmless(text))
    assert len(harmless(text * 50)) <= 300


def test_what_hosts_and_people_write_is_harmless_in_every_message(runs):
    event = Event("e", "memory.near_oom", "web-1", 1, {"killed": [{"pid": 7, "name": EVIL, "why": EVIL}]})
    for message in (of_intervention(event), *(of_run(run) for run in runs.values())):
        assert all(_is_harmless(line) for line in (message.title, *message.lines))


def test_a_run_is_told_with_its_reason_and_how_bad_it_is(runs):
    undone = of_run(runs["UNDONE"])
    assert (undone.severity, undone.host, undone.state) == ("warning", "web-2", "UNDONE")
    assert "was taken back" in undone.title
    assert any("undo: fastoom_policy: restored" in line for line in undone.lines)
    waiting = of_run(runs["AWAITING_APPROVAL"])
    seen = f"osremed runs approve {waiting.run_id} --plan {runs['AWAITING_APPROVAL'].plan.digest[:12]}"
    assert any(line.endswith(seen) for line in waiting.lines)


def test_an_intervention_names_who_was_ended_and_what_it_held():
    message = of_intervention(make_event("e-1", "web-1"))
    assert message.title.startswith("FastOOM ended ")
    assert "9.0 MiB" in message.lines[0]
    assert HOSTILE not in message.title
    assert of_intervention(Event("e", "memory.near_oom", "web-1", 1, {})) is None
    assert of_intervention(Event("e", "memory.level", "web-1", 1, {"killed": [{"pid": 1}]})) is None


@given(st.recursive(st.none() | st.integers() | st.text(), lambda b: st.lists(b) | st.dictionaries(st.text(), b)))
def test_no_event_of_a_host_breaks_the_notifier(killed):
    message = of_intervention(Event("e", "memory.near_oom", "web-1", 1, {"killed": killed}))
    assert message is None or _is_harmless(message.title)


def test_the_same_fact_has_the_same_id_and_a_message_survives_the_spool(runs):
    run = runs["UNDONE"]
    assert of_run(run).id == of_run(run).id
    assert from_json(json.loads(json.dumps(as_json(of_run(run))))) == of_run(run)
    with pytest.raises(BadInput):
        from_json({"kind": "run"})


def test_a_receiver_checks_the_signature_as_standard_webhooks_says(runs):
    message = of_run(runs["UNDONE"])
    body = body_of(message, "https://osremed.example/runs/1")
    headers = headers_of(message.id, body, "whsec_" + base64.b64encode(KEY).decode(), 1_700_000_000)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    version, _, signature = headers["webhook-signature"].partition(",")
    assert version == "v1"
    assert base64.b64decode(signature) == hmac.new(KEY, signed, hashlib.sha256).digest()
    assert json.loads(body)["type"] == "run.undone"


@pytest.mark.parametrize("given", ["x\r\nx-evil: 1", "", "a b", "é", "x" * 300])
def test_an_id_is_never_a_second_header(given):
    with pytest.raises(BadInput):
        headers_of(given, b"", base64.b64encode(KEY).decode(), 1)


@pytest.mark.parametrize("given", ["", "whsec_", "not base64!", base64.b64encode(b"short").decode()])
def test_a_weak_secret_is_refused(given):
    with pytest.raises(BadInput, match="base64"):
        key_of(given)


def test_an_alert_has_constant_labels_ends_by_itself_and_is_ended_by_the_next_state(runs):
    waiting = of_run(runs["AWAITING_APPROVAL"])
    begun = alerts_of(waiting, 3600, "")
    assert [each["labels"]["alertname"] for each in begun] == ["OsremedAwaitingApproval"]
    denied = Message(**{**_fields(waiting), "state": "REFUSED", "severity": "info", "ends": "AWAITING_APPROVAL"})
    ended = alerts_of(denied, 3600, "")
    assert [each["labels"] for each in ended] == [begun[0]["labels"]]
    assert ended[0]["endsAt"] < begun[0]["endsAt"]


def test_what_is_no_trouble_is_no_alert(runs):
    assert alerts_of(of_run(runs["SUCCEEDED"]), 3600, "") == []
    assert alerts_of(of_run(runs["UNDONE"]), 3600, "")[0]["annotations"]["summary"]


def _fields(message):
    return {name: getattr(message, name) for name in Message.__dataclass_fields__}


def test_every_kind_of_message_has_an_alert_name():
    message = Message("i", Kind.INTERVENTION, 1, "web-1", "warning", "t", ())
    assert alerts_of(message, 1, "")[0]["labels"]["alertname"] == "OsremedIntervention"
