"""expect -> plan -> validate -> register undo -> replace -> reload, or as it was before."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _change, _undo
from ansible_collections.osremed.host.plugins.module_utils._change import Request, carry_out
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import ABSENT, FileState, put_state, read_state

from tests.support import an_agent

OLD = FileState(True, b'{"a": 1}\n', 0o640, os.geteuid(), os.getegid())
NEW = OLD._replace(data=b'{"a": 2}\n')
ACCEPT = [sys.executable, "-c", "import sys; sys.exit(b'2' not in open(sys.argv[1], 'rb').read())", "%s"]
REJECT = [sys.executable, "-c", "import sys; sys.exit(sys.argv[1] + ':1:7: no such key')", "%s"]


@pytest.fixture
def host(tmp_path):
    """A host with OLD in place; `ask(**)` makes the request to change it to `after`."""
    os.mkdir(tmp_path / "etc")
    os.mkdir(tmp_path / "scratch")
    path = str(tmp_path / "etc" / "policy.json")
    undo_dir = str(tmp_path / "undo")
    status_file = str(tmp_path / "status.json")
    put_state(path, OLD)

    def ask(after=NEW, *, check=False, **given):
        options = {
            "path": path, "plan": lambda before: after, "expect_sha256": None, "validate": [], "undo_id": "",
            "undo_dir": undo_dir, "confirm_within_s": 0.0, "status_file": status_file, "reload": "auto",
            "reload_timeout_s": 10.0, "scratch_dir": lambda: str(tmp_path / "scratch"),
            "agent_status": an_agent.pretend(tmp_path / "agent-status.json", undo_dir),
        }  # fmt: skip
        return carry_out(Request(**{**options, **given}), check)

    def left():
        return sorted(
            str(p.relative_to(tmp_path))
            for p in tmp_path.rglob("*")
            if p.is_file() and "status" not in p.name and p.name != ".lock"
        )

    return SimpleNamespace(ask=ask, path=path, undo_dir=undo_dir, left=left, read=lambda: read_state(path))


def test_a_change_is_made_once_and_tells_how_to_undo_it(host):
    result = host.ask()
    assert (result["changed"], host.read()) == (True, NEW)
    assert (result["previous_sha256"], result["applied_sha256"]) == (OLD.sha256, NEW.sha256)
    assert result["previous"] == {
        "path": host.path, "state": "present", "content_b64": "eyJhIjogMX0K", "mode": "0640",
        "expect_sha256": NEW.sha256, "status_file": result["previous"]["status_file"], "reload": "auto",
    }  # fmt: skip
    again = host.ask()
    assert (again["changed"], again["previous"]) == (False, {})


def test_a_new_file_is_undone_by_absence(host):
    put_state(host.path, ABSENT)
    result = host.ask()
    assert result["previous"]["state"] == "absent"
    assert result["previous_sha256"] == ""


def test_check_mode_tells_the_same_and_touches_nothing(host):
    result = host.ask(check=True, undo_id="u", validate=ACCEPT)
    assert result["changed"]
    assert result["diff"]["before"] == OLD.data.decode()
    assert result["diff"]["after"] == NEW.data.decode()
    assert result["previous"]["content_b64"] == "eyJhIjogMX0K"
    assert (host.read(), host.left()) == (OLD, ["etc/policy.json"])


@pytest.mark.parametrize("check", [False, True])
def test_a_file_that_someone_changed_since_is_a_conflict(host, check):
    with pytest.raises(ActionFailed, match="changed by someone else") as refused:
        host.ask(expect_sha256="0" * 64, check=check, undo_id="u")
    assert refused.value.facts["conflict"] is True
    assert (host.read(), host.left()) == (OLD, ["etc/policy.json"])


@pytest.mark.parametrize("expected", [OLD.sha256, NEW.sha256])
def test_the_expected_file_is_changed(host, expected):
    put_state(host.path, OLD if expected == OLD.sha256 else NEW)
    host.ask(expect_sha256=expected)
    assert host.read() == NEW


def test_what_is_wanted_already_is_no_conflict(host):
    put_state(host.path, NEW)
    assert not host.ask(expect_sha256="0" * 64)["changed"]
    put_state(host.path, ABSENT)
    assert not host.ask(ABSENT, expect_sha256="0" * 64)["changed"]


def test_expecting_no_file_is_a_conflict_with_a_file(host):
    with pytest.raises(ActionFailed, match="expected no file"):
        host.ask(expect_sha256="")


@pytest.mark.parametrize("check", [False, True])
def test_a_policy_that_the_validator_rejects_changes_nothing(host, check):
    with pytest.raises(ActionFailed, match=r"policy\.json:1:7: no such key") as refused:
        host.ask(validate=REJECT, undo_id="u", check=check)
    assert refused.value.facts["rejected_sha256"] == NEW.sha256
    assert "scratch" not in str(refused.value)
    assert (host.read(), host.left()) == (OLD, ["etc/policy.json"])


def test_the_validator_sees_the_new_bytes_before_they_are_in_place(host):
    host.ask(validate=ACCEPT)
    assert host.read() == NEW


def test_a_validator_that_is_missing_is_a_failure_but_not_yet_in_check_mode(host):
    missing = [sys.executable, "/nonexistent/osremed", "%s"]
    with pytest.raises(ActionFailed, match="Nothing changed"):
        host.ask(validate=missing)
    assert host.read() == OLD
    assert "not installed yet" in " ".join(host.ask(validate=missing, check=True)["evidence"])


def test_the_undo_record_is_on_disk_before_the_file_changes(host, monkeypatch):
    put, seen = _change.put_state, []

    def look(path, wanted):
        seen.append((_undo.load_record(host.undo_dir, "u")["applied_sha256"], host.read()))
        put(path, wanted)

    monkeypatch.setattr(_change, "put_state", look)
    host.ask(undo_id="u", confirm_within_s=60)
    assert seen == [(NEW.sha256, OLD)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_around_the_write_can_be_taken_back(host, moment):
    child = os.fork()
    if child == 0:
        put = _change.put_state

        def die(path, wanted):
            if moment == "after":
                put(path, wanted)
            os._exit(9)

        _change.put_state = die
        host.ask(undo_id="u")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert host.read() == (NEW if moment == "after" else OLD)
    outcome = _undo.revert(host.undo_dir, "u", False)[0]
    assert outcome == ("restored" if moment == "after" else "nothing_to_do")
    assert host.read() == OLD


def test_a_repeated_call_after_a_kill_finishes_and_still_knows_the_way_back(host):
    first = host.ask(undo_id="u")
    again = host.ask(undo_id="u")
    assert (again["changed"], again["undo_registered"]) == (False, True)
    assert again["previous"] == first["previous"]


def test_a_write_that_fails_changes_nothing_and_needs_no_undo(host, monkeypatch):
    def full(path, wanted):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_change, "put_state", full)
    with pytest.raises(ActionFailed, match="No space left"):
        host.ask(undo_id="u")
    assert (host.read(), host.left()) == (OLD, ["etc/policy.json"])


def test_an_undo_that_cannot_be_registered_stops_the_change(host, monkeypatch):
    def full(undo_dir, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_undo, "register", full)
    with pytest.raises(OSError, match="No space left"):
        host.ask(undo_id="u")
    assert host.read() == OLD


def test_a_directory_that_is_missing_is_named(host):
    os.unlink(host.path)
    os.rmdir(os.path.dirname(host.path))
    with pytest.raises(ActionFailed, match="does not exist"):
        host.ask()
    assert host.ask(check=True)["changed"]
    assert not host.ask(ABSENT)["changed"]


def test_a_running_daemon_loads_the_policy_and_says_so(host, start_daemon):
    daemon = start_daemon("accepts", host.path)
    result = host.ask()
    assert (result["reloaded"], daemon.status["policy_sha256"], daemon.hangups) == (True, NEW.sha256, 1)
    again = host.ask()
    assert (again["changed"], again["reloaded"], daemon.hangups) == (False, False, 1)


def test_a_daemon_that_missed_the_change_is_told_by_the_next_call(host, start_daemon):
    daemon = start_daemon("accepts", host.path)
    host.ask(reload="never")
    assert daemon.status["policy_sha256"] == OLD.sha256
    assert host.ask(check=True)["changed"]
    result = host.ask()
    assert (result["changed"], result["reloaded"], result["previous"]) == (True, True, {})


@pytest.mark.parametrize(("mode", "answer"), [("rejects", "rejected"), ("silent", "silent"), ("dies", "gone")])
def test_a_daemon_that_does_not_take_the_policy_gets_the_old_one_back(host, start_daemon, mode, answer):
    start_daemon(mode, host.path)
    with pytest.raises(ActionFailed, match="did not take") as refused:
        host.ask(undo_id="u", reload_timeout_s=0.5 if mode == "silent" else 10.0)
    facts = refused.value.facts
    assert (facts["reload_answer"], facts["restored"], facts["rejected"]) == (answer, True, mode == "rejects")
    assert (host.read(), host.left()) == (OLD, ["etc/policy.json"])
    if mode == "rejects":
        assert "no such key" in str(refused.value)


def test_a_required_daemon_that_does_not_run_stops_the_change(host):
    with pytest.raises(ActionFailed, match="there is no status file"):
        host.ask(reload="required")
    assert host.read() == OLD


def test_a_pid_that_belongs_to_someone_else_now_is_not_signalled(host, start_daemon, tmp_path):
    daemon = start_daemon("accepts", host.path)
    text = (tmp_path / "status.json").read_text()
    wrong = text.replace(str(daemon.status["start_time_ticks"]), "17")
    (tmp_path / "status.json").write_text(wrong)
    result = host.ask()
    assert (result["reloaded"], daemon.hangups, host.read()) == (False, 0, NEW)
    assert "has ended" in " ".join(result["evidence"])


def test_a_daemon_of_another_policy_is_not_signalled(host, start_daemon, tmp_path):
    (tmp_path / "other.json").write_bytes(b"{}")
    daemon = start_daemon("accepts", tmp_path / "other.json")
    assert not host.ask()["reloaded"]
    assert daemon.hangups == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x"}'])
def test_a_status_file_that_cannot_be_read_is_no_daemon_and_is_told(host, tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert "cannot be read" in " ".join(host.ask()["evidence"])
