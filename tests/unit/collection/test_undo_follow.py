"""What must follow a revert follows before the record goes, and a failure of it counts. The host's own agent asks
systemd for the same (tests/unit/agent/test_undo_follow.py)."""

from __future__ import annotations

import contextlib
import json
import os
from types import SimpleNamespace

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _systemd, _undo
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import FileState, put_state, read_state
from ansible_collections.osremed.host.plugins.module_utils._link import LinkChange
from ansible_collections.osremed.host.plugins.modules import gpu_app_limits, undo

from osremed.agent import undo as agent_undo
from osremed.agent import undo_follow
from osremed.core.action import Outcome, Status
from osremed.core.clock import SystemClock
from osremed.core.paths import host_paths
from osremed.runbook.undoing import _undone
from tests.support import a_systemctl, an_agent

OLD = FileState(True, b"[Service]\nEnvironment=NCCL_X=1\n", 0o644, os.geteuid(), os.getegid())
NEW = OLD._replace(data=b"[Service]\nEnvironment=NCCL_X=2\n")
UNIT = "demo.service"
RESTART, RELOAD = f"--no-block try-restart -- {UNIT}", "daemon-reload"


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    return a_systemctl.put(tmp_path, monkeypatch)


@pytest.fixture
def host(tmp_path):
    """`release()` points `current` from 1 to 2; `file(name)` changes OLD to NEW; each registers it as `u`."""
    paths = host_paths(str(tmp_path))

    def register(record, directory):
        with _undo.locked(paths.undo, str(directory), create=True):
            _undo.register(paths.undo, record)

    def release():
        for name in "12":
            (tmp_path / "releases" / name).mkdir(parents=True, exist_ok=True)
        current = tmp_path / "releases/current"
        current.unlink(missing_ok=True)
        register(_undo.make_link_record("u", LinkChange(str(current), "1", "2", UNIT), 60), current.parent)
        current.symlink_to("2")
        return lambda: os.readlink(current)

    def file(name):
        path = tmp_path / "units" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        put_state(str(path), OLD)
        register(_undo.make_record("u", str(path), OLD, NEW.sha256, 60, ""), path.parent)
        put_state(str(path), NEW)
        return lambda: read_state(str(path))

    def revert():
        return undo.revert({"undo_dir": paths.undo, "id": "u", "reload_timeout_s": 1.0}, False)

    def left():
        return sorted(name for name in os.listdir(paths.undo) if name != ".lock")

    return SimpleNamespace(paths=paths, release=release, file=file, revert=revert, left=left)


def test_a_release_that_is_taken_back_has_its_unit_restarted(host, systemctl):
    current = host.release()
    done = host.revert()
    assert (done["result"], current(), systemctl.asked, host.left()) == ("restored", "1", [RESTART], [])
    assert f"{UNIT} is being restarted" in done["evidence"]


def test_systemd_reads_a_drop_in_that_came_back(host, systemctl):
    content = host.file("demo.service.d/x.conf")
    done = host.revert()
    assert (done["result"], content(), systemctl.asked, host.left()) == ("restored", OLD, [RELOAD], [])
    assert "systemd has read it" in done["evidence"]


@pytest.mark.parametrize(("kind", "asked"), [("release", RESTART), ("drop-in", RELOAD)])
def test_what_systemd_refuses_fails_and_keeps_the_record_for_the_next_call(host, systemctl, kind, asked):
    look = host.release() if kind == "release" else host.file("demo.service.d/x.conf")
    systemctl.refuses()
    for changed in (True, False):
        with pytest.raises(ActionFailed, match="no such unit") as failed:
            host.revert()
        assert (look(), host.left()) == ("1" if kind == "release" else OLD, ["u.json"])
        assert (failed.value.facts["result"], failed.value.facts["changed"]) == ("unfinished", changed)
    systemctl.refuses(False)
    systemctl.forget()
    assert (host.revert()["result"], systemctl.asked, host.left()) == ("nothing_to_do", [asked], [])


def test_a_run_whose_undo_is_unfinished_is_not_taken_back_completely(host, systemctl):
    host.release()
    systemctl.refuses()
    with pytest.raises(ActionFailed) as failed:
        host.revert()
    undone = _undone(SimpleNamespace(action="x"), Outcome(Status.FAILED, result=failed.value.facts))
    assert undone.left
    assert "was not restarted: no such unit" in undone.detail


def test_a_revert_that_was_killed_before_the_restart_restarts_the_next_time(host, systemctl):
    current = host.release()
    child = os.fork()
    if child == 0:
        undo.restart = lambda unit: os._exit(9)
        host.revert()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (current(), systemctl.asked, host.left()) == ("1", [], ["u.json"])
    assert (host.revert()["result"], systemctl.asked, host.left()) == ("nothing_to_do", [RESTART], [])


def test_what_someone_else_changed_is_followed_by_nothing(host, systemctl):
    host.file("demo.service.d/x.conf")
    put_state(json.loads(read_state(host.paths.undo + "/u.json").data)["path"], OLD._replace(data=b"theirs"))
    with pytest.raises(ActionFailed, match="someone else"):
        host.revert()
    assert systemctl.asked == []


DROP_INS = ["x.service.d/a.conf", "x@.timer.d/a.conf", "service.d/a.conf", "-.slice.d/a.conf"]
OTHERS = ["x.service", "x.service.d/a.conf.bak", "x.service.d/b/a.conf", "sysctl.d/a.conf", "xservice.d/a.conf"]


@pytest.mark.parametrize("name", DROP_INS + OTHERS)
def test_module_and_agent_agree_on_what_a_drop_in_is(name):
    path = f"/etc/systemd/system/{name}"
    assert _systemd.is_drop_in(path) is undo_follow.is_drop_in(path) is (name in DROP_INS)


def test_a_unit_that_the_bad_release_made_fail_is_started_with_the_old_one(host, systemctl):
    current = host.release()
    systemctl.unit_has_failed()
    host.revert()
    assert (current(), systemctl.asked) == ("1", [f"restart -- {UNIT}"])


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("change", [lambda host: host.release(), lambda host: host.file("a.socket.d/x.conf")])
def test_module_and_agent_ask_systemd_for_the_same(host, systemctl, change, failed):
    if failed:
        systemctl.unit_has_failed()
    change(host)
    host.revert()
    of_the_module = systemctl.asked
    systemctl.forget()
    change(host)
    agent_undo.revert(host.paths, "u", why="deadline", clock=SystemClock())
    assert systemctl.asked == of_the_module != []


def test_a_change_made_again_has_its_unit_restarted_again_by_the_agent(host, systemctl):
    """The agent marks a record after which all has followed; registering it again takes the mark away."""
    host.release()
    os.makedirs(os.path.dirname(host.paths.events), exist_ok=True)
    with open(host.paths.events, "w"):  # no event can be written, so the record stays
        pass
    for asked in ([RESTART], [RESTART], [RESTART] * 2):
        if len(asked) == 2:
            host.release()
        with pytest.raises(OSError, match="events"):
            agent_undo.revert(host.paths, "u", why="deadline", clock=SystemClock())
        assert systemctl.asked == asked


@pytest.fixture
def waited(monkeypatch):
    """`waited(what)`: another one holds the lock first and does that."""

    def arrange(what):
        real = _undo.locked

        @contextlib.contextmanager
        def locked(*args, **options):
            monkeypatch.setattr(_undo, "locked", real)
            what()
            with real(*args, **options):
                yield

        monkeypatch.setattr(_undo, "locked", locked)

    return arrange


@pytest.mark.parametrize("act", [_undo.revert, _undo.confirm])
def test_a_conflict_that_the_agent_finds_while_the_lock_is_waited_for_is_one(host, waited, act):
    host.file("x.conf")
    waited(lambda: os.rename(host.paths.undo + "/u.json", host.paths.undo + "/u.conflict"))
    told = act(host.paths.undo, "u", False)
    assert (told if act is _undo.confirm else told[0]) == "conflict"


def test_another_change_registered_while_the_lock_is_waited_for_is_the_one_taken_back(host, waited):
    first = host.file("x.conf")
    seen = []

    def again():
        os.unlink(host.paths.undo + "/u.json")
        seen.append(host.file("y.conf"))

    waited(again)
    assert _undo.revert(host.paths.undo, "u", False)[0] == "restored"
    assert (first(), seen[0]()) == (NEW, OLD)


@pytest.fixture
def limits(tmp_path):
    def ask(**given):
        places = {
            "root": str(tmp_path / "units"),
            "undo_dir": str(tmp_path / "undo"),
            "agent_status": an_agent.pretend(tmp_path / "agent.json", tmp_path / "undo"),
        }
        given = {"unit": UNIT, "environment": {"NCCL_X": 2}, **places, **given}
        spec = gpu_app_limits.argument_spec()
        return gpu_app_limits.change(
            {name: given.get(name, facts.get("default")) for name, facts in spec.items()}, False
        )

    (tmp_path / "units").mkdir()
    return ask


def test_by_its_arguments_systemd_reads_the_drop_in_though_the_host_put_it_back_already(limits, systemctl):
    real = limits()
    os.unlink(real["path"])
    systemctl.forget()
    back = limits(**real["previous"])
    assert (back["changed"], systemctl.asked) == (False, [RELOAD])


def test_an_act_that_was_killed_before_systemd_read_the_drop_in_has_it_read_the_next_time(limits, systemctl):
    systemctl.refuses()
    with pytest.raises(ActionFailed, match="systemd has not read it"):
        limits(undo_id="g")
    systemctl.refuses(False)
    systemctl.forget()
    assert (limits(undo_id="g")["changed"], systemctl.asked) == (False, [RELOAD])
    systemctl.forget()
    assert (limits()["changed"], systemctl.asked) == (False, [])  # nobody knows that it was ours
