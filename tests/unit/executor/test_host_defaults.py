"""Where things lie on a host comes from its inventory, unless the call says it."""

from __future__ import annotations

import pytest

from osremed.core.action import Call
from osremed.executor.host_defaults import host_arguments
from osremed.runbook.actions import ACTIONS


def places(module, **args):
    return host_arguments(Call(f"osremed.host.{module}", args, "h", 60.0))


@pytest.mark.parametrize("name", [name for name, action in ACTIONS.items() if action.reversible and action.recorded])
def test_every_action_that_the_host_can_undo_registers_below_the_prefix_of_the_host(name):
    directory = host_arguments(Call(ACTIONS[name].module, {}, "h", 60.0))["undo_dir"]
    assert directory == places("undo")["undo_dir"]
    agent = host_arguments(Call(ACTIONS[name].module, {}, "h", 60.0))["agent_status"]
    assert agent == directory.replace("/var/lib/osremed/undo", "/run/osremed/agent.json")
    assert directory.startswith("{{ osremed_prefix")


def test_a_new_policy_is_checked_by_the_host_and_exact_bytes_are_put_back_whatever_they_are():
    assert "'fastoom', 'check', '%s'" in places("fastoom_policy", sensitivity="low")["validate"]
    assert "validate" not in places("fastoom_policy", content_b64="e30=")


@pytest.mark.parametrize("daemon", ["timeline", "hotspot"])
def test_the_policy_of_a_daemon_lies_where_the_daemon_reads_it_and_is_checked_by_it(daemon):
    found = places("daemon_policy", daemon=daemon, settings={})
    assert found["path"].endswith(f"/etc/osremed/{daemon}.json")
    assert found["status_file"].endswith(f"/run/osremed/{daemon}.json")
    assert f"'{daemon}', 'check', '%s'" in found["validate"]
    assert found["undo_dir"] == places("undo")["undo_dir"]
    assert "validate" not in places("daemon_policy", daemon=daemon, content_b64="e30=")


def test_what_the_call_names_stays():
    assert "path" not in places("fastoom_policy", path="/p")
    assert places("wheel_release")["root"].endswith("/opt/osremed")
    assert "root" not in places("wheel_release", root="/elsewhere")
    assert places("service_restart", name="x.service") == {}
