"""A release is whole or not there, and a host always ends on one that works."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import zipfile
from types import SimpleNamespace

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _health, _release, _systemd, _undo
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.modules import wheel_release

from tests.support import an_agent

SOUND = [sys.executable, "%s/osremed"]


@pytest.fixture
def host(tmp_path):
    root, undo_dir = tmp_path / "opt", tmp_path / "undo"
    base = root / "agent"

    def artifact(text="print('fine')\n"):
        path = tmp_path / f"{hashlib.sha256(text.encode()).hexdigest()[:8]}.pyz"
        path.write_text(text)
        return {"artifact": str(path), "sha256": hashlib.sha256(text.encode()).hexdigest()}

    def ask(dry=False, **given):
        given = {
            "component": "agent",
            "root": str(root),
            "undo_dir": str(undo_dir),
            "agent_status": an_agent.pretend(tmp_path / "agent.json", undo_dir),
            "health_timeout_s": 2.0,
            "health_hold_s": 0.0,
            **given,
        }
        spec = wheel_release.argument_spec()
        assert set(given) <= set(spec), set(given) - set(spec)
        options = {name: given.get(name, facts.get("default")) for name, facts in spec.items()}
        return wheel_release.carry_out(options, dry)

    def tree():
        names = (os.path.relpath(path, root) for path in root.rglob("*") if path.name != ".osremed-release")
        return sorted(names) if root.exists() else []

    def current():
        return os.readlink(base / "current")

    return SimpleNamespace(artifact=artifact, ask=ask, tree=tree, current=current, base=base, undo_dir=undo_dir)


def test_a_release_is_previewed_made_pointed_to_and_undone(host):
    host.ask(version="1", **host.artifact("1"))
    wanted = {"version": "2", "undo_id": "u", "confirm_within": 60.0, **host.artifact("2")}
    before = host.tree()
    preview = host.ask(dry=True, **wanted)
    assert (host.tree(), host.undo_dir.exists()) == (before, False)
    real = host.ask(**wanted)
    assert (real["diff"], real["previous"], real["as_seen"]) == (
        preview["diff"],
        preview["previous"],
        preview["as_seen"],
    )
    assert (host.current(), (host.base / "current/osremed").read_text()) == ("releases/2", "2")
    assert stat.S_IMODE((host.base / "current/osremed").stat().st_mode) == 0o755
    again = host.ask(**wanted)
    assert (again["changed"], again["previous"], again["undo_registered"]) == (False, real["previous"], True)
    undone = host.ask(**real["previous"])
    assert (undone["changed"], host.current()) == (True, "releases/1")
    assert not host.ask(**real["previous"])["changed"]


def test_the_host_can_take_it_back_by_its_record(host):
    host.ask(version="1", **host.artifact("1"))
    host.ask(version="2", undo_id="u", **host.artifact("2"))
    assert _undo.revert(str(host.undo_dir), "u", False)[0] == "restored"
    assert host.current() == "releases/1"


def test_the_record_is_on_disk_before_current_is_pointed_elsewhere(host, monkeypatch):
    seen = []
    monkeypatch.setattr(
        wheel_release._link,
        "point",
        lambda path, target: seen.append(json.loads((host.undo_dir / "u.json").read_text())),
    )
    host.ask(version="1", undo_id="u", **host.artifact())
    assert [(record["kind"], record["previous"], record["applied"]) for record in seen] == [("link", "", "releases/1")]


def test_a_first_release_is_undone_by_removing_the_link(host):
    real = host.ask(version="1", **host.artifact())
    host.ask(**real["previous"])
    assert not os.path.lexists(host.base / "current")
    assert (host.base / "releases/1/osremed").exists()


@pytest.mark.parametrize("check", [True, False])
def test_a_wrong_sum_touches_nothing(host, check):
    wrong = dict(host.artifact(), sha256="0" * 64)
    with pytest.raises(ActionFailed, match="expected 0000") as refused:
        host.ask(dry=check, version="1", **wrong)
    assert refused.value.facts["wrong_sum"]
    assert not host.base.exists()
    host.ask(version="1", **host.artifact("1"))
    before = host.tree()
    with pytest.raises(ActionFailed, match="expected 0000"):
        host.ask(dry=check, version="2", **wrong)
    assert host.tree() == before


def test_bytes_that_change_between_the_look_and_the_copy_are_found_out(host, monkeypatch):
    wanted = host.artifact("good")
    real_look = _release.sha256_of

    def look(path):
        found = real_look(path)
        with open(path, "w") as stream:
            stream.write("evil")
        return found

    monkeypatch.setattr(_release, "sha256_of", look)
    with pytest.raises(ActionFailed, match="expected"):
        host.ask(version="1", **wanted)
    assert not host.base.exists()


def test_a_release_that_does_not_pass_its_check_is_not_put_to_use(host):
    host.ask(version="1", **host.artifact("1"))
    before, broken = host.tree(), host.artifact("import sys; sys.exit('broken')")
    with pytest.raises(ActionFailed, match=r"does not pass its check: .*broken"):
        host.ask(version="2", check=SOUND, health_timeout_s=60.0, **broken)
    assert (host.current(), host.tree()) == ("releases/1", before)


def test_a_release_that_is_not_healthy_is_pointed_back_and_taken_away(host, monkeypatch):
    monkeypatch.setattr(_health, "LEAST_ASK_S", 60.0)  # it is a Python that has to start
    host.ask(version="1", **host.artifact("1"))
    before = host.tree()
    with pytest.raises(ActionFailed, match=r"not healthy: .*exit code 3") as failed:
        host.ask(version="2", undo_id="u", health=SOUND, **host.artifact("import sys; sys.exit(3)"))
    assert failed.value.facts["rolled_back"]
    assert (host.current(), host.tree()) == ("releases/1", before)
    assert not (host.undo_dir / "u.json").exists()


@pytest.mark.parametrize(("starts_again", "left"), [("", False), ("it does not start", True)])
def test_the_record_goes_only_when_the_unit_runs_the_old_release_again(host, monkeypatch, starts_again, left):
    host.ask(version="1", **host.artifact("1"))
    answers = iter(["it does not start", starts_again])
    seen = []

    def restart(unit, timeout_s):
        seen.append((host.current(), (host.undo_dir / "u.json").exists()))
        return next(answers)

    monkeypatch.setattr(_systemd, "restart", restart)
    with pytest.raises(ActionFailed, match="current points to releases/1 again"):
        host.ask(version="2", undo_id="u", unit="demo.service", **host.artifact("2"))
    assert seen == [("releases/2", True), ("releases/1", True)]
    assert (host.current(), (host.undo_dir / "u.json").exists()) == ("releases/1", left)


def test_a_unit_of_which_systemd_does_not_tell_after_the_restart_runs_the_old_release_again(host, monkeypatch):
    host.ask(version="1", **host.artifact("1"))
    monkeypatch.setattr(_systemd, "restart", lambda unit, timeout_s: "")

    def look_at(name):
        raise ActionFailed(f"systemd does not tell about {name}: no end within 15 s")

    monkeypatch.setattr(_systemd, "look_at", look_at)
    with pytest.raises(ActionFailed, match=r"healthy: systemd does not tell .* points to releases/1 again") as bad:
        host.ask(version="2", undo_id="u", unit="demo.service", **host.artifact("2"))
    assert bad.value.facts["rolled_back"]
    assert (host.current(), (host.undo_dir / "u.json").exists()) == ("releases/1", False)


def test_a_release_never_changes(host):
    host.ask(version="1", **host.artifact("1"))
    with pytest.raises(ActionFailed, match="A release never changes"):
        host.ask(version="1", **host.artifact("other"))
    assert (host.base / "current/osremed").read_text() == "1"


def test_a_release_that_was_put_there_by_other_means_is_known(host):
    wanted = host.artifact("1")
    (host.base / "releases/1").mkdir(parents=True)
    (host.base / "releases/1/osremed").write_text("1")
    assert host.ask(version="1", **wanted)["added"] is False
    assert host.current() == "releases/1"


def test_what_someone_else_pointed_elsewhere_is_a_conflict(host):
    for version in "123":
        host.ask(version=version, **host.artifact(version))
    with pytest.raises(ActionFailed, match="someone else") as conflict:
        host.ask(version="1", expect_current="releases/2")
    assert conflict.value.facts["conflict"]
    assert host.current() == "releases/3"


def test_the_release_in_use_and_the_one_before_it_are_kept_and_the_oldest_go(host):
    for number in range(5):
        result = host.ask(version=str(number), keep=3, **host.artifact(str(number)))
        os.utime(host.base / f"releases/{number}", (number, number))
    assert result["pruned"] == ["1"]
    assert sorted(os.listdir(host.base / "releases")) == ["2", "3", "4"]


def test_the_one_in_use_is_not_removed_and_the_whole_component_is(host):
    host.ask(version="1", **host.artifact("1"))
    host.ask(version="2", **host.artifact("2"))
    with pytest.raises(ActionFailed, match="in use"):
        host.ask(version="2", state="absent")
    assert host.ask(dry=True, version="1", state="absent")["changed"]
    assert host.ask(version="1", state="absent")["changed"]
    assert not host.ask(version="1", state="absent")["changed"]
    assert host.ask(state="absent")["changed"]
    assert not host.base.exists()
    assert not host.ask(state="absent")["changed"]


def wheel(tmp_path, members):
    path = tmp_path / "demo-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return {"artifact": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "python": sys.executable}


def test_a_wheel_becomes_an_environment_that_starts(host, tmp_path):
    made = wheel(tmp_path, {"demo/__init__.py": "", "demo/__main__.py": "print('it runs')"})
    command = ["%s/bin/python", "-I", "-B", "-m", "demo"]
    result = host.ask(version="1", health=command, health_timeout_s=120.0, **made)
    assert result["added"]
    assert not list((host.base / "current/").glob("*.whl"))


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "a/../../evil.py", "demo.data/scripts/x"])
def test_a_wheel_that_would_leave_its_release_is_refused(host, tmp_path, name):
    with pytest.raises(ActionFailed, match="holds"):
        host.ask(version="1", **wheel(tmp_path, {name: "x"}))
    assert not host.base.exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"version": "../x"}, {"component": "a/b"}, {"version": "1"}, {}, {"root": "opt"}, {"unit": "--now"},
        {"keep": -1, "version": "1"}, {"restore_current": "../../etc"}, {"restore_current": "releases/none"},
    ],
)  # fmt: skip
def test_bad_options_are_named_and_touch_nothing(host, bad):
    with pytest.raises(ActionFailed):
        host.ask(**bad)
    assert not host.base.exists()
