"""Alerts of Alertmanager as events: one for as long as it fires, of the host its labels name, and never our own."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.core.journal import read_journal
from osremed.flows.alerts import event_of
from osremed.notify.alertmanager import alerts_of
from osremed.notify.message import Kind, Message
from tests.unit.flows.test_intake import client, intake

__all__ = ["intake"]


def _alert(**given):
    return {
        "status": "firing",
        "labels": {"alertname": "HighMemory", "instance": "web-1:9100", "severity": "page"},
        "annotations": {"summary": "little is left"},
        "startsAt": "2026-11-22T10:48:26.842123456Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "f00",
        **given,
    }


def test_an_alert_is_an_event_of_the_host_its_labels_name():
    event = event_of(_alert())
    assert (event.name, event.host, event.time_ns) == ("alert.high_memory", "web-1", 1795344506842123000)
    assert event.attributes["severity"] == "page"
    assert event.attributes["annotations"]["summary"] == "little is left"


@pytest.mark.parametrize(
    ("labels", "host"),
    [
        ({"instance": "10.0.0.1:9100"}, "10.0.0.1"),
        ({"instance": "web-1"}, "web-1"),
        ({"instance": "10.0.0.1:9100", "host": "web-2"}, "web-2"),
        ({"node": "k8s-3", "instance": "x:1"}, "k8s-3"),
    ],
)
def test_the_most_particular_label_names_the_host(labels, host):
    assert event_of(_alert(labels={"alertname": "X", **labels})).host == host


def test_repeats_are_one_event_and_another_firing_is_another():
    assert event_of(_alert()).id == event_of(_alert(annotations={}, endsAt="x")).id
    assert event_of(_alert()).id != event_of(_alert(startsAt="2026-11-22T11:00:00Z")).id
    over = event_of(_alert(status="resolved", endsAt="2026-11-22T11:00:00Z"))
    assert over.name == "alert_resolved.high_memory"
    assert over.id != event_of(_alert()).id


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"labels": {"alertname": "X"}}, "which host"),
        ({"labels": {"instance": "web-1"}}, "name"),
        ({"labels": {"alertname": "X", "host": "-rf /"}}, "host"),
        ({"labels": {"alertname": "X", "host": 7}}, "text"),
        ({"labels": {f"l{n}": "" for n in range(99)}}, "at most"),
        ({"startsAt": "yesterday"}, "instant"),
        ({"startsAt": "2026-11-22T10:48:26"}, "instant"),
        ({"status": "pending"}, "firing or resolved"),
    ],
)
def test_what_is_no_alert_of_a_host_is_refused(given, says):
    with pytest.raises(BadInput, match=says):
        event_of(_alert(**given))


def test_what_osremed_has_raised_does_not_come_back_to_it():
    message = Message("i", Kind.RUN, 10**18, "web-1", "critical", "t", (), state="UNDO_INCOMPLETE")
    ours = {**alerts_of(message, 60, "")[0], "status": "firing"}
    with pytest.raises(BadInput, match="osremed has raised it"):
        event_of(ours)


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda b: st.lists(b) | st.dictionaries(st.text(), b))
    | st.builds(_alert, labels=st.dictionaries(st.sampled_from(["alertname", "host", "x"]), st.text()))
    | st.builds(_alert, startsAt=st.text() | st.datetimes().map(str) | st.integers())
)
def test_nothing_that_comes_in_is_a_crash(alert):
    with contextlib.suppress(BadInput):
        event_of(alert)


def test_the_intake_keeps_alerts_tells_of_each_once_and_what_it_refused(intake, tmp_path):
    body = {"version": "4", "alerts": [_alert(), _alert(), _alert(labels={"alertname": "X"})]}
    told = client(intake).post("/v1/alerts", json=body).json()
    assert (len(told["acked"]), told["refused"][0]["id"]) == (2, "f00")
    entries = read_journal(str(tmp_path / "intake")).entries
    assert [entry.record["name"] for entry in entries] == ["alert.high_memory"]
    assert client(intake, token="x" * 64).post("/v1/alerts", json=body).status_code == 401
    assert client(intake).post("/v1/alerts", json={"events": []}).status_code == 422
