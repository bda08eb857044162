"""A fleet of three machines with kernels of their own and no way out: rolled out one first, an upgrade that one of them
cannot take, a policy from Git, a host that is down, and nothing left in the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.nspawn.fleet import EVERYWHERE, ROOT, Fleet, make_release
from tests.unit.gitops.conftest import Author, Repository

pytestmark = [pytest.mark.vm, pytest.mark.ansible, pytest.mark.long, pytest.mark.timeout(3000)]
UNITS = ("osremed-fastoom", "osremed-agent")
POLICY = """apiVersion: osremed/v1
kind: HostPolicy
metadata: {name: all, title: Every host, owners: [sre]}
hosts: osremed
fastoom: {sensitivity: high, protect: [{name: sshd}]}
"""


class Host:
    """A machine with the words that a fleet uses."""

    def __init__(self, vm, name):
        self.vm, self.name = vm, name

    def run(self, script, *, check=True, timeout_s=60):
        code, out = self.vm.run(["sh", "-c", script], timeout_s=timeout_s)
        assert code == 0 or not check, out
        return SimpleNamespace(stdout=out, returncode=code)

    def release(self, component="host"):
        return self.run(f"readlink /opt/osremed/{component}/current").stdout.strip().rpartition("/")[2]

    def has(self, version):
        said = self.run(
            "/opt/osremed/host/current/osremed --version; systemctl is-active " + " ".join(UNITS), check=False
        )
        return said.stdout.split() == ["osremed", version, "active", "active"] and self.release("agent") == version


class Bed:
    """Machines are reached from here: each has a port of its own on the loopback."""

    def write_inventory(self, path, hosts):
        rows = {host.name: host.vm.variables() for host in hosts}
        path.write_text(json.dumps({"osremed": {"hosts": rows}}))
        return path

    def controller(self, argv, *, timeout_s, cwd, env):
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=timeout_s, cwd=cwd, env=env)


@pytest.fixture
def fleet(vms, tmp_path):
    hosts = [Host(vm, f"vm{number}") for number, vm in enumerate(vms(3))]
    return Fleet(Bed(), hosts, tmp_path)


def play(fleet, playbook, *words, **variables):
    patience = {"agent_start_s": 90, "fastoom_start_s": 90}  # three emulated machines on the cores of one
    return fleet.play(playbook, *words, timeout_s=900, **{**patience, **variables})


def test_a_fleet_of_machines_from_the_first_release_to_the_last_trace(fleet, tmp_path):
    """One story: a start of three machines costs more than what is looked at."""
    first, second, third = fleet.hosts
    assert first.run("ip route show default; ls /opt/osremed 2>&1", check=False).stdout.startswith("ls: cannot access")
    make_release(tmp_path, "1.0")
    rolled_out = play(fleet, "site")
    assert rolled_out.code == 0, rolled_out.text
    assert all(host.has("1.0") for host in fleet.hosts)
    order = [name for name in ("vm0", "vm1", "vm2") if name in rolled_out.recap]
    batches = rolled_out.text.count("PLAY [Roll out the host components: ")
    assert (order, batches) == (["vm0", "vm1", "vm2"], 3), "the first alone, then a tenth (one host), then the rest"

    make_release(tmp_path, "2.0", breaks=["vm1"])
    upgraded = play(fleet, "upgrade", version="2.0", **EVERYWHERE)
    assert {name: row["failed"] for name, row in upgraded.recap.items()} == {"vm0": 0, "vm1": 1, "vm2": 0}
    assert "the host has what it had before: release 1.0" in upgraded.told
    assert [host.has(version) for host, version in zip(fleet.hosts, ("2.0", "1.0", "2.0"))] == [True] * 3

    policy_from_git(fleet, tmp_path)

    third.vm.close()
    make_release(tmp_path, "3.0")
    down = play(fleet, "site", version="3.0", **EVERYWHERE)
    assert down.recap["vm2"]["unreachable"] == 1
    assert first.has("3.0")
    assert second.has("3.0")

    removed = play(fleet, "uninstall", "--limit", "vm0,vm1", **EVERYWHERE)
    assert removed.code == 0, removed.text
    for host in (first, second):
        trace = "ls -d /opt/osremed /etc/osremed /var/lib/osremed /run/osremed /tmp/.ansible* 2> /dev/null; "
        trace += "systemctl list-unit-files 'osremed*' --no-legend; find /sys/fs/cgroup -name '*osremed*'"
        assert host.run(trace, check=False).stdout == ""


def policy_from_git(fleet, directory):
    """A signed commit goes live, reaches every host, canary first, and a second look changes nothing."""
    author, repository = Author(directory, "alice"), Repository(directory / "rules")
    repository.write("policies/all.yaml", POLICY)
    shutil.copytree(ROOT / "runbooks/near-oom", repository.directory / "runbooks/near-oom")  # none would be a mistake
    repository.commit("Sensitivity high everywhere", author)
    signers, source, state = directory / "signers", directory / "gitops.yaml", directory / "control"
    signers.write_text(author.allowed)
    document = {"apiVersion": "osremed/v1", "kind": "RulesSource", "url": str(repository.directory)}
    source.write_text(json.dumps({**document, "verify": {"allowed_signers": str(signers)}}))
    applied = osremed(fleet, "gitops", "apply", "--source", str(source), "--state", str(state))
    assert applied.returncode == 0, applied.stdout + applied.stderr
    reach = ("--state", str(state), "--inventory", str(fleet.inventory), "--collections", str(ROOT / "collections"))
    brought = json.loads(osremed(fleet, "gitops", "hosts", *reach, "-o", "json").stdout)
    assert {row["host"]: row["outcome"] for row in brought["hosts"]} == dict.fromkeys(("vm0", "vm1", "vm2"), "changed")
    for host in fleet.hosts:
        status = json.loads(host.run("/opt/osremed/host/current/osremed fastoom status -o json").stdout)
        assert status["sensitivity"] == "high"
    again = json.loads(osremed(fleet, "gitops", "hosts", *reach, "-o", "json").stdout)
    assert {row["outcome"] for row in again["hosts"]} == {"unchanged"}


def osremed(fleet, *words):
    argv = [sys.executable, "-m", "osremed", *words]
    environment = {**fleet.environ, "PYTHONPATH": str(ROOT), "HOME": os.environ.get("HOME", "/root")}
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=600, cwd=ROOT, env=environment)
