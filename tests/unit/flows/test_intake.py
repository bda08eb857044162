"""The intake: what is acknowledged is on disk; what is not is told; nothing gets in without the token."""

import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from osremed.core.errors import BadInput
from osremed.core.journal import read_journal
from osremed.flows import intake as intake_module
from osremed.flows.intake import Intake, ensure_token, intake_app


@pytest.fixture
def intake(tmp_path):
    told = []
    made = Intake(str(tmp_path / "intake"), lambda: True, lambda seq, event: told.append((seq, event.id)))
    made.told = told
    yield made
    made.close()


def client(intake, token="t" * 64):
    return TestClient(intake_app(intake, token), headers={"Authorization": f"Bearer {'t' * 64}"})


def event(event_id="a"):
    return {"id": event_id, "name": "memory.near_oom", "host": "n1", "time_ns": 5, "attributes": {}}


def test_acknowledged_means_on_disk_and_told_once(intake, tmp_path):
    answer = client(intake).post("/v1/events", json={"events": [event("a"), event("b"), event("a")]})
    assert answer.json() == {"acked": ["a", "b", "a"], "refused": []}
    assert [entry.record["id"] for entry in read_journal(str(tmp_path / "intake")).entries] == ["a", "b"]
    assert [name for _, name in intake.told] == ["a", "b"]


def test_an_event_known_before_a_restart_is_dropped_after_it(intake, tmp_path):
    client(intake).post("/v1/events", json={"events": [event("a")]})
    intake.close()
    again = Intake(str(tmp_path / "intake"), lambda: True, lambda *_: pytest.fail("told twice"))
    assert client(again).post("/v1/events", json={"events": [event("a")]}).json()["acked"] == ["a"]
    intake._journal = again._journal


def test_not_ready_means_503_with_a_time_to_come_back(tmp_path):
    made = Intake(str(tmp_path / "x"), lambda: False, lambda *_: None)
    answer = client(made).post("/v1/events", json={"events": [event()]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client(made).get("/v1/health").status_code == 503
    made.close()


def test_what_was_acknowledged_and_is_not_decided_is_never_dropped_for_what_is_new(tmp_path, monkeypatch):
    monkeypatch.setattr(intake_module, "_SEGMENTS", 6)
    monkeypatch.setattr(intake_module, "_SPARE_SEGMENTS", 2)
    decided, acked, path = -1, 0, str(tmp_path / "x")
    made = Intake(path, lambda: True, lambda *_: None, lambda: decided)
    while acked < 100:
        large = {**event(f"e{acked}"), "attributes": {"text": "x" * 300_000}}
        answer = client(made).post("/v1/events", json={"events": [large]})
        if answer.status_code == 503:
            break
        acked += 1
    assert "wait to be decided" in answer.json()["title"]
    assert client(made).get("/v1/health").status_code == 503
    assert [entry.record["id"] for entry in read_journal(path).entries] == [f"e{number}" for number in range(acked)]
    decided = acked - 1
    assert client(made).post("/v1/events", json={"events": [event("next")]}).json()["acked"] == ["next"]
    made.close()


def test_another_token_gets_401_and_nothing_in(intake, tmp_path):
    answer = client(intake, token="x" * 64).post("/v1/events", json={"events": [event()]})
    assert answer.status_code == 401
    assert read_journal(str(tmp_path / "intake")).entries == ()


def test_a_body_over_the_limit_is_refused_unread(intake):
    assert client(intake).post("/v1/events", content=b"x" * ((1 << 20) + 1)).status_code == 413


def test_a_full_disk_is_507_and_not_an_acknowledgement(intake, monkeypatch):
    def full(_records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(intake._journal, "append_all", full)
    answer = client(intake).post("/v1/events", json={"events": [event()]})
    assert answer.status_code == 507
    assert intake.told == []


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=8,
    )
)
def test_no_json_breaks_it(tmp_path_factory, document):
    made = Intake(str(tmp_path_factory.mktemp("i")), lambda: True, lambda *_: None)
    for body in (document, {"events": document}, {"events": [document]}):
        assert client(made).post("/v1/events", json=body).status_code in (200, 422)
    made.close()


def test_the_token_is_made_once_readable_by_its_owner_alone(tmp_path):
    path = str(tmp_path / "token")
    token = ensure_token(path)
    assert ensure_token(path) == token
    assert len(token) == 64
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with open(path, "w") as stream:
        stream.write("short")
    with pytest.raises(BadInput, match="shorter"):
        ensure_token(path)
