"""What a watch makes of answers, driver events and kernel lines that come in an awkward order."""

from __future__ import annotations

import contextlib
import os
import resource

import pytest

from osremed.core.clock import SystemClock
from osremed.core.journal import read_journal
from osremed.core.paths import host_paths
from osremed.core.reading import Missing, Reason, Value
from osremed.sensors.kmsg import KernelLine
from osremed.sensors.nvml import METRICS, Identity, Snapshot
from osremed.timeline.model import snapshot_as_json
from osremed.timeline.settings import parse_settings
from osremed.timeline.watch import Watch

BDF, UUID = "0000:18:00", "GPU-00000000-1111-0000-0000-000000000000"


class Asked:
    """A watch whose probes are never started: the test says what they answer."""

    def __init__(self, prefix):
        self.prefix, paths = prefix, host_paths()
        self.watch = Watch(parse_settings({"calls_per_s": 0, "dumps": ""}, "test"), paths, SystemClock())

    def snapshot(self, index=0, **metrics):
        absent = Missing(Reason.NO_DATA, "test")
        told = {name: Value(metrics[name]) if name in metrics else absent for name in METRICS}
        found = Snapshot(Identity(index, UUID, "x", BDF), told, Value(()))
        self.watch._answer(index, {"snapshot": snapshot_as_json(found)})

    def kernel_says(self, text, usec=None, **more):
        usec = self.watch.clock.monotonic_ns() // 1000 if usec is None else usec
        self.watch.kernel_line(KernelLine(1, usec, 0, 3, f"NVRM: Xid (PCI:{BDF}): {text}"), **more)

    def events(self, name):
        entries = read_journal(str(self.prefix / "var/lib/osremed/events/timeline")).entries
        return [each.record["attributes"] for each in entries if each.record["name"] == name]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    found = Asked(tmp_path)
    yield found
    found.watch.close()


RESET = "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
GONE = {"missing": "gone", "source": "nvmlInitWithFlags", "detail": "NVML 9: driver not loaded", "error": 9}


@pytest.mark.parametrize("over", ["NVML says so", "the driver is gone", "the driver is another"])
def test_what_the_driver_asked_for_is_asked_no_more_once_it_is_over(asked, over):
    asked.watch._answer(-1, {"count": 0, "driver": "570"})
    asked.kernel_says(RESET)
    asked.kernel_says("109, pid=7, name=a, x")
    if over == "NVML says so":
        asked.snapshot(recovery_action=0)
    else:
        asked.watch._answer(-1, GONE if over == "the driver is gone" else {"count": 0, "driver": "580"})
    asked.watch.tell(asked.watch.incidents.close())
    asked.kernel_says("31, pid=77, name=python, Ch 00000008, intr 00000000. MMU Fault")
    (fault,) = (each for each in asked.events("gpu.xid") if each["code"] == 31)
    assert (fault["action"], fault["action_source"]) == ("RESTART_APP", "catalogue")


def test_the_xid_of_a_lost_gpu_is_one_of_that_gpu_whoever_tells_it_last(asked):
    asked.snapshot()
    asked.kernel_says("79, pid=1, name=x, GPU has fallen off the bus.")
    asked.watch._answer(0, {"error": 15, "missing": "gone", "source": "x", "detail": "NVML 15: GPU is lost"})
    asked.watch._answer(-2, {"type": 8, "index": 0, "data": 79, "mig": None})
    assert [(each["bdf"], each["uuid"]) for each in asked.events("gpu.xid")] == [(BDF, UUID)]
    assert asked.watch.incidents.totals == {("xid", BDF, "79"): 1}


def test_what_the_kernel_logged_while_no_watch_ran_is_told_line_by_line(asked):
    now_usec, hour_usec = asked.watch.clock.monotonic_ns() // 1000, 3600 * 10**6
    for ago, code in ((3, 79), (2, 48), (1, 31)):
        asked.kernel_says(f"{code}, pid=5, name=a, x", now_usec - ago * hour_usec, catching_up=True)
    assert [(each["code"], each["phase"]) for each in asked.events("gpu.xid")] == [
        (79, "raised"),
        (48, "raised"),
        (31, "raised"),
    ]


@contextlib.contextmanager
def two_descriptors_left():
    before, taken = resource.getrlimit(resource.RLIMIT_NOFILE), []
    try:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, before[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(2))
        for _ in range(2):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for each in taken:
            os.close(each)


@contextlib.contextmanager
def no_process_left(monkeypatch):
    def fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", fork)
        yield


@pytest.mark.parametrize("lacks", ["descriptors", "processes"])
def test_a_probe_that_cannot_be_started_is_a_gap_and_the_next_round_tries_again(asked, monkeypatch, lacks):
    asked.snapshot(vram_used_bytes=1)
    opened = len(os.listdir("/proc/self/fd"))
    with two_descriptors_left() if lacks == "descriptors" else no_process_left(monkeypatch):
        asked.watch._answer(-1, {"count": 1, "driver": "570"})
        asked.watch.round()
    assert asked.watch.snapshots == {}
    assert asked.watch.unreadable[0].detail
    assert {number: probe.pid for number, probe in asked.watch.probes.items()} == {-1: 0, -2: 0, 0: 0}
    asked.watch.outbox.flush()
    assert [each["state"] for each in asked.events("gpu.unreadable")] == ["raised"]
    assert len(os.listdir("/proc/self/fd")) <= opened + 2, "but for the journal of events nothing stays open"
    asked.watch.round()
    assert all(probe.pid for probe in asked.watch.probes.values())
