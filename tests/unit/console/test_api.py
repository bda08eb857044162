"""HTTP: who may, what goes in, what comes out, and what never does."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from osremed.console import app as app_module
from osremed.console.api import Door, Refused
from osremed.console.app import build_app
from osremed.console.binding import exposed, method_and_path, open_args
from osremed.console.limits import MAX_BODY_BYTES, Buckets
from osremed.console.tokens import SCOPES, Gate, make_token, read_tokens, revoke_token
from osremed.core.answer import Answer
from osremed.core.errors import BadInput
from osremed.flows.control_verbs import freeze
from osremed.flows.settings import ControlPaths
from osremed.runbook.audit import person, verify
from osremed.runbook.store import RunStore

JSON = "application/problem+json"


def path_of(verb, run_id):
    named = {"run_id": run_id, "runbook": "near-oom", "event_id": "e-web-1", "host": "web-1", "canary_id": "0" * 16}
    return "/v1" + method_and_path(verb)[1].format(**named)


def test_each_verb_answers_its_scope_and_no_other(ask, kept, monkeypatch):
    """The whole matrix; what a verb would do is replaced, so that all are tried."""
    reached = []
    monkeypatch.setattr("osremed.console.api.call", lambda verb, *_: reached.append(verb) or Answer({}, ""))
    for verb in exposed():
        method, _ = method_and_path(verb)
        asked = [arg for arg in open_args(verb) if arg.required or arg.needed_afar or not arg.name.startswith("-")]
        needed = {arg.dest: 1 if arg.kind == "int" else "x" for arg in asked}
        given = {} if method == "GET" else {"json": {k: v for k, v in needed.items() if f"{{{k}}}" not in verb.route}}
        for scope in SCOPES:
            reached.clear()
            answer = ask(method, path_of(verb, kept.kept), scope, **given)
            allowed = scope == verb.scope or verb.scope == "read"
            assert (answer.status_code, reached) == ((200, [verb]) if allowed else (403, [])), (verb.words, scope)


@pytest.mark.parametrize("given", [None, "Bearer ", "Bearer osr_wrong", "Basic YTpi", "bearer \udcff"])
def test_without_a_valid_token_nothing_is_told(given, client, monkeypatch):
    monkeypatch.setattr("osremed.console.api.call", lambda *_: pytest.fail("reached"))
    monkeypatch.setattr(Buckets, "take", lambda *_: 0.0)  # guesses are counted, and there are many here
    headers = {"Authorization": given.encode("utf-8", "surrogateescape")} if given else {}
    for verb in exposed():
        method, _ = method_and_path(verb)
        answer = client.request(method, path_of(verb, "0" * 16), headers=headers)
        assert answer.status_code == 401, verb.words
        assert answer.headers["www-authenticate"] == "Bearer"


def test_runs_are_told_newest_first_a_page_at_a_time(ask, kept):
    first = ask("GET", "/v1/runs", params={"limit": 2}).json()["document"]
    rest = ask("GET", "/v1/runs", params={"limit": 2, "before": first["next_before"]}).json()["document"]
    assert [each["run_id"] for each in [*first["runs"], *rest["runs"]]] == [kept.waiting, kept.undone, kept.kept]
    assert rest["next_before"] is None


def test_a_run_is_the_same_as_on_the_command_line(ask, kept):
    told = ask("GET", f"/v1/runs/{kept.undone}").json()
    assert told["document"]["state"] == "UNDONE"
    assert told["exit_code"] == 4


def test_a_report_is_a_page_for_a_browser_and_json_for_a_program(ask, kept, client, tokens):
    headers = {"Authorization": f"Bearer {tokens['read']}", "Accept": "text/html"}
    page = client.get(f"/v1/runs/{kept.kept}/report", headers=headers)
    assert page.text.startswith("<!doctype html>")
    assert "<script>alert" not in page.text
    assert "report" in ask("GET", f"/v1/runs/{kept.kept}/report").json()["document"]


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("GET", "/v1/runs/0000000000000000", {}, 404),
        ("GET", "/v1/runs/..%2f..%2fetc", {}, 404),
        ("GET", "/v1/runs", {"params": {"limit": "many"}}, 422),
        ("GET", "/v1/runs", {"params": {"state": "/etc"}}, 422),
        ("GET", "/v1/events", {"params": {"limit": 0}}, 422),
        ("GET", "/v1/nothing", {}, 404),
        ("DELETE", "/v1/runs", {}, 405),
        ("POST", "/v1/freezes", {"content": b"{"}, 422),
        ("POST", "/v1/freezes", {"json": {"reason": "x", "state": "/tmp"}}, 422),
        ("POST", "/v1/freezes", {"json": {"reason": "x" * 5000}}, 422),
        ("POST", "/v1/runs", {"json": {"runbook": "../../etc", "host": "web-1"}}, 404),
        ("POST", "/v1/runs", {"json": {"runbook": "near-oom"}}, 422),
    ],
)
def test_a_wrong_request_is_a_problem_with_its_place(method, path, more, status, ask):
    answer = ask(method, path, "ana", **more)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON
    assert answer.json()["title"]


def test_a_body_beyond_the_limit_is_not_read(ask):
    assert ask("POST", "/v1/freezes", "ana", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413


def test_who_a_token_belongs_to_is_who_the_audit_and_the_freeze_name(ask, kept):
    assert ask("POST", "/v1/freezes", "run", json={"reason": "fair"}).status_code == 200
    (found,) = freeze(state=kept.state).document["freezes"]
    assert found["by"] == "only-run" != person()
    assert verify(ControlPaths(kept.state).hands).entries == 1


def test_nobody_approves_a_run_they_asked_for(ask, kept):
    path, store = f"/v1/runs/{kept.waiting}/approve", RunStore(ControlPaths(kept.state).runs)
    seen = {"plan": ask("GET", f"/v1/runs/{kept.waiting}").json()["document"]["plan"]["digest"]}
    refused = ask("POST", path, "ana", json=seen)
    assert refused.status_code == 422
    assert "somebody else approves" in refused.json()["title"]
    assert ask("POST", path, "approve", json={**seen, "reason": "seen"}).status_code == 200
    deadline = time.monotonic() + 30
    while not store.load(kept.waiting)[0].ended and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.load(kept.waiting)[0].approved_by == "only-approve"


def test_over_http_only_the_plan_that_was_seen_is_approved(ask, kept):
    path = f"/v1/runs/{kept.waiting}/approve"
    for given in ({}, {"plan": ""}, {"plan": "0" * 64}, {"plan": "a"}, {"plan": None}):
        refused = ask("POST", path, "approve", json=given)
        assert refused.status_code == 422, given
    assert ask("GET", f"/v1/runs/{kept.waiting}").json()["document"]["state"] == "AWAITING_APPROVAL"
    assert verify(ControlPaths(kept.state).hands).entries == 0


def test_a_canary_begins_is_one_for_its_key_and_is_stopped_by_who_asks(ask, kept, monkeypatch):
    left = []
    monkeypatch.setattr("osremed.flows.canary_verbs._leave", lambda _paths, name, *_: left.append(name))
    given = {"runbook": "near-oom", "hosts": "web-1,web-2", "attributes": '{"level": "high"}'}
    keyed = {"headers": {"Idempotency-Key": "k1"}}

    def start():
        return ask("POST", "/v1/canaries", "ana", json=given, **keyed).json()["document"]

    begun = start()
    assert start()["canary_id"] == begun["canary_id"]
    assert left == [begun["canary_id"]]
    assert begun["by"] == "ana"
    place = f"/v1/canaries/{begun['canary_id']}"
    stopped = ask("POST", f"{place}/stop", "run", json={"reason": "wrong release"}).json()["document"]
    assert (stopped["state"], stopped["stop"]["by"], stopped["stop"]["why"]) == (
        "stopping",
        "only-run",
        "wrong release",
    )
    assert ask("GET", place).json()["document"] == stopped
    (row,) = ask("GET", "/v1/canaries").json()["document"]["canaries"]
    assert (row["canary_id"], row["hosts"], row["untouched"]) == (begun["canary_id"], 2, 2)
    assert verify(ControlPaths(kept.state).hands).faults == ()


def test_an_agents_token_can_never_approve(kept):
    for scope in ("approve", "admin"):
        with pytest.raises(BadInput, match="only read and run"):
            make_token(kept.state, "robot", ("run", scope), agent=True)


def test_a_revoked_or_expired_token_is_worth_nothing_at_once(ask, kept, client):
    assert ask("GET", "/v1/runs").status_code == 200
    revoke_token(kept.state, "only-read")
    assert ask("GET", "/v1/runs").status_code == 401
    short = make_token(kept.state, "short", ("read",), agent=False, lasting_s=0.001)
    time.sleep(0.01)
    assert client.get("/v1/runs", headers={"Authorization": f"Bearer {short}"}).status_code == 401


def test_tokens_are_kept_as_hashes_for_root_alone(kept, tokens):
    path = f"{kept.state}/console/tokens.json"
    with open(path, encoding="ascii") as file:
        text = file.read()
    assert not any(token in text for token in tokens.values())
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_damaged_token_file_lets_nobody_in(kept, tokens):
    with open(f"{kept.state}/console/tokens.json", "w", encoding="ascii") as file:
        file.write('[{"name": "x"')
    with pytest.raises(BadInput, match="not a list of tokens"):
        Gate(kept.state).caller(tokens["ana"])
    with pytest.raises(BadInput):
        read_tokens(kept.state)


def test_too_many_calls_are_told_to_wait_and_so_are_guesses(kept, tokens):
    door = Door(Gate(kept.state), *(Buckets(0.1, 3, lambda: 0.0) for _ in range(2)))
    for token, before in ((tokens["read"], None), ("osr_guess", 401)):
        statuses = []
        for _ in range(4):
            try:
                door.enter(token, "read", "203.0.113.7")
                statuses.append(None)
            except Refused as refused:
                statuses.append(refused.response.status_code)
                wait = refused.response.headers.get("retry-after")
        assert (statuses, wait) == ([before, before, before, 429], "10")
    assert door.enter(tokens["ana"], "read", "203.0.113.7").name == "ana"  # a guesser does not lock others out


def test_a_bucket_fills_again_by_its_rate():
    now = [0.0]
    bucket = Buckets(2.0, 3, lambda: now[0])
    assert [bucket.take("a") == 0.0 for _ in range(4)] == [True, True, True, False]
    assert bucket.take("b") == 0.0
    now[0] = 0.5
    assert [bucket.take("a") == 0.0 for _ in range(2)] == [True, False]


def test_the_state_of_a_run_is_streamed_until_it_ends(client, tokens, kept):
    ended = threading.Timer(
        1.0,
        lambda: client.post(
            f"/v1/runs/{kept.waiting}/deny", headers={"Authorization": f"Bearer {tokens['approve']}"}, json={}
        ),
    )
    ended.start()
    headers = {"Authorization": f"Bearer {tokens['read']}"}
    with client.stream("GET", f"/v1/runs/{kept.waiting}/stream", headers=headers) as answer:
        lines = [line.partition(": ")[2] for line in answer.iter_lines() if line.startswith("data: ")]
    ended.join()
    assert [json.loads(line)["state"] for line in lines] == ["AWAITING_APPROVAL", "REFUSED"]


def test_a_stream_ends_with_its_token_and_reads_a_run_that_stands_still_no_more_than_twice(
    client, tokens, kept, places, monkeypatch
):
    reads, run = [], app_module._run
    monkeypatch.setattr(app_module, "_run", lambda *args: reads.append(args) or run(*args))
    revoked = threading.Timer(2.0, lambda: revoke_token(places.state, "only-read"))
    revoked.start()
    headers = {"Authorization": f"Bearer {tokens['read']}"}
    with client.stream("GET", f"/v1/runs/{kept.waiting}/stream", headers=headers) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    revoked.join()
    assert len(lines) == 1
    assert len(reads) <= 2


def test_every_answer_says_what_a_browser_may_do_with_it(client):
    for path in ("/v1/health", "/v1/runs", "/sign-in", "/static/console.css"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_document_tells_every_route_its_scope_and_its_problems(places):
    document = build_app(places).openapi()
    for verb in exposed():
        method, path = method_and_path(verb)
        told = document["paths"][f"/v1{path}"][method.lower()]
        assert f"Scope: {verb.scope}" in told["description"]
        assert {"401", "403", "422"} <= set(told["responses"])
        names = {each["name"] for each in told.get("parameters", [])}
        assert not names & {"state", "inventory", "collections", "source"}
