"""What must follow a revert follows: before the record goes, also on a full disk, and not again and again."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from pathlib import Path

import pytest

from osremed.agent import sweep, undo, undo_file, undo_follow, verbs
from osremed.agent.sweep import Sweeper
from osremed.agent.undo import Result
from osremed.agent.undo_record import list_undo
from osremed.core.canonical import sha256_hex
from osremed.core.clock import FakeClock
from osremed.core.errors import OsremedError
from osremed.core.journal import read_journal
from osremed.core.log import Log
from tests.support import a_systemctl
from tests.support.dying import every_line

UNIT = "osremed-agent.service"
RESTART, RELOAD = f"--no-block try-restart -- {UNIT}", "daemon-reload"
OLD, NEW = b"[Service]\nEnvironment=NCCL_X=1\n", b"[Service]\nEnvironment=NCCL_X=2\n"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    return a_systemctl.put(tmp_path, monkeypatch)


def register(paths, clock, *, deadline_s=60, **what):
    now_ns = clock.wall_ns()
    times = {"deadline_ns": now_ns + deadline_s * 10**9, "created_ns": now_ns}
    document = {"undo_id": "u1", "reload_status": "", **times, **what}
    path = Path(paths.undo, "u1.json")
    path.unlink(missing_ok=True)  # as a module writes it: another file in its place
    path.write_text(json.dumps(document))


@pytest.fixture
def release(paths, tmp_path, clock):
    """`current` was pointed from release 1 to release 2, and UNIT runs it."""

    class Release:
        current = tmp_path / "releases/current"

        def change(self):
            self.current.unlink(missing_ok=True)
            os.symlink("2", self.current)
            register(paths, clock, kind="link", path=str(self.current), previous="1", applied="2", unit=UNIT)

        @property
        def target(self):
            return os.readlink(self.current)

    for name in "12":
        (tmp_path / "releases" / name).mkdir(parents=True)
    made = Release()
    made.change()
    return made


@pytest.fixture
def drop_in(paths, tmp_path, clock):
    """`drop_in(path)` was changed from OLD to NEW, below a directory of units."""

    def change(name):
        path = tmp_path / "units" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(NEW)
        previous = {"exists": True, "content_b64": base64.b64encode(OLD).decode(), "mode": 0o644}
        previous.update(uid=os.getuid(), gid=os.getgid())
        register(paths, clock, kind="file", path=str(path), previous=previous, applied_sha256=sha256_hex(NEW))
        return path

    return change


@contextlib.contextmanager
def full_disk(paths):
    """No event can be written meanwhile."""
    os.rmdir(paths.events)
    Path(paths.events).touch()
    yield
    os.unlink(paths.events)


def sweeper(paths, clock):
    return Sweeper(paths, clock, Log("test"))


def revert(paths, clock):
    return undo.revert(paths, "u1", why="asked", clock=clock)


def events(paths):
    return [entry.record for entry in read_journal(os.path.join(paths.events, "agent")).entries]


def pending(paths):
    return [each.undo_id for each in list_undo(paths.undo).pending]


def test_a_release_that_is_taken_back_has_its_unit_restarted_and_told(paths, clock, release, systemctl):
    clock.advance(61)
    (done,) = sweeper(paths, clock).sweep()
    assert (done.result, release.target, systemctl.asked) == (Result.REVERTED, "1", [RESTART])
    assert done.reload == f"{UNIT} is being restarted"
    (event,) = events(paths)
    assert event["attributes"]["reload"] == done.reload


def test_a_unit_is_restarted_once_however_long_its_event_cannot_be_written(paths, clock, release, systemctl):
    clock.advance(61)
    with full_disk(paths):
        for _ in range(3):  # the unit is this very agent: each is one that was restarted
            sweeps = sweeper(paths, clock)
            for _ in range(5):
                assert sweeps.sweep() == []
                clock.advance(60)
        assert (release.target, systemctl.asked, pending(paths)) == ("1", [RESTART], ["u1"])
    assert len(sweeps.sweep()) == 1
    assert ([event["name"] for event in events(paths)], pending(paths)) == (["change.reverted"], [])
    assert systemctl.asked == [RESTART]


def test_a_unit_that_the_bad_release_made_fail_is_started_with_the_old_one(paths, clock, release, systemctl):
    systemctl.unit_has_failed()
    systemctl.refuses()
    with pytest.raises(OSError, match="no such unit"):  # it does not start: it is tried again
        revert(paths, clock)
    systemctl.refuses(False)
    systemctl.forget()
    revert(paths, clock)
    assert (release.target, systemctl.asked) == ("1", [f"restart -- {UNIT}"])


@pytest.mark.parametrize("registered_again", [True, False])
def test_a_release_put_to_use_anew_meanwhile_has_its_unit_restarted_anew(
    paths, clock, release, systemctl, registered_again
):
    with full_disk(paths):
        for _ in range(2):
            with pytest.raises(OSError, match="events"):
                revert(paths, clock)
            assert (release.target, systemctl.asked) == ("1", [RESTART])
        systemctl.forget()
        if registered_again:
            release.change()
        else:
            os.unlink(release.current)
            os.symlink("2", release.current)
        with pytest.raises(OSError, match="events"):
            revert(paths, clock)
        assert (release.target, systemctl.asked) == ("1", [RESTART])


def test_what_systemd_refuses_keeps_the_record_and_is_asked_again(paths, clock, release, systemctl):
    systemctl.refuses()
    clock.advance(61)
    sweeps = sweeper(paths, clock)
    assert sweeps.sweep() == []
    assert (release.target, pending(paths)) == ("1", ["u1"])
    assert f"{RESTART}: no such unit" in sweeps.last_error
    with pytest.raises(OsremedError, match="u1 is not taken back: no such unit"):
        verbs.undo_revert(undo_id="u1")
    systemctl.refuses(False)
    systemctl.forget()
    clock.advance(60)
    assert [done.result for done in sweeps.sweep()] == [Result.ALREADY_PREVIOUS]
    assert (systemctl.asked, pending(paths)) == ([RESTART], [])


def test_sigkill_at_any_line_of_a_links_revert_leaves_no_unit_with_the_old_release(paths, clock, release, systemctl):
    for kill_at in every_line(lambda: revert(paths, clock), (undo, undo_file, undo_follow)):
        assert pending(paths) or systemctl.asked, kill_at  # without a record nobody would restart it any more
        clock.advance(61)
        sweeper(paths, clock).sweep()
        assert (release.target, pending(paths)) == ("1", []), kill_at
        assert systemctl.asked in ([RESTART], [RESTART] * 2), kill_at
        systemctl.forget()
        release.change()


@pytest.mark.parametrize("name", ["x.service.d/90-a.conf", "x@.timer.d/a.conf", "service.d/a.conf"])
def test_systemd_reads_a_drop_in_that_came_back(paths, clock, drop_in, systemctl, name):
    path = drop_in(name)
    done = revert(paths, clock)
    assert (done.result, path.read_bytes(), systemctl.asked) == (Result.REVERTED, OLD, [RELOAD])
    assert done.reload == "systemd has read it"


@pytest.mark.parametrize("name", ["x.service.d/a.conf.bak", "sysctl.d/a.conf", "x.service", "x.service.d/y/a.conf"])
def test_systemd_is_left_in_peace_by_other_files(paths, clock, drop_in, systemctl, name):
    drop_in(name)
    assert (revert(paths, clock).result, systemctl.asked) == (Result.REVERTED, [])


def test_systemd_is_left_in_peace_by_a_drop_in_that_someone_else_wrote(paths, clock, drop_in, systemctl):
    drop_in("x.service.d/a.conf").write_bytes(b"[Service]\n")
    assert (revert(paths, clock).result, systemctl.asked) == (Result.CONFLICT, [])


def test_a_drop_in_that_systemd_did_not_read_keeps_its_record(paths, clock, drop_in, systemctl):
    drop_in("x.service.d/a.conf")
    systemctl.refuses()
    with pytest.raises(OSError, match="no such unit"):
        revert(paths, clock)
    assert pending(paths) == ["u1"]
    systemctl.refuses(False)
    assert revert(paths, clock).result is Result.ALREADY_PREVIOUS
    assert (systemctl.asked, pending(paths)) == ([RELOAD, RELOAD], [])


def test_a_deadline_that_was_put_off_while_the_lock_was_waited_for_holds(paths, clock, drop_in, systemctl, monkeypatch):
    path = drop_in("x.service.d/a.conf")
    real_lock = sweep.exclusive_lock

    def lock(where, **options):
        drop_in("x.service.d/a.conf")  # a module got the lock first and registered the same change again
        return real_lock(where, **options)

    clock.advance(61)
    sweeps = sweeper(paths, clock)
    with monkeypatch.context() as patched:
        patched.setattr(sweep, "exclusive_lock", lock)
        assert sweeps.sweep() == []
    assert (path.read_bytes(), pending(paths)) == (NEW, ["u1"])
    clock.advance(61)
    assert [done.result for done in sweeps.sweep()] == [Result.REVERTED]
