"""The guard as the role installs it, on a host with a kernel, a systemd and a cgroup v2 tree of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jinja2
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "collections/ansible_collections/osremed/host/roles/fastoom/templates/osremed-fastoom.service.j2"
PROGRAM = "/opt/osremed/host/current/osremed"
COMMAND = ["/usr/bin/python3", "-I", "-S", "-B", PROGRAM]
MIB = 1 << 20
pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

_HOLDER = """
import sys, time
memory = bytearray(int(sys.argv[1]) << 20)
for offset in range(0, len(memory), 4096): memory[offset] = 1
open("/run/ready-" + sys.argv[2], "w").close()
while True: time.sleep(60)
"""
_LEAK = """
import time
kept = []
while True:
    kept.append(b"x" * (1 << 20))
    time.sleep(0.05)
"""


def unit_text(notifies):
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["comment"] = lambda text: f"# {text}"
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(ansible_managed="for a test", __fastoom_command=COMMAND, __fastoom_notifies=notifies)


class Guarded:
    """A host with the guard, and what a test does there."""

    def __init__(self, vm, zipapp):
        self.vm = vm
        vm.copy(zipapp, PROGRAM)
        vm.write("/usr/local/lib/holder.py", _HOLDER.encode())
        vm.write("/usr/local/lib/leak.py", _LEAK.encode())
        vm.write(
            "/etc/systemd/system/osremed-fastoom.service", unit_text(b"NOTIFY_SOCKET" in zipapp.read_bytes()).encode()
        )

    def guard(self, **policy):
        """Returns once the guard, started by systemd from the role's unit, says what it sees."""
        document = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": "medium", **policy}
        self.vm.write("/etc/osremed/fastoom.json", json.dumps(document).encode())
        self.vm.check(["sh", "-c", "systemctl daemon-reload && systemctl start osremed-fastoom.service"])
        self.vm.until(lambda: self.status_file().get("pid"), "a guard with a status", 90)

    def status_file(self):
        code, out = self.vm.run(["cat", "/run/osremed/fastoom.json"])
        return json.loads(out) if code == 0 else {}

    def osremed(self, *arguments):
        return json.loads(self.vm.check([*COMMAND, *arguments, "-o", "json"]))

    def unit(self, name, program, *arguments, properties=()):
        """A transient service; its pid."""
        flags = [f"--property={one}" for one in properties]
        argv = ["systemd-run", "--quiet", f"--unit={name}", *flags, "/usr/bin/python3", "-ISB", program, *arguments]
        self.vm.check(argv)
        return self.pid_of(name)

    def hold(self, name, mib, **more):
        """A service that holds so much; its pid, once it does."""
        pid = self.unit(name, "/usr/local/lib/holder.py", str(mib), name, **more)
        ready = ["test", "-e", f"/run/ready-{name}"]
        self.vm.until(lambda: self.vm.run(ready)[0] == 0, f"{name} holds its memory", 120)
        return pid

    def leak(self, name, **more):
        return self.unit(name, "/usr/local/lib/leak.py", **more)

    def show(self, name, *properties):
        out = self.vm.check(["systemctl", "show", name, *(f"--property={one}" for one in properties)])
        return dict(line.split("=", 1) for line in out.strip().split("\n"))

    def pid_of(self, name):
        return int(self.show(name, "MainPID")["MainPID"])

    def until_ended(self, name, timeout_s=180):
        self.vm.until(lambda: self.pid_of(name) == 0, f"the end of {name}", timeout_s)

    def interventions(self):
        def recorded():
            code, out = self.vm.run([*COMMAND, "fastoom", "events", "-o", "json"])
            events = json.loads(out)["events"] if code == 0 else []
            return [event["attributes"] for event in events if event["attributes"]["action"] == "killed"]

        return self.vm.until(recorded, "the record of an intervention", 60)

    def kernel_kills(self):
        return int(re.search(r"^oom_kill (\d+)$", self.vm.check(["cat", "/proc/vmstat"]), re.MULTILINE)[1])


@pytest.fixture
def guarded(vm, zipapp):
    return Guarded(vm, zipapp)


def report(vm, gaps, event, record_property):
    """Figures for the log; asserted only loosely, emulation is up to four times slower under load."""
    figures = {
        "start_s": round(vm.start_s, 1),
        "longest_gap_s": max(gaps),
        "median_gap_s": sorted(gaps)[len(gaps) // 2],
        "decided_ms": round((event["decided_ns"] - event["crossed_ns"]) / 1e6),
        "signalled_ms": round((event["signalled_ns"] - event["crossed_ns"]) / 1e6),
        "freed_ms": round((event["freed_ns"] - event["crossed_ns"]) / 1e6),
        "available_ratio": round(event["available_ratio"], 3),
    }
    for name, value in figures.items():
        record_property(name, value)
    print(json.dumps(figures))


def test_the_unit_of_the_role_runs_the_guard_locked_and_out_of_the_kernels_reach(guarded) -> None:
    guarded.guard(scopes=[{"node": True}])
    pid = guarded.pid_of("osremed-fastoom.service")
    status = guarded.osremed("fastoom", "status")
    assert status["pid"] == pid
    assert status["memory_locked"] == "yes"
    assert status["level"] == "none"
    facts = guarded.vm.check(["cat", f"/proc/{pid}/oom_score_adj", f"/proc/{pid}/status", f"/proc/{pid}/cgroup"])
    assert facts.startswith("-1000\n")
    locked_kib = int(re.search(r"^VmLck:\s+(\d+) kB$", facts, re.MULTILINE)[1])
    assert locked_kib > 1024
    assert "0::/hostcritical.slice/osremed-fastoom.service" in facts
    assert guarded.show("osremed-fastoom.service", "MemoryMin")["MemoryMin"] == str(64 * MIB)
    assert status["rss_bytes"] < 24 * MIB
    assert "unknown" not in guarded.vm.check(["journalctl", "-u", "osremed-fastoom.service", "--no-pager"]).lower()


def test_a_leak_ends_before_the_host_hangs_and_nothing_protected_ends(guarded, record_property) -> None:
    vm = guarded.vm
    service = guarded.hold("service", 300)
    guarded.guard(scopes=[{"node": True}], protect=[{"name": "sshd"}, {"cmdline": r"holder\.py \d+ service$"}])
    sshd, kills, beats = guarded.pid_of("ssh.service"), guarded.kernel_kills(), len(vm.beats_ms())
    hog = guarded.leak("hog")
    guarded.until_ended("hog")
    login_s = vm.log_in_again()
    gaps = vm.heartbeat_gaps(beats)
    events = guarded.interventions()
    report(vm, gaps, events[0], record_property)
    record_property("login_s", round(login_s, 1))
    assert [one["pid"] for event in events for one in event["killed"]] == [hog]
    assert events[0]["scope"] == "node"
    assert events[0]["killed"][0]["freed"] is True
    assert any(one["pid"] == service and "protected" in one["why"] for one in events[0]["spared"])
    assert events[0]["killed"][0]["heap_bytes"] < 300 * MIB, "the protected one must be larger, else nothing is proven"
    assert guarded.kernel_kills() == kills, "the kernel's own OOM killer acted"
    assert guarded.pid_of("ssh.service") == sshd
    assert guarded.pid_of("service") == service
    assert max(gaps) < 5


def test_a_full_slice_loses_its_hog_and_the_host_outside_loses_nobody(vms, zipapp, record_property) -> None:
    """The host has swap to spare, which the slice's parent forbids; the parent also sets the limit."""
    (vm,) = vms(1, swap=True)
    guarded = Guarded(vm, zipapp)
    vm.write("/run/systemd/system/box.slice", b"[Slice]\nMemoryMax=200M\nMemorySwapMax=0\n")
    vm.check(["systemctl", "daemon-reload"])
    outside = guarded.hold("outside", 250)
    neighbour = guarded.hold("neighbour", 30, properties=["Slice=box-inner.slice"])
    guarded.guard(scopes=[{"cgroup": "/box.slice/box-inner.slice"}])
    kills, beats = guarded.kernel_kills(), len(vm.beats_ms())
    hog = guarded.leak("hog", properties=["Slice=box-inner.slice"])
    guarded.until_ended("hog")
    gaps = vm.heartbeat_gaps(beats)
    events = guarded.interventions()
    report(vm, gaps, events[0], record_property)
    assert [one["pid"] for event in events for one in event["killed"]] == [hog]
    assert events[0]["scope"] == "/box.slice/box-inner.slice"
    assert events[0]["limit_bytes"] == 200 * MIB
    counts = dict(line.split() for line in vm.check(["cat", "/sys/fs/cgroup/box.slice/memory.events"]).splitlines())
    assert counts["oom_kill"] == "0"
    assert counts["oom"] == "0"
    assert guarded.kernel_kills() == kills
    assert (guarded.pid_of("outside"), guarded.pid_of("neighbour")) == (outside, neighbour)
    assert max(gaps) < 5
