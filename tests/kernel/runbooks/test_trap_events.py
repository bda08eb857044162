"""The recorder tells the traps that runbooks begin with, of programs that are in them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from osremed.core.journal import read_journal
from osremed.core.reading import Missing
from osremed.sensors import cpugroup
from osremed.sensors.bpf import features
from osremed.sensors.cgroup import group

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="the recorder needs root")]
FAULTS = Path(__file__).parent / "faults.py"
RUN_S = 150.0
#: fault -> the trap that tells it
TOLD = {
    "procreads": "frequent-proc-reads",
    "locks": "lock-contention",
    "blocking": "blocking-io",
    "fsyncs": "fsync-storm",
    "burn": "throttled",
}


@pytest.fixture
def throttling():
    """A CPU group of 0.2 CPUs."""
    found = cpugroup.hierarchy()
    if isinstance(found, Missing):
        pytest.skip(str(found))
    target = group(found.value, f"/osremed-{uuid.uuid4().hex[:8]}")
    os.mkdir(target.directory)
    try:
        if found.value.version == 1:
            Path(target.directory, "cpu.shares").write_text("65536")  # its limit stops it, not the others
            Path(target.directory, "cpu.cfs_quota_us").write_text("20000")
        else:
            Path(target.directory, "cpu.weight").write_text("10000")
            Path(target.directory, "cpu.max").write_text("20000 100000")
        yield target
    finally:
        os.rmdir(target.directory)


def fault(name, directory):
    return subprocess.Popen([sys.executable, str(FAULTS), name, str(RUN_S), str(directory)])


def traps(prefix):
    directory = prefix / "var/lib/osremed/events/hotspot"
    entries = read_journal(str(directory)).entries if directory.exists() else ()
    return [each.record["attributes"] for each in entries if each.record["name"] == "hotspot.trap"]


def test_each_fault_is_told_by_its_name_with_who_it_is(tmp_path, monkeypatch, throttling) -> None:
    missing = features.absent()
    if isinstance(missing, Missing):
        pytest.skip(str(missing))
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    command = [
        sys.executable,
        "-m",
        "osremed",
        "hotspot",
        "run",
        "--segment",
        "2s",
        "--ceiling",
        "90%",
        "--traps",
        "8s",
    ]
    recorder = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    running = {name: fault(name, tmp_path) for name in TOLD}
    os.setpriority(os.PRIO_PROCESS, running["burn"].pid, -10)
    Path(throttling.directory, "cgroup.procs").write_text(str(running["burn"].pid))
    wanted = {(trap, throttling.path if name == "burn" else running[name].pid): name for name, trap in TOLD.items()}
    try:
        deadline = time.monotonic() + RUN_S
        found = {}
        while set(wanted) - set(found):
            assert recorder.poll() is None, "the recorder ended"
            assert time.monotonic() < deadline, f"not told: {sorted(wanted[key] for key in set(wanted) - set(found))}"
            time.sleep(0.5)
            told = traps(tmp_path)
            found = {(each["trap"], each["pid"] or each["scope"]): each for each in told if each["state"] == "raised"}
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        recorder.terminate()
        recorder.wait(timeout=60)
    keys = [(each["trap"], each["who"]) for each in told if each["state"] == "raised"]
    assert len(keys) == len(set(keys)), "a trap that stays is told once"
    assert all(each["figures"] and each["fix"] and each["second_ns"] for each in found.values())
