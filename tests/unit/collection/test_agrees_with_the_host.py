"""The collection may not import the package; here both sides of what they share are held against each other."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _onhost, _undo
from ansible_collections.osremed.host.plugins.module_utils._files import ABSENT, FileState, put_state, read_state
from ansible_collections.osremed.host.plugins.module_utils._policyfile import merge_policy, render_policy
from ansible_collections.osremed.host.plugins.modules.fastoom_policy import argument_spec

from osremed.agent import undo
from osremed.agent.undo_record import load_undo
from osremed.core.clock import SystemClock
from osremed.core.paths import host_paths
from osremed.core.reading import Missing, Reason
from osremed.fastoom import rules
from osremed.fastoom.policy import _LIMITS, _SCOPE_KEYS, parse_policy

OLD = FileState(True, b"old", 0o640, os.geteuid(), os.getegid())
NEW = OLD._replace(data=b"new")


@pytest.fixture
def host(tmp_path):
    paths = host_paths(str(tmp_path))
    os.makedirs(tmp_path / "etc")

    def change(before, after):
        path = str(tmp_path / "etc/policy.json")
        put_state(path, before)
        with _undo.locked(paths.undo, os.path.dirname(path), create=True):
            _undo.register(paths.undo, _undo.make_record("run-1-0", path, before, after.sha256, 300.0, ""))
        put_state(path, after)
        return path

    return SimpleNamespace(paths=paths, change=change)


def test_the_agent_reads_what_a_module_registered(host):
    path = host.change(OLD, NEW)
    found = load_undo(host.paths.undo, "run-1-0")
    assert (found.path, found.file.previous.content, found.file.previous.mode) == (path, b"old", 0o640)
    assert found.applied_sha256 == NEW.sha256
    assert found.deadline_ns - found.created_ns == 300 * 10**9


@pytest.mark.parametrize("before", [OLD, ABSENT])
def test_the_agent_takes_back_what_a_module_did(host, before):
    path = host.change(before, NEW)
    undo.revert(host.paths, "run-1-0", why="deadline", clock=SystemClock())
    assert read_state(path) == before
    assert _undo.revert(host.paths.undo, "run-1-0", False)[0] == "absent"


def test_a_module_sees_the_conflict_that_the_agent_found(host):
    path = host.change(OLD, NEW)
    put_state(path, NEW._replace(data=b"theirs"))
    undo.revert(host.paths, "run-1-0", why="deadline", clock=SystemClock())
    assert _undo.confirm(host.paths.undo, "run-1-0", False) == "conflict"


def test_what_the_module_writes_is_what_the_daemon_reads():
    spec = argument_spec()
    assert set(spec["sensitivity"]["choices"]) == {"low", "medium", "high"}
    document = merge_policy(
        {},
        {
            "sensitivity": "high",
            "scopes": [{"node": True}, {"cgroup": "/system.slice"}],
            "protect": [{"name": "sshd"}, {"cmdline": "gateway", "name": "python3"}],
            "prefer": [],
            "avoid": [{"name": "x*"}],
            "overrides": {"enter_percent": 7},
        },
        "replace",
    )
    policy = parse_policy(render_policy(document), "/policy.json")
    assert policy.sensitivity == "high"


def test_reasons_are_those_of_the_package():
    assert set(_onhost._REASONS) == {reason.value for reason in Reason}
    assert _onhost.as_gap(Missing(Reason.DENIED, "/x", "EPERM").as_json())


def test_the_module_knows_every_key_of_a_policy_and_the_guard_takes_them_all():
    spec = argument_spec()
    assert set(spec["scopes"]["options"]) == set(_SCOPE_KEYS)
    assert set(spec["limits"]["options"]) == set(_LIMITS)
    assert set(spec["protect"]["options"]) == set(rules.KEYS)
    rule = {
        "name": "web*",
        "cmdline": "serve",
        "argv": ["--port=*"],
        "exe": "/usr/*",
        "cgroup": "/web/*",
        "user": "root",
    }
    document = {
        "sensitivity": "low",
        "scopes": [{"node": True}, {"cgroup": "/kubepods/*", "sensitivity": "high", "kill": "group"}],
        "protect": [rule],
        "limits": {"max_kills": 5, "window_s": 30.0, "cooldown_s": 1.5},
    }
    policy = parse_policy(render_policy(merge_policy({}, document, "replace")), "x")
    assert policy.limits.max_kills == 5
    assert [scope.label for scope in policy.scopes] == ["node", "/kubepods/*"]


def test_extending_limits_keeps_the_others():
    before = {"limits": {"max_kills": 5, "window_s": 30.0}}
    merged = merge_policy(before, {"limits": {"max_kills": 7}}, "extend")
    assert merged["limits"] == {"max_kills": 7, "window_s": 30.0}
