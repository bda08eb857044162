"""A whole host near OOM, without and with swap: its own services need the page cache, one process leaks. What it feels
is the gap of a heartbeat that forks and executes, as a login or any cold service does. And a host that only looks like
it: one who reads more than fits beside a big idle heap."""

from __future__ import annotations

import json

import pytest

from tests.support import vm_pressure

GENEROUS = 6  # times the longest gap at rest: emulation is noisy, and stalls before the decision count too
pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
#: Two minutes each under emulation: the gate has those without swap, `make test-hosts` all.
WITH_AND_WITHOUT = [pytest.param(False, id="no-swap"), pytest.param(True, id="swap", marks=pytest.mark.long)]


@pytest.mark.parametrize("swap", WITH_AND_WITHOUT)
def test_the_preferred_hog_ends_once_and_the_host_never_hangs(vms, zipapp, record_property, swap) -> None:
    (vm,) = vms(1, slow_disk=True, swap=swap)
    policy = {
        "prefer": [{"cmdline": r"leak\.py"}],
        "protect": [{"name": "sshd"}, {"cmdline": r"reader\.py \d$"}],
    }
    vm_pressure.start_guard(vm, "fastoom", zipapp, policy)
    vm_pressure.prepare(vm, swap_mib=96 if swap else 0)
    service = vm_pressure.main_pid(vm, "ssh")
    at_rest = vm_pressure.rest(vm)
    figures = vm_pressure.leak_until_ended(vm, mib_per_s=3)
    found = vm_pressure.decisions(vm)
    print(json.dumps({**figures, **at_rest}))
    record_property("longest_gap_s", figures["longest_gap_s"])
    record_property("at_rest_gap_s", at_rest["at_rest_gap_s"])
    assert figures["hog_dead"]
    assert [event["action"] for event in found if event["action"] != "recovered"] == ["killed"]
    assert [one["pid"] for one in found[0]["killed"]] == [figures["hog"]]
    assert found[0]["killed"][0]["freed"] is True
    assert figures["innocents"] == 0
    assert vm_pressure.main_pid(vm, "ssh") == service
    assert "oom_kill 0\n" in vm.check(["cat", "/proc/vmstat"]), "the kernel's own OOM killer acted"
    assert figures["longest_gap_s"] < max(GENEROUS * at_rest["at_rest_gap_s"], 3.0)


@pytest.mark.parametrize("swap", WITH_AND_WITHOUT)
def test_who_reads_much_beside_a_big_idle_heap_costs_nobody_the_life(vms, zipapp, swap) -> None:
    (vm,) = vms(1, slow_disk=True, swap=swap)
    vm_pressure.start_guard(vm, "fastoom", zipapp, {})
    idle = vm_pressure.prepare_innocents(vm)
    lived = {name: vm_pressure.innocent_for(vm, name, 25) for name in vm_pressure.INNOCENTS}
    assert lived == dict.fromkeys(vm_pressure.INNOCENTS, True)
    assert vm_pressure.main_pid(vm, "idle") == idle
    assert vm_pressure.decisions(vm) == []
    assert "oom_kill 0\n" in vm.check(["cat", "/proc/vmstat"])
