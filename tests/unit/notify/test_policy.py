"""The policy of notifications: every fault with its place, and no secret in it."""

from __future__ import annotations

import pytest

from osremed.cli.main import main
from osremed.core.errors import BadInput
from osremed.notify.message import Kind, Message
from osremed.notify.policy import lint, load_policy, secret
from osremed.runbook.text import parse_text

GOOD = """\
apiVersion: osremed/v1
kind: Notifications
console: https://osremed.example
targets:
  ops: {webhook: {url_from: OPS_URL, secret_from: OPS_SECRET}}
  chat: {chat: {url_from: CHAT_URL}}
  alerts: {alertmanager: {url: "http://127.0.0.1:9093", hold: 2h}}
rules:
  - on: run
    states: [AWAITING_APPROVAL, UNDO_INCOMPLETE]
    hosts: ["web-*"]
    to: [ops, chat]
  - {on: intervention, to: [alerts]}
"""


def _wrong(old, new):
    assert old in GOOD
    return lint(parse_text(GOOD.replace(old, new).encode(), "n.yaml"))[1]


def test_a_sound_policy_has_no_fault():
    policy, wrong = lint(parse_text(GOOD.encode(), "n.yaml"))
    assert wrong == []
    assert policy.targets["alerts"].alertmanager.hold == 7200


@pytest.mark.parametrize(
    ("old", "new", "where", "says"),
    [
        ("kind: Notifications", "kind: Notes", "n.yaml:2:7", "Notifications"),
        ("    to: [ops, chat]", "    to: [ops, chatt]", "n.yaml:12:15", "no target 'chatt'"),
        ("{url_from: CHAT_URL}", "{url_from: CHAT_URL, url: x}", "n.yaml:6:37", "unknown key 'url'"),
        ("[AWAITING_APPROVAL,", "[WAITING,", "n.yaml:10:14", "AWAITING_APPROVAL"),
        ("hold: 2h", "hold: 2", "n.yaml:7:63", "unit"),
        ("- {on: intervention, to", "- {on: intervention, states: [UNDONE], to", "n.yaml:13:5", "has no state"),
        ("{on: intervention, to: [alerts]}", "{on: intervention, to: [ops]}", "n.yaml:7:11", "nobody tells"),
        ("chat: {chat: {url_from: CHAT_URL}}", "chat: {}", "n.yaml:6:9", "exactly one way"),
        ("to: [alerts]", "to: []", "n.yaml:13:28", "at least 1"),
    ],
)
def test_a_fault_is_named_with_its_place(old, new, where, says):
    wrong = _wrong(old, new)
    assert any(each.where == where and says in each.what for each in wrong), [(each.where, each.what) for each in wrong]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("OPS_SECRET", "whsec_c2VjcmV0c2VjcmV0c2VjcmV0"),
        ("CHAT_URL", '"slack://token-a/token-b/token-c"'),
        ("http://127.0.0.1:9093", "https://user:word@alerts.example"),
        ("http://127.0.0.1:9093", "https://alerts.example/?key=1"),
        ("http://127.0.0.1:9093", "http://alerts.example:9093"),
        ("https://osremed.example", "https://a:b@osremed.example"),
        ("https://osremed.example", "javascript:alert(1)"),
    ],
)
def test_a_secret_or_an_address_in_clear_text_has_no_place_in_the_file(old, new):
    assert _wrong(old, new)


def test_the_check_tells_every_fault_and_which_secrets_nobody_has_here(tmp_path, monkeypatch, capsys):
    path = tmp_path / "n.yaml"
    path.write_text(GOOD.replace("to: [ops, chat]", "to: [a, b]"))
    assert main(["notify", "check", str(path)]) == 2
    assert {"'a'", "'b'"} <= set(capsys.readouterr().out.split())
    path.write_text(GOOD)
    monkeypatch.setenv("OPS_URL", "https://x")
    monkeypatch.delenv("OPS_SECRET", raising=False)
    assert main(["notify", "check", str(path)]) == 0
    told = capsys.readouterr().out
    assert "OPS_SECRET" in told
    assert "OPS_URL" not in told


def test_a_credential_of_systemd_comes_before_a_variable(tmp_path, monkeypatch):
    (tmp_path / "OPS_URL").write_text("https://from.file\n")
    monkeypatch.setenv("OPS_URL", "https://from.variable")
    assert secret("OPS_URL") == "https://from.variable"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert secret("OPS_URL") == "https://from.file"
    with pytest.raises(BadInput, match="nobody says"):
        secret("NOT_THERE")


def _message(**given):
    return Message(
        **{
            "id": "x",
            "kind": Kind.RUN,
            "time_ns": 1,
            "host": "web-1",
            "severity": "info",
            "title": "",
            "lines": (),
            **given,
        }
    )


def test_rules_choose_by_kind_state_host_and_runbook(tmp_path):
    path = tmp_path / "n.yaml"
    path.write_text(GOOD)
    policy = load_policy(str(path))
    assert policy.told(_message(state="UNDO_INCOMPLETE")) == ["ops", "chat"]
    assert policy.told(_message(state="SUCCEEDED")) == []
    assert policy.told(_message(state="UNDO_INCOMPLETE", host="db-1")) == []
    assert policy.told(_message(kind=Kind.INTERVENTION)) == ["alerts"]
