"""The collectors of load, on this machine: what they tell adds up and what is not there is said."""

from __future__ import annotations

import pytest

from osremed.agent import load
from osremed.agent.collect import collect
from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reason, Value
from osremed.sensors.cgroup import Below, Group, Hierarchy
from osremed.sensors.cpugroup import Quota, Throttling
from osremed.sensors.disks import Disk, ProcessIo


@pytest.fixture
def no_wait(monkeypatch):
    monkeypatch.setattr(load.time, "sleep", lambda _: None)
    seconds = iter(range(100, 1000, 5))
    monkeypatch.setattr(load.time, "monotonic", lambda: float(next(seconds)))


def test_a_limited_group_is_told_with_its_share_of_stopped_periods(no_wait, monkeypatch):
    group = Group(Hierarchy(1, "/cg"), "/x.slice/batch.service")
    readings = iter([Throttling(100, 10, 1.0), Throttling(150, 35, 2.0)])
    used = iter([Value(10.0), Value(11.0)])
    monkeypatch.setattr(load.cpugroup, "hierarchy", lambda: Value(group.hierarchy))
    monkeypatch.setattr(load.cgroup, "below", lambda _: Below((group, Group(group.hierarchy, "/free")), {}))
    quotas = {group.path: Value(Quota(20000, 100000)), "/free": Value(Quota(None, 100000))}
    monkeypatch.setattr(load.cpugroup, "quota", lambda target: quotas[target.path])
    monkeypatch.setattr(load.cpugroup, "throttling", lambda _: Value(next(readings)))
    monkeypatch.setattr(load.cpugroup, "used_s", lambda _: next(used))
    found = collect("cpu_limits", {"window_s": 5})
    (row,) = found["groups"]
    assert (row["unit"], row["limit_cpus"], row["used_cpus"]) == ("batch.service", 0.2, 0.2)
    assert (row["throttled_ratio"], row["throttled_s_per_s"]) == (0.5, 0.2)


def test_times_of_a_disk_that_begin_anew_are_no_negative_rates(no_wait, monkeypatch):
    wrap_s = (1 << 32) / 1e3
    disks = iter([Value({"vda": Disk(0, wrap_s - 0.2, 0, wrap_s - 0.5, 0, wrap_s - 1.0, 0, wrap_s - 0.1)}),
                  Value({"vda": Disk(10, 0.3, 50, 0.5, 5000, 1.0, 25, 0.4)})])  # fmt: skip
    monkeypatch.setattr(load.disks, "disks", lambda: next(disks))
    monkeypatch.setattr(load.procfs, "pids", lambda: Value([]))
    (disk,) = collect("io", {"window_s": 5})["disks"]
    assert disk["busy_ratio"] > 0
    assert (disk["read_wait_s"], disk["write_wait_s"], disk["flush_wait_s"]) == (0.05, 0.02, 0.02)


def test_disks_and_writers_are_rates_and_what_was_not_read_is_a_gap(no_wait, monkeypatch):
    disks = iter([Value({"vda": Disk(0, 0.0, 0, 0.0, 0, 0.0, 0, 0.0)}),
                  Value({"vda": Disk(10, 0.5, 50, 1.0, 5000, 4.0, 25, 0.5)})])  # fmt: skip
    moved = iter([Value(ProcessIo(0, 0)), Value(ProcessIo(500, 1000))])
    monkeypatch.setattr(load.disks, "disks", lambda: next(disks))
    monkeypatch.setattr(load.procfs, "pids", lambda: Value([7]))
    monkeypatch.setattr(load.disks, "process_io", lambda _: next(moved))
    monkeypatch.setattr(load.psi, "node", lambda _: Missing(Reason.UNSUPPORTED, "psi"))
    found = collect("io", {"window_s": 5})
    (disk,) = found["disks"]
    assert (disk["busy_ratio"], disk["reads_per_s"], disk["read_wait_s"]) == (0.8, 2.0, 0.05)
    assert (disk["flushes_per_s"], disk["flush_wait_s"]) == (5.0, 0.02)
    assert found["processes"][0]["written_bytes_per_s"] == 200
    assert found["io_stall_ratio"]["missing"] == "unsupported"


def test_a_window_of_hours_is_refused():
    with pytest.raises(BadInput, match="out of range"):
        collect("io", {"window_s": 3600})
