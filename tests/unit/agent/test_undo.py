"""A change is taken back only if it is still ours, byte for byte, and no crash leaves it half done."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.agent import undo, undo_record, verbs
from osremed.agent.sweep import Sweeper, is_due
from osremed.agent.undo import Result
from osremed.agent.undo_record import UndoRecord, list_undo, undo_from_json
from osremed.core import files, journal
from osremed.core.canonical import sha256_hex
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput, NotFound, OsremedError
from osremed.core.files import exclusive_lock
from osremed.core.journal import read_journal
from osremed.core.log import Log
from osremed.sensors import procfs
from tests.support.dying import every_line, killed_at_line

OLD, NEW = b'{"sensitivity":"low"}\r\n\xff\x00', b'{"sensitivity":"medium"}\n'


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def policy(paths):
    with open(paths.fastoom_policy, "wb") as file:
        file.write(NEW)
    return paths.fastoom_policy


def register(paths, undo_id="u1", *, path=None, old=OLD, new=NEW, deadline_s=60.0, created_s=0.0, reload_status=""):
    base_ns = FakeClock().wall_ns()
    previous = (
        {"exists": False}
        if old is None
        else {
            "exists": True,
            "content_b64": base64.b64encode(old).decode(),
            "mode": 0o640,
            "uid": os.getuid(),
            "gid": os.getgid(),
        }
    )
    document = {
        "undo_id": undo_id,
        "kind": "file",
        "path": path or paths.fastoom_policy,
        "previous": previous,
        "applied_sha256": "" if new is None else sha256_hex(new),
        "deadline_ns": base_ns + round(deadline_s * 1e9) if deadline_s else 0,
        "reload_status": reload_status,
        "created_ns": base_ns + round(created_s * 1e9),
    }
    with open(os.path.join(paths.undo, f"{undo_id}.json"), "w") as file:
        json.dump(document, file)
    return document


def content(path):
    with open(path, "rb") as file:
        return file.read()


def events(paths):
    try:
        return [entry.record for entry in read_journal(os.path.join(paths.events, "agent")).entries]
    except FileNotFoundError:
        return []


def records(paths):
    return sorted(name for name in os.listdir(paths.undo) if not name.startswith("."))


def sweeper(paths, clock):
    return Sweeper(paths, clock, Log("test"))


def test_a_change_that_is_not_confirmed_in_time_is_taken_back_byte_for_byte(paths, policy, clock):
    register(paths)
    sweeps = sweeper(paths, clock)
    clock.advance(59.9)
    assert sweeps.sweep() == []
    assert content(policy) == NEW
    clock.advance(0.2)
    (done,) = sweeps.sweep()
    assert done.result is Result.REVERTED
    assert content(policy) == OLD
    assert os.stat(policy).st_mode & 0o7777 == 0o640
    assert records(paths) == []
    (event,) = events(paths)
    assert event["name"] == "change.reverted"
    assert event["attributes"]["why"] == "deadline"
    assert event["attributes"]["current_sha256"] == event["attributes"]["previous_sha256"] == sha256_hex(OLD)


def test_a_confirmed_change_stays(paths, policy, clock):
    register(paths)
    undo.confirm(paths, "u1")
    clock.advance(3600)
    assert sweeper(paths, clock).sweep() == []
    assert (content(policy), records(paths), events(paths)) == (NEW, [], [])


def test_what_was_taken_back_cannot_be_confirmed(paths, policy, clock):
    register(paths)
    clock.advance(61)
    sweeper(paths, clock).sweep()
    with pytest.raises(NotFound, match="no undo record 'u1'"):
        undo.confirm(paths, "u1")


def test_a_change_without_a_deadline_waits_for_ever(paths, policy, clock):
    register(paths, deadline_s=0)
    clock.advance(10**7)
    assert sweeper(paths, clock).sweep() == []
    assert undo.revert(paths, "u1", why="asked", clock=clock).result is Result.REVERTED
    assert content(policy) == OLD


def test_a_deadline_that_passed_while_the_host_was_down_counts_at_start(paths, policy):
    register(paths)
    after_boot = FakeClock(wall_ns=FakeClock().wall_ns() + 86_400 * 10**9, monotonic_ns=5)
    assert [done.result for done in sweeper(paths, after_boot).sweep()] == [Result.REVERTED]


def test_a_wall_clock_set_back_does_not_hold_a_change(paths, policy, clock):
    register(paths)
    sweeps = sweeper(paths, clock)
    sweeps.sweep()
    clock._wall_ns -= 86_400 * 10**9
    clock.advance(59)
    assert sweeps.sweep() == []
    clock.advance(2)
    assert [done.result for done in sweeps.sweep()] == [Result.REVERTED]


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_nothing_is_due_before_its_time(window_ns, wall_after_ns, known_ns):
    created_ns = 10**9
    change = undo_record.FileChange("/f", undo_record.Previous(False, b"", 0, 0, 0), "0" * 64)
    found = UndoRecord("u", change, (), None, created_ns + window_ns, "", created_ns)
    expected = wall_after_ns >= window_ns or known_ns >= window_ns
    assert is_due(found, created_ns + wall_after_ns, known_ns) is expected


def test_a_file_that_did_not_exist_is_removed_again(paths, policy, clock):
    register(paths, old=None)
    assert undo.revert(paths, "u1", why="asked", clock=clock).result is Result.REVERTED
    assert not os.path.exists(policy)


def test_a_file_that_the_change_removed_comes_back(paths, policy, clock):
    register(paths, new=None)
    os.unlink(policy)
    assert undo.revert(paths, "u1", why="asked", clock=clock).result is Result.REVERTED
    assert content(policy) == OLD


def test_a_file_that_was_removed_meanwhile_is_a_conflict(paths, policy, clock):
    register(paths)
    os.unlink(policy)
    assert undo.revert(paths, "u1", why="asked", clock=clock).result is Result.CONFLICT
    assert not os.path.exists(policy)


def test_a_change_that_was_never_applied_needs_nothing(paths, policy, clock):
    with open(policy, "wb") as file:
        file.write(OLD)
    register(paths)
    inode = os.stat(policy).st_ino
    assert undo.revert(paths, "u1", why="asked", clock=clock).result is Result.ALREADY_PREVIOUS
    assert (os.stat(policy).st_ino, records(paths)) == (inode, [])


def test_what_someone_else_wrote_since_is_left_alone_and_reported(paths, policy, clock, capfd):
    register(paths)
    with open(policy, "wb") as file:
        file.write(b"a human was here")
    clock.advance(61)
    sweeps = sweeper(paths, clock)
    (done,) = sweeps.sweep()
    assert done.result is Result.CONFLICT
    assert content(policy) == b"a human was here"
    assert records(paths) == ["u1.conflict"]
    assert sweeps.registered.conflicts == ("u1",)
    (event,) = events(paths)
    assert event["name"] == "change.revert_conflict"
    assert event["attributes"]["current_sha256"] == sha256_hex(b"a human was here")
    assert sweeps.sweep() == []
    assert len(events(paths)) == 1


def test_two_changes_of_one_file_are_taken_back_newest_first(paths, policy, clock):
    register(paths, "a-first", old=OLD, new=b"between", created_s=1)
    register(paths, "b-second", old=b"between", new=NEW, created_s=2)
    clock.advance(61)
    done = sweeper(paths, clock).sweep()
    assert [each.undo_id for each in done] == ["b-second", "a-first"]
    assert {each.result for each in done} == {Result.REVERTED}
    assert content(policy) == OLD


@pytest.mark.parametrize("kind", ["link", "directory", "fifo", "too large"])
def test_what_was_put_in_the_files_place_is_a_conflict_and_left_alone(paths, tmp_path, clock, kind):
    real = tmp_path / "real.json"
    real.write_bytes(NEW)
    put = {
        "link": lambda path: os.symlink(real, path),
        "directory": os.mkdir,
        "fifo": os.mkfifo,
        "too large": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 5 << 20),
    }
    put[kind](paths.fastoom_policy)
    before = os.lstat(paths.fastoom_policy)
    register(paths)
    assert undo.revert(paths, "u1", why="asked", clock=clock).result is Result.CONFLICT
    after = os.lstat(paths.fastoom_policy)
    assert (after.st_ino, after.st_size, after.st_mode) == (before.st_ino, before.st_size, before.st_mode)
    assert (real.read_bytes(), records(paths)) == (NEW, ["u1.conflict"])


def test_a_change_of_the_mode_alone_is_taken_back(paths, policy, clock):
    os.chmod(policy, 0o644)
    register(paths, old=NEW)
    assert undo.revert(paths, "u1", why="asked", clock=clock).result is Result.REVERTED
    assert (content(policy), os.stat(policy).st_mode & 0o7777) == (NEW, 0o640)


def test_an_access_list_stays_with_the_place(paths, policy, clock):
    acl = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000000ffffffff")
    try:
        os.setxattr(policy, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")
    register(paths)
    assert undo.revert(paths, "u1", why="asked", clock=clock).result is Result.REVERTED
    assert "system.posix_acl_access" in os.listxattr(policy)
    assert content(policy) == OLD


def test_a_module_at_work_in_the_directory_is_waited_for(paths, policy, clock):
    register(paths)
    clock.advance(61)
    sweeps = sweeper(paths, clock)
    with files.exclusive_lock_on(os.path.dirname(policy), os.O_RDONLY | os.O_DIRECTORY, wait=True):
        assert sweeps.sweep() == []
    assert (content(policy), records(paths)) == (NEW, ["u1.json"])
    clock.advance(2)
    assert [done.result for done in sweeps.sweep()] == [Result.REVERTED]


def test_a_revert_that_fails_keeps_its_record_is_said_once_and_tried_again_later(paths, clock, capfd):
    register(paths, path="/proc/version")
    register(paths, "other", path=paths.fastoom_policy)
    with open(paths.fastoom_policy, "wb") as file:
        file.write(NEW)
    document = json.loads(content(os.path.join(paths.undo, "u1.json")))
    document["applied_sha256"] = sha256_hex(content("/proc/version"))
    with open(os.path.join(paths.undo, "u1.json"), "w") as file:
        json.dump(document, file)
    clock.advance(61)
    sweeps = sweeper(paths, clock)
    assert [done.undo_id for done in sweeps.sweep()] == ["other"]  # one failure does not stop the others
    assert records(paths) == ["u1.json"]
    assert "u1" in sweeps.last_error
    for _ in range(100):
        clock.advance(1)
        sweeps.sweep()
    assert capfd.readouterr().err.count("cannot be taken back") == 1
    assert sweeps._retry["u1"][0] == 60


def test_an_event_that_cannot_be_written_keeps_the_record_for_the_next_try(paths, policy, clock):
    register(paths)
    os.rmdir(paths.events)
    with open(paths.events, "w"):
        pass
    clock.advance(61)
    sweeps = sweeper(paths, clock)
    assert sweeps.sweep() == []
    assert (content(policy), records(paths)) == (OLD, ["u1.json"])
    os.unlink(paths.events)
    clock.advance(2)
    assert [done.result for done in sweeps.sweep()] == [Result.ALREADY_PREVIOUS]
    assert [event["name"] for event in events(paths)] == ["change.reverted"]


def test_while_another_holds_the_lock_the_sweep_does_not_wait(paths, policy, clock):
    register(paths)
    clock.advance(61)
    sweeps = sweeper(paths, clock)
    with exclusive_lock(os.path.join(paths.undo, ".lock")):
        assert sweeps.sweep() == []
    assert len(sweeps.sweep()) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("path"),
        lambda d: d.update(path="relative"),
        lambda d: d.update(path="/a\0b"),
        lambda d: d.update(kind="sysctl"),
        lambda d: d.update(undo_id="../../etc"),
        lambda d: d.update(undo_id="someone-else"),
        lambda d: d.update(applied_sha256="abc"),
        lambda d: d.update(deadline_ns="soon"),
        lambda d: d.update(deadline_ns=True),
        lambda d: d["previous"].update(exists="yes"),
        lambda d: d["previous"].update(content_b64="%%%"),
        lambda d: d["previous"].update(mode=0o100644),
        lambda d: d["previous"].pop("uid"),
        lambda d: d.update(previous=None),
    ],
)
def test_a_record_that_cannot_be_understood_is_reported_and_never_acted_on(paths, policy, clock, capfd, spoil):
    document = register(paths)
    spoil(document)
    path = os.path.join(paths.undo, "u1.json")
    with open(path, "w") as file:
        json.dump(document, file)
    clock.advance(61)
    sweeps = sweeper(paths, clock)
    for _ in range(3):
        assert sweeps.sweep() == []
    assert (content(policy), records(paths)) == (NEW, ["u1.json"])
    (damaged,) = sweeps.registered.damaged
    assert damaged.startswith(path)
    assert capfd.readouterr().err.count("u1.json") == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
        max_leaves=8,
    )
)
def test_any_json_is_a_record_or_bad_input(document):
    with pytest.raises(BadInput):
        undo_from_json(document)


@pytest.mark.parametrize("undo_id", ["../u1", "a/b", "", ".lock", "x" * 200])
def test_an_id_is_never_a_path(paths, undo_id, clock):
    with pytest.raises((BadInput, NotFound)):
        undo.revert(paths, undo_id, why="asked", clock=clock)


def test_nothing_registered_is_an_empty_list_even_without_a_directory(paths, clock):
    os.rmdir(paths.undo)
    assert list_undo(paths.undo) == undo_record.Registered((), (), ())
    assert sweeper(paths, clock).sweep() == []
    with pytest.raises(NotFound):
        undo.confirm(paths, "u1")


DAEMON = "import signal, sys; signal.signal(signal.SIGHUP, lambda *_: sys.exit(77)); print(flush=True); signal.pause()"


def status_of(child, tmp_path, *, wrong_by=0):
    path = tmp_path / "status.json"
    started = procfs.stat(child.pid).value.start_time_ticks + wrong_by
    path.write_text(json.dumps({"pid": child.pid, "start_time_ticks": started}))
    return str(path)


@pytest.fixture
def daemon():
    with subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        yield child
        child.kill()


def test_the_daemon_is_told_to_read_the_file_again(paths, policy, clock, daemon, tmp_path):
    register(paths, reload_status=status_of(daemon, tmp_path))
    done = undo.revert(paths, "u1", why="asked", clock=clock)
    assert done.reload == f"SIGHUP sent to pid {daemon.pid}"
    assert daemon.wait(timeout=10) == 77


def test_a_pid_that_is_another_process_now_gets_no_signal(paths, policy, clock, daemon, tmp_path):
    register(paths, reload_status=status_of(daemon, tmp_path, wrong_by=1))
    done = undo.revert(paths, "u1", why="asked", clock=clock)
    assert done.result is Result.REVERTED
    assert done.reload.startswith("not signalled: gone")
    assert daemon.poll() is None


def test_a_daemon_that_does_not_run_does_not_stop_the_revert(paths, policy, clock, tmp_path):
    register(paths, reload_status=str(tmp_path / "absent.json"))
    done = undo.revert(paths, "u1", why="asked", clock=clock)
    assert (done.result, content(policy)) == (Result.REVERTED, OLD)
    assert "No such file" in done.reload


OURS = (undo, undo_record, files, journal)


def test_sigkill_at_any_line_of_a_revert_is_finished_by_the_next_sweep(paths, policy, clock):
    seen = set()
    clock.advance(61)
    register(paths)
    for kill_at in every_line(lambda: undo.revert(paths, "u1", why="deadline", clock=clock), OURS):
        halfway = content(policy)
        assert halfway in (OLD, NEW), kill_at
        pending = list_undo(paths.undo)
        assert pending.damaged == (), kill_at
        if not pending.pending:
            assert halfway == OLD, kill_at
        seen.add((halfway, bool(pending.pending), len({event["id"] for event in events(paths)})))
        sweeper(paths, clock).sweep()
        assert content(policy) == OLD, kill_at
        assert records(paths) == [], kill_at
        assert {event["name"] for event in events(paths)} == {"change.reverted"}, kill_at
        assert len({event["id"] for event in events(paths)}) == 1, kill_at  # written again, dropped by id
        for name in os.listdir(os.path.join(paths.events, "agent")):
            os.unlink(os.path.join(paths.events, "agent", name))
        with open(policy, "wb") as file:
            file.write(NEW)
        register(paths)
    assert {(NEW, True, 0), (OLD, True, 0), (OLD, True, 1), (OLD, False, 1)} == seen


def test_sigkill_at_any_line_of_a_confirmation_leaves_it_confirmed_or_not(paths, policy, clock):
    register(paths)
    left = set()
    for kill_at in range(1, 500):
        if killed_at_line(lambda: undo.confirm(paths, "u1"), kill_at, OURS):
            break
        left.add(tuple(records(paths)))
        assert list_undo(paths.undo).damaged == ()
        assert content(policy) == NEW
        register(paths)
    assert kill_at > 20
    assert left == {("u1.json",), ()}


@pytest.mark.skipif(os.geteuid() != 0, reason="root writes everywhere but in /proc")
def test_a_revert_that_fails_on_the_command_line_says_that_the_record_stays(paths):
    register(paths, path="/proc/version", new=content("/proc/version"))
    with pytest.raises(OsremedError, match="u1 is not taken back") as caught:
        verbs.undo_revert(undo_id="u1")
    assert "record stays" in caught.value.hint
    assert records(paths) == ["u1.json"]
