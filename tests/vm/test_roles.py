"""The roles on a host with a kernel and a systemd of its own: units, tuning, undo by the agent, a wrong clock."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.ansible_environment import ansible_environment

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.vm, pytest.mark.ansible, pytest.mark.long, pytest.mark.timeout(1200)]
TUNE = "- hosts: osremed\n  gather_facts: false\n  roles: [{role: osremed.host.tuning}]\n"
SWAPPINESS, SCALE = "/proc/sys/vm/swappiness", "/proc/sys/vm/watermark_scale_factor"


class Controller:
    """Ansible, with one VM as the whole fleet."""

    def __init__(self, vm, directory):
        self.vm, self.directory, self.name = vm, directory, vm.directory.name
        self.inventory = directory / "hosts.json"
        self.inventory.write_text(json.dumps(vm.inventory()))
        self.tune = directory / "tune.yml"
        self.tune.write_text(TUNE)
        self.environ = ansible_environment(directory / "home")

    def run(self, *argv, **variables):
        ended = subprocess.run(
            [*argv, "-i", str(self.inventory), "-e", json.dumps(variables)], check=False,
            env=self.environ, cwd=ROOT, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        text = ended.stdout + ended.stderr
        changed = re.search(r"changed=(\d+)", text)
        told = re.sub(r"\s+", " ", text)
        return SimpleNamespace(code=ended.returncode, text=text, told=told, changed=int(changed[1]) if changed else -1)

    def play(self, playbook, **variables):
        return self.run("ansible-playbook", str(playbook), **variables)

    def value(self, path):
        return int(self.vm.check(["cat", path]))


@pytest.fixture
def controller(vm, tmp_path):
    return Controller(vm, tmp_path)


def test_the_roles_on_a_real_host(controller, tmp_path):
    """One host, one story: a start of a virtual machine and each play cost more than what is looked at."""
    vm, release = controller.vm, tmp_path / "osremed-host.pyz"
    build = [sys.executable, str(ROOT / "tools/build_zipapp.py"), "--output", str(release)]
    subprocess.run(build, check=True, timeout=60, capture_output=True)
    wanted = {"osremed_host_zipapp": str(release), "osremed_host_version": "1.0", "rollout_soak_s": 1}

    vm.check(["date", "-s", f"@{time.time() - 7200:.0f}"])
    late = controller.play(ROOT / "playbooks/site.yml", **wanted)
    assert (late.code != 0, late.changed) == (True, 0), late.text
    assert re.search(r"The clock of the host is -7\d\d\d s from that of the controller", late.told)
    assert vm.run(["ls", "/opt/osremed"])[0] != 0
    vm.check(["date", "-s", f"@{time.time():.0f}"])

    converged = controller.play(ROOT / "playbooks/site.yml", **wanted)
    assert converged.code == 0, converged.text
    for unit in ("osremed-fastoom", "osremed-agent"):
        assert vm.check(["systemctl", "is-active", unit]) == "active\n"
        vm.check(["systemd-analyze", "security", "--threshold=25", "--no-pager", unit])
    assert vm.check(["systemctl", "show", "-P", "MemoryMin", "osremed-fastoom"]) == f"{64 << 20}\n"
    log = vm.check(["journalctl", "--no-pager", "-u", "osremed-fastoom", "-u", "osremed-agent"])
    assert "nknown" not in log, log

    undo_by_the_agent(controller)
    reclaim(controller)
    tuning_and_back(controller)


def reclaim(controller):
    """Control groups of version 2: what is taken is taken from this group's file cache."""
    group = "/sys/fs/cgroup/osremed-test"
    fill = (
        f"mkdir {group}; echo $$ > {group}/cgroup.procs; "
        "dd if=/dev/zero of=/var/tmp/fill bs=1M count=32 status=none; sync"
    )
    controller.vm.check(["sh", "-ec", fill])
    before = controller.value(f"{group}/memory.current")
    asked = json.dumps({"cgroup": "/osremed-test", "bytes": "16MiB"})
    done = controller.run("ansible", "osremed", "-m", "osremed.host.cgroup_reclaim", "-a", asked)
    assert done.code == 0, done.text
    assert before - controller.value(f"{group}/memory.current") >= 8 << 20, done.text
    controller.vm.check(["rmdir", group])


def undo_by_the_agent(controller):
    """An unconfirmed change of a sysctl and of a control group: the agent, in its unit, can take both back."""
    limit_file = "/sys/fs/cgroup/system.slice/ssh.service/memory.high"
    before = [controller.vm.check(["cat", path]) for path in (SWAPPINESS, limit_file)]
    sysctl = {"settings": {"vm.swappiness": 33}, "persist": False}
    limit = {"cgroup": "/system.slice/ssh.service", "memory_high": "512MiB"}
    changes = (("sysctl", sysctl, SWAPPINESS, "33\n"), ("cgroup_limits", limit, limit_file, f"{512 << 20}\n"))
    for module, arguments, path, applied in changes:
        told = json.dumps({**arguments, "undo_id": module, "confirm_within": 60})
        done = controller.run("ansible", "osremed", "-m", f"osremed.host.{module}", "-a", told)
        assert done.code == 0, done.text
        assert "undo_registered: true" in done.text.replace('"', ""), done.text
        assert controller.vm.check(["cat", path]) == applied, "taken back before it was seen: nothing is proven"
    back = [lambda path=path: controller.vm.check(["cat", path]) for path in (SWAPPINESS, limit_file)]
    controller.vm.until(lambda: [read() for read in back] == before, "the agent takes both values back", 240)


def tuning_and_back(controller):
    before = [controller.value(SWAPPINESS), controller.value(SCALE)]
    wanted = {"tuning_swappiness": 20, "tuning_watermark_scale_factor": 100}
    tuned = controller.play(controller.tune, **wanted)
    assert tuned.code == 0, tuned.text
    assert [controller.value(SWAPPINESS), controller.value(SCALE)] == [20, 100]

    controller.vm.check(["sh", "-c", f"echo 55 > {SWAPPINESS}"])
    theirs = controller.play(controller.tune, tuning_state="absent")
    assert theirs.code != 0
    assert "vm.swappiness was changed by someone else since" in theirs.told
    assert controller.value(SCALE) == 100
    controller.vm.check(["sh", "-c", f"echo 20 > {SWAPPINESS}"])

    restored = controller.play(controller.tune, tuning_state="absent")
    assert restored.code == 0, restored.text
    assert [controller.value(SWAPPINESS), controller.value(SCALE)] == before
    assert controller.vm.run(["ls", "/etc/sysctl.d/90-osremed-tuning.conf", "/var/lib/osremed/tuning.json"])[0] != 0
