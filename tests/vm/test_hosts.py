"""What every test on a VM host leans on: several at once, nothing of one in another, and nothing left of any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testbed import state
from tests.testbed.vm import VmError

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

_CRASHES = """
import os, sys, time
from tests.testbed.state import open_session
from tests.testbed.vm import open_vm
session = open_session()
host = open_vm(session)
processes = [str(one["pid"]) for one in session.resources if one["kind"] == "process"]
print(session.id, host.directory, *processes, flush=True)
time.sleep(600)
"""


def test_two_hosts_are_two_machines_with_what_was_asked_for(vms, tmp_path) -> None:
    hosts = vms(2, swap=True, slow_disk=True)
    script = tmp_path / "where"
    script.write_text("#!/bin/sh\nuname -n > /root/name\ncat /root/name\n")
    script.chmod(0o755)
    for number, host in enumerate(hosts):
        host.copy(script, "/usr/local/bin/where")
        assert host.run(["where"]) == (0, f"vm{number}\n")
        assert host.check(["cat", "/root/name"]) == f"vm{number}\n"
        assert "memory" in host.check(["cat", "/sys/fs/cgroup/cgroup.controllers"]).split()
        assert "/dev/vdb" in host.check(["cat", "/proc/swaps"])
        assert host.check(["systemctl", "is-system-running"]) == "running\n"
        assert max(host.heartbeat_gaps()) > 0
    code, out = hosts[0].run(["sh", "-c", "echo told; exit 7"])
    assert (code, out) == (7, "told\n")


def test_what_takes_too_long_ends_with_the_console(vm) -> None:
    vm.check(["sh", "-c", "echo a-word-on-the-console > /dev/ttyS0"])
    with pytest.raises(VmError, match=r"(?s)not done within 1 s: sleep 60.*a-word-on-the-console"):
        vm.run(["sleep", "60"], timeout_s=1)
    vm.check(["true"])


def test_a_host_of_a_crashed_session_is_gone_with_the_next(testbed) -> None:
    argv = [sys.executable, "-c", _CRASHES]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as crashing:
        assert crashing.stdout is not None
        session, directory, *processes = crashing.stdout.readline().split()
        crashing.send_signal(signal.SIGKILL)
    assert all(state.start_time_ticks(int(pid)) for pid in processes), "nothing outlived the crash: nothing is proven"
    assert len(processes) == 2
    assert session in state.sweep()
    assert not any(state.start_time_ticks(int(pid)) for pid in processes)
    assert not Path(directory).exists()
