from __future__ import annotations

import json
import os
import time

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _undo
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import ABSENT, FileState, put_state, read_state

NEW = FileState(True, b"new", 0o644, os.geteuid(), os.getegid())
OLD = NEW._replace(data=b"old", mode=0o640)


@pytest.fixture
def host(tmp_path):
    """A host on which OLD was replaced by NEW under the undo id `u`."""

    class Host:
        undo_dir = str(tmp_path / "state" / "undo")
        path = str(tmp_path / "file")

        def change(self, before, after):
            put_state(self.path, before)
            with _undo.locked(self.undo_dir, os.path.dirname(self.path), create=True):
                record = _undo.make_record("u", self.path, before, after.sha256, 60, "/run/status")
                _undo.register(self.undo_dir, record)
            put_state(self.path, after)

        @property
        def left(self):
            return sorted(name for name in os.listdir(self.undo_dir) if name != ".lock")

    return Host()


def test_a_record_says_all_that_another_program_needs(host):
    before_ns = time.time_ns()
    host.change(OLD, NEW)
    record = json.loads((read_state(host.undo_dir + "/u.json")).data)
    assert record["undo_id"] == "u"
    assert record["kind"] == "file"
    assert record["path"] == host.path
    assert record["previous"] == {
        "exists": True, "content_b64": "b2xk", "mode": 0o640, "uid": OLD.uid, "gid": OLD.gid,
    }  # fmt: skip
    assert record["applied_sha256"] == NEW.sha256
    assert record["reload_status"] == "/run/status"
    assert before_ns <= record["created_ns"] <= time.time_ns()
    assert record["deadline_ns"] == record["created_ns"] + 60 * 10**9
    assert os.stat(host.undo_dir + "/u.json").st_mode & 0o777 == 0o600
    assert os.stat(host.undo_dir).st_mode & 0o777 == 0o700
    assert set(record) == {
        "undo_id", "kind", "path", "previous", "applied_sha256", "deadline_ns", "reload_status", "created_ns",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"), [(OLD, NEW), (ABSENT, NEW), (OLD, ABSENT), (OLD, OLD._replace(mode=0o600))]
)
def test_revert_restores_byte_for_byte_and_only_once(host, before, after):
    host.change(before, after)
    assert _undo.revert(host.undo_dir, "u", False)[0] == "restored"
    assert read_state(host.path) == before
    assert host.left == []
    assert _undo.revert(host.undo_dir, "u", False)[0] == "absent"


def test_revert_of_a_change_that_never_came_has_nothing_to_do(host):
    host.change(OLD, NEW)
    put_state(host.path, OLD)
    assert _undo.revert(host.undo_dir, "u", False)[0] == "nothing_to_do"
    assert (read_state(host.path), host.left) == (OLD, [])


@pytest.mark.parametrize("found", [NEW._replace(data=b"theirs"), ABSENT])
def test_what_someone_else_changed_is_left_alone_and_stays_a_conflict(host, found):
    host.change(OLD, NEW)
    put_state(host.path, found)
    for _ in range(2):
        assert _undo.revert(host.undo_dir, "u", False)[0] == "conflict"
        assert (read_state(host.path), host.left) == (found, ["u.conflict"])
    assert _undo.confirm(host.undo_dir, "u", False) == "conflict"


def test_confirm_keeps_the_change_and_forgets_the_way_back(host):
    host.change(OLD, NEW)
    assert _undo.confirm(host.undo_dir, "u", False) == "confirmed"
    assert (read_state(host.path), host.left) == (NEW, [])
    assert _undo.confirm(host.undo_dir, "u", False) == "absent"


def test_check_mode_changes_nothing(host):
    host.change(OLD, NEW)
    assert _undo.confirm(host.undo_dir, "u", True) == "confirmed"
    assert _undo.revert(host.undo_dir, "u", True)[0] == "restored"
    assert (read_state(host.path), host.left) == (NEW, ["u.json"])


def test_the_oldest_value_wins_when_the_same_change_is_made_again(host):
    host.change(OLD, NEW)
    again = _undo.make_record("u", host.path, OLD._replace(data=b"between"), NEW.sha256, 99, "/run/status")
    _undo.register(host.undo_dir, again)
    assert _undo.load_record(host.undo_dir, "u")["deadline_ns"] == again["deadline_ns"]
    _undo.revert(host.undo_dir, "u", False)
    assert read_state(host.path) == OLD


def test_an_undo_id_stands_for_one_change_only(host):
    host.change(OLD, NEW)
    other = _undo.make_record("u", host.path, OLD, "0" * 64, 0, "")
    with pytest.raises(ActionFailed, match="taken by another change"):
        _undo.register(host.undo_dir, other)
    assert _undo.load_record(host.undo_dir, "u")["applied_sha256"] == NEW.sha256


@pytest.mark.parametrize("undo_id", ["", "../x", "a/b", ".hidden", "x" * 129, "a\n", "a b", "a:b"])
def test_an_undo_id_is_a_plain_file_name(host, undo_id):
    with pytest.raises(ActionFailed, match="undo id"):
        _undo.record_path(host.undo_dir, undo_id)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"undo_id": "u"}'])
def test_a_record_that_cannot_be_read_concludes_nothing_and_stays(host, damage):
    host.change(OLD, NEW)
    put_state(host.undo_dir + "/u.json", NEW._replace(data=damage))
    for act in (_undo.confirm, _undo.revert):
        with pytest.raises(ActionFailed, match="not an undo record"):
            act(host.undo_dir, "u", False)
    assert (read_state(host.path), host.left) == (NEW, ["u.json"])


def test_a_revert_that_was_killed_after_restoring_ends_well_the_next_time(host):
    host.change(OLD, NEW)
    child = os.fork()
    if child == 0:
        os.unlink = lambda path, **_: os._exit(9) if path.endswith("u.json") else None
        _undo.revert(host.undo_dir, "u", False)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (read_state(host.path), host.left) == (OLD, ["u.json"])
    assert _undo.revert(host.undo_dir, "u", False)[0] == "nothing_to_do"
    assert host.left == []
