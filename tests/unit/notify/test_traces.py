"""A run as a trace: whole, in order, with the same ids however often it is sent."""

from __future__ import annotations

import json
import re

import pytest

from osremed.flows.settings import ControlPaths
from osremed.notify.follow import Follower
from osremed.notify.message import of_run
from osremed.notify.send import Sent, send
from osremed.notify.traces import spans_of
from osremed.runbook.store import RunStore
from tests.support.console_state import past


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    with past(tmp_path_factory.mktemp("past")) as found:
        yield found


def _spans(kept, run_id):
    store = RunStore(f"{kept.state}/runs")
    return spans_of(store.load(run_id)[0], store.happenings(run_id))


def _said(span):
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


def test_a_run_is_one_span_and_what_happened_lies_below_it_in_order(kept):
    whole, *parts = _spans(kept, kept.undone)
    names = [each["name"] for each in parts]
    assert names[:4] == ["raised", "admitted", "collected", "decided"]
    assert {"applied", "verified", "undone"} <= set(names)
    assert all(each["parentSpanId"] == whole["spanId"] for each in parts)
    assert "parentSpanId" not in whole
    times = [(int(each["startTimeUnixNano"]), int(each["endTimeUnixNano"])) for each in parts]
    assert all(since <= until for since, until in times)
    assert all(before[1] == after[0] for before, after in zip(times, times[1:]))
    assert int(whole["startTimeUnixNano"]) == times[0][0]
    assert int(whole["endTimeUnixNano"]) >= times[-1][1]


def test_the_end_of_a_run_and_what_was_measured_are_told(kept):
    undone, helped = _spans(kept, kept.undone), _spans(kept, kept.kept)
    assert (undone[0]["status"]["code"], helped[0]["status"]["code"]) == (2, 1)
    assert _said(undone[0])["host.name"] == "web-2"
    assert _said(undone[0])["osremed.state"] == "UNDONE"
    verdicts = [_said(each) for each in helped if each["name"] == "verified"]
    assert any("HOLDS" in verdict.values() for verdict in verdicts)


def test_ids_are_those_of_opentelemetry_alone_of_their_kind_and_always_the_same(kept):
    spans = _spans(kept, kept.undone)
    assert spans == _spans(kept, kept.undone)
    assert all(re.fullmatch("[0-9a-f]{32}", each["traceId"]) for each in spans)
    assert all(re.fullmatch("[0-9a-f]{16}", each["spanId"]) for each in spans)
    assert len({each["spanId"] for each in spans}) == len(spans)
    assert {each["traceId"] for each in spans}.isdisjoint({each["traceId"] for each in _spans(kept, kept.kept)})


def test_a_collector_gets_runs_that_have_ended_and_nothing_else(kept, tmp_path, receiver, policy):
    store = RunStore(f"{kept.state}/runs")
    follower = Follower(ControlPaths(kept.state), str(tmp_path))
    target = policy().targets["otel"]
    for run_id in (kept.waiting, kept.undone):
        message = follower.traced(of_run(store.load(run_id)[0]))
        assert send(target, message, None) == Sent()
    ((path, headers, body),) = receiver.requests
    assert (path, headers["Content-Type"]) == ("/v1/traces", "application/json")
    (resource,) = json.loads(body)["resourceSpans"]
    assert _said(resource["resource"])["service.name"] == "osremed"
    assert resource["scopeSpans"][0]["spans"] == _spans(kept, kept.undone)
