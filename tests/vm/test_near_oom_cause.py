"""What issue 11's first case does after the guard has stepped in, on a host with a kernel and a systemd of its own: the
run that follows finds which service took the memory, limits it, and the limit holds when the service leaks on.

Machines are emulated, so that waits are long, and nothing is said of times."""

from __future__ import annotations

import pytest

from osremed.demo.vram_growth import run_in
from osremed.runbook.model import ENDED, RunState
from tests.soak.hosts import SoakHost

pytestmark = [pytest.mark.vm, pytest.mark.ansible, pytest.mark.long, pytest.mark.timeout(1800)]
MIB = 1 << 20
EXPENDABLE_MIB = 80  #: each of two
LEAK, LEAK_GROUP, LEAKS_MIB_S = "ota-cache", "/system.slice/ota-cache.service", 0.45
_LEFT = 0.16  #: of the host's memory, when the leak begins to leak
_PROGRAM, _READY = "/usr/local/lib/holds.py", "/run/holds"
_HOLDS = f"""
import os, sys, time
name, mib, leaks_mib_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
kept = [bytearray(mib << 20)]
for at in range(0, mib << 20, 4096): kept[0][at] = 1
os.makedirs("{_READY}", exist_ok=True)
open(f"{_READY}/{{name}}", "w").close()
while True:
    time.sleep(1 / leaks_mib_s if leaks_mib_s else 60)
    if leaks_mib_s: kept.append(b"x" * (1 << 20))
"""


class PeakHost(SoakHost):
    def hold(self, unit, mib, leaks_mib_s=0.0, *, oom_score_adj=0):
        """A transient service that holds so much; its pid."""
        argv = ["systemd-run", "--quiet", f"--unit={unit}", f"--property=OOMScoreAdjust={oom_score_adj}"]
        self.vm.check([*argv, "/usr/bin/python3", "-ISB", _PROGRAM, unit, str(mib), str(leaks_mib_s)])
        self.until(lambda: self.vm.run(["test", "-e", f"{_READY}/{unit}"])[0] == 0, f"{unit} holds its memory", 120)
        return self.main_pid(unit)

    def memory_mib(self, line):
        text = self.vm.check(["cat", "/proc/meminfo"])
        return next(int(each.split()[1]) for each in text.splitlines() if each.startswith(f"{line}:")) >> 10

    def of_leak(self, name):
        """A file of the leak's control group; empty when the group is gone."""
        return self.vm.check(["sh", "-c", f"cat /sys/fs/cgroup{LEAK_GROUP}/{name} 2>/dev/null || true"]).strip()

    def ended_by_guard(self):
        """Pids, in order."""
        events = [row["attributes"] for row in self.events_named("memory.near_oom")]
        return [each["pid"] for event in events for each in event.get("killed", ())]

    def available_ratio(self):
        return self.memory_mib("MemAvailable") / self.memory_mib("MemTotal")


@pytest.fixture
def peak(vms, plane, zipapp):
    (vm,) = vms(1)
    host = PeakHost(vm, "peak0", plane.intake_port)
    host.set_clock(0)
    host.prepare()
    vm.write(_PROGRAM, _HOLDS.encode())
    plane.write_inventory([(host.name, vm)])
    plane.start_prefect()
    plane.start_dispatcher()
    plane.roll_out(
        zipapp, agent_timeline="never", agent_hotspot="never", fastoom_prefer=[{"cmdline": "ota-logcollect"}],
        fastoom_protect=[{"cmdline": r"gateway\.py"}, {"name": "sshd"}],
    )  # fmt: skip
    return host


def test_the_service_that_took_the_memory_is_limited_and_the_host_lives_when_it_leaks_on(peak, plane) -> None:
    gateway = peak.main_pid("gateway")
    first = {
        peak.hold("ota-logcollect", EXPENDABLE_MIB),
        peak.hold("ota-exporter", EXPENDABLE_MIB, oom_score_adj=999),
    }
    free_mib = peak.memory_mib("MemAvailable") - round(_LEFT * peak.memory_mib("MemTotal"))
    leak = peak.hold(LEAK, free_mib, LEAKS_MIB_S)
    peak.until(peak.ended_by_guard, "FastOOM steps in", 400)

    run = peak.until(lambda: run_in(plane.control, peak.name, ENDED), "the run ends", 600)
    lines = plane.control.store.happenings(run.run_id)
    assert run.state is RunState.SUCCEEDED, f"{run.state}: {run.reason}"
    assert "growing-group" in {finding.name for finding in run.findings}
    (step,) = run.plan.steps
    assert (step.action, step.args["cgroup"]) == ("cgroup_limits", LEAK_GROUP), lines
    limit = peak.of_leak("memory.max")
    assert limit.isdigit(), "the leak has a limit"
    assert int(step.args["memory_max"].rstrip("B")) - int(limit) in range(4096), "the one of the plan, in whole pages"
    assert peak.main_pid(LEAK) == leak, "the leak itself lives: its memory was not needed any more"

    peak.until(lambda: peak.main_pid(LEAK) == 0, "the leak runs into its limit", 600)
    assert peak.observe()["oom_kills"] == 1, "the kernel ended a process, of that group alone"
    assert set(peak.ended_by_guard()) <= first, "and not the guard"
    assert peak.main_pid("gateway") == gateway
    assert peak.available_ratio() > 0.1
