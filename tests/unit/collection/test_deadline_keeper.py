"""A deadline is promised only where somebody on the host keeps it: a living agent that may write what it puts back."""

from __future__ import annotations

import json
import os
import subprocess
from types import SimpleNamespace

import pytest
from ansible_collections.osremed.host.plugins.module_utils._change import carry_out
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._policyoptions import make_request
from ansible_collections.osremed.host.plugins.modules import fastoom_policy, service_switch, sysctl, undo, wheel_release

from tests.support import an_agent

OLD = '{"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": "low"}\n'
DEADLINE = {"undo_id": "u", "confirm_within": 60.0}


@pytest.fixture
def host(tmp_path):
    """One below a prefix, as roles leave it; `do[module](**options)` is that module's answer."""
    for directory in ("etc/osremed", "etc/sysctl.d", "run/osremed", "srv", "opt/agent", "proc/sys/vm"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc/osremed/fastoom.json").write_text(OLD)
    (tmp_path / "srv/web.json").write_text('{"cache_s": 0}')
    row = {"name": "cache", "file": str(tmp_path / "srv/web.json"), "key": "cache_s", "on": 1, "off": 0}
    switches = {"apiVersion": "osremed/v1", "kind": "ServiceSwitches", "switches": [row]}
    (tmp_path / "etc/osremed/switches.json").write_text(json.dumps(switches))
    (tmp_path / "proc/sys/vm/swappiness").write_text("60\n")
    for version in "12":
        (tmp_path / "opt/agent/releases" / version).mkdir(parents=True)
    (tmp_path / "opt/agent/current").symlink_to("releases/1")
    places = {
        "undo_dir": str(tmp_path / "var/lib/osremed/undo"),
        "agent_status": str(tmp_path / "run/osremed/agent.json"),
    }

    def options_of(module, given):
        return {name: given.get(name, facts.get("default")) for name, facts in module.argument_spec().items()}

    def policy(check=False, **given):
        path = str(tmp_path / "etc/osremed/fastoom.json")
        options = options_of(
            fastoom_policy, {**places, "path": path, "reload": "never", "sensitivity": "high", **given}
        )
        return carry_out(make_request(options, fastoom_policy.make_plan(options), lambda: str(tmp_path)), check)

    def switch(check=False, **given):
        declared = str(tmp_path / "etc/osremed/switches.json")
        return service_switch.change(
            options_of(service_switch, {**places, "name": "cache", "declared": declared, **given}), check
        )

    def setting(check=False, **given):
        file = str(tmp_path / "etc/sysctl.d/90-x.conf")
        options = options_of(sysctl, {**places, "settings": {"vm.swappiness": 10}, "file": file, **given})
        return sysctl.change(options, check, str(tmp_path))

    def release(check=False, **given):
        where = {"component": "agent", "root": str(tmp_path / "opt"), "version": "2"}
        return wheel_release.carry_out(options_of(wheel_release, {**places, **where, **given}), check)

    def held():
        """All that the four could change."""
        files = ("etc/osremed/fastoom.json", "srv/web.json", "proc/sys/vm/swappiness")
        return [*((tmp_path / name).read_text() for name in files), os.readlink(tmp_path / "opt/agent/current")]

    do = {"fastoom_policy": policy, "service_switch": switch, "sysctl": setting, "wheel_release": release}
    return SimpleNamespace(root=tmp_path, do=do, places=places, held=held)


MODULES = ("fastoom_policy", "service_switch", "sysctl", "wheel_release")


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("module", MODULES)
def test_without_an_agent_nothing_is_changed_that_a_deadline_is_promised_for(host, module, check):
    before = host.held()
    with pytest.raises(ActionFailed, match="nobody would take this back after confirm_within: no agent runs") as told:
        host.do[module](check, **DEADLINE)
    assert told.value.facts == {"no_keeper": True}
    assert "Hint: start the agent (the role osremed.host.agent), or leave confirm_within out" in str(told.value)
    assert host.held() == before
    assert list(host.root.glob("var/lib/osremed/undo/*.json")) == []


@pytest.mark.parametrize("module", MODULES)
def test_without_a_deadline_no_agent_is_needed_and_the_controller_takes_it_back(host, module):
    before = host.held()
    assert host.do[module](undo_id="u")["changed"]
    assert host.held() != before
    params = {"id": "u", "state": "reverted", "undo_dir": host.places["undo_dir"], "reload_timeout_s": 1.0}
    assert undo.revert(params, False)["result"] == "restored"
    assert host.held() == before


@pytest.mark.parametrize("module", MODULES)
def test_with_a_living_agent_the_deadline_is_kept_and_once_it_has_ended_it_is_not_promised(host, module):
    with an_agent.running(host.root) as pid:
        done = host.do[module](**DEADLINE)
        assert done["deadline_ns"] > 0
        assert f"the agent (pid {pid}) keeps the deadline" in done["evidence"]
        status = (host.root / "run/osremed/agent.json").read_text()
    (host.root / "run/osremed/agent.json").write_text(status)  # as one leaves it that is killed
    again = host.do[module](**DEADLINE)
    assert not again["changed"], "there is nothing to promise any more"
    undo.revert({"id": "u", "state": "reverted", "undo_dir": host.places["undo_dir"], "reload_timeout_s": 1.0}, False)
    with pytest.raises(ActionFailed, match=f"no agent runs: process {pid} of .* has ended"):
        host.do[module](**DEADLINE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda status: {**status, "start_time_ticks": status["start_time_ticks"] + 1}, "has ended"),
        (lambda status: {**status, "undo_dir": "/elsewhere"}, "reads other undo records: /elsewhere, not "),
        (lambda status: {"pid": status["pid"]}, "cannot be read"),
        (lambda status: [], "cannot be read"),
    ],
)
def test_another_process_with_its_pid_or_an_agent_of_other_records_is_no_keeper(host, change, why):
    path = host.places["agent_status"]
    an_agent.pretend(path, host.places["undo_dir"])
    with open(path, encoding="utf-8") as stream:
        status = json.load(stream)
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(change(status), stream)
    with pytest.raises(ActionFailed, match=why):
        host.do["service_switch"](True, **DEADLINE)


def has_mounts():
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return os.geteuid() == 0 and tried.returncode == 0


@pytest.mark.skipif(not has_mounts(), reason="mount namespaces need root")
@pytest.mark.parametrize(
    ("mounts", "why"),
    [
        ("mount --bind {0} {0}; mount -o remount,bind,ro {0}", "may not write {0}"),
        ("mount -t tmpfs none {0}", "sees something else as {0}"),
        ("mount -t tmpfs none {1}", "does not see {0}"),
    ],
)
def test_a_file_that_the_agent_in_its_unit_may_not_write_is_not_changed(host, tmp_path, mounts, why):
    place = tmp_path / "srv"
    (place / "conf").mkdir()
    (place / "web.json").rename(place / "conf/web.json")
    declared = tmp_path / "etc/osremed/switches.json"
    declared.write_text(declared.read_text().replace("srv/web.json", "srv/conf/web.json"))
    with an_agent.running(host.root, mounts.format(place / "conf", place)) as pid:
        for check in (True, False):
            with pytest.raises(ActionFailed) as told:
                host.do["service_switch"](check, **DEADLINE)
            assert f"the agent (pid {pid}) {why.format(place / 'conf')}. Nothing changed" in str(told.value)
            assert "agent_writable of the role osremed.host.agent" in str(told.value)
        assert json.loads((place / "conf/web.json").read_text()) == {"cache_s": 0}
        assert host.do["fastoom_policy"](**DEADLINE)["deadline_ns"] > 0, "where it may write it keeps its word"
