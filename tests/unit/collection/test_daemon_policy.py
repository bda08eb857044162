"""The module and the daemon whose policy it changes, together: a GPU watch that runs obeys, refuses, is taken back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from ansible_collections.osremed.host.plugins.module_utils._change import carry_out
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._policyoptions import make_request
from ansible_collections.osremed.host.plugins.modules import daemon_policy, undo

from osremed.agent.undo import revert
from osremed.core.clock import SystemClock
from osremed.core.paths import host_paths
from tests.support import an_agent


class Host:
    """One with a running watch and no driver."""

    def __init__(self, root):
        self.root, self.policy = str(root), root / "etc/osremed/timeline.json"
        self.policy.parent.mkdir(parents=True)
        argv = [sys.executable, "-m", "osremed", "timeline", "run"]
        environment = {**os.environ, "OSREMED_PREFIX": self.root, "OSREMED_LOG": "error"}
        self.process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL)

    def status(self):
        with open(f"{self.root}/run/osremed/timeline.json", encoding="utf-8") as stream:
            return json.load(stream)

    def wait_for(self, wanted):
        deadline = time.monotonic() + 60
        while True:
            try:
                found = self.status()
                if wanted(found):
                    return found
            except FileNotFoundError:
                found = None
            assert self.process.poll() is None
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def act(self, check=False, **given):
        spec = daemon_policy.argument_spec()
        defaults = {name: facts.get("default") for name, facts in spec.items()}
        places = {
            "path": str(self.policy),
            "status_file": f"{self.root}/run/osremed/timeline.json",
            "undo_dir": f"{self.root}/var/lib/osremed/undo",
            "agent_status": an_agent.pretend(f"{self.root}/agent.json", f"{self.root}/var/lib/osremed/undo"),
            "reload_timeout_s": 60.0,
        }
        options = {**defaults, "daemon": "timeline", "reload": "required", **places, **given}
        return carry_out(make_request(options, daemon_policy.make_plan(options), lambda: self.root), check)


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path)
    made.wait_for(lambda found: found["policy_sha256"] == "")
    yield made
    made.process.send_signal(signal.SIGTERM)
    assert made.process.wait(60) == 0


def test_a_running_watch_obeys_and_goes_back_to_its_defaults_when_the_host_takes_it_back(host):
    result = host.act(settings={"stuck_s": 60}, undo_id="u1", confirm_within=600.0)
    assert (result["changed"], result["reloaded"]) == (True, True)
    assert host.status()["policy_sha256"] == result["applied_sha256"]
    assert not host.act(settings={"stuck_s": 60})["changed"]
    revert(host_paths(host.root), "u1", why="deadline", clock=SystemClock())
    assert not host.policy.exists()
    host.wait_for(lambda found: found["policy_sha256"] == "")


def test_the_module_undo_tells_that_the_defaults_count_again(host):
    host.act(settings={"stuck_s": 60}, undo_id="u1")
    params = {
        "id": "u1",
        "undo_dir": f"{host.root}/var/lib/osremed/undo",
        "reload_timeout_s": 60.0,
        "state": "reverted",
    }
    assert undo.revert(params, False)["reloaded"]
    assert host.status()["policy_sha256"] == ""


def test_what_the_watch_rejects_is_as_before_and_the_watch_too(host):
    good = host.act(settings={"stuck_s": 60})
    with pytest.raises(ActionFailed, match="unknown key 'stuck'") as refused:
        host.act(settings={"stuck": 5}, undo_id="u2")
    assert refused.value.facts["rejected"]
    assert json.loads(host.policy.read_text())["stuck_s"] == 60
    host.wait_for(lambda found: found["policy_sha256"] == good["applied_sha256"] and not found["policy_error"])
    assert [name for name in os.listdir(f"{host.root}/var/lib/osremed/undo") if name.endswith(".json")] == []


def test_purge_and_absence_leave_nothing_of_before(host):
    host.act(settings={"stuck_s": 60, "window_s": 30})
    host.act(settings={"stuck_s": 90}, purge=True)
    assert set(json.loads(host.policy.read_text())) == {"apiVersion", "kind", "stuck_s"}
    assert host.act(state="absent")["reloaded"]
    assert host.status()["policy_sha256"] == ""


def test_without_a_watch_that_obeys_this_file_nothing_changes_where_one_is_required(host, tmp_path):
    with pytest.raises(ActionFailed, match="reads another policy"):
        host.act(path=str(tmp_path / "other.json"), settings={"stuck_s": 60})
    assert not (tmp_path / "other.json").exists()
