"""What the sampler met and had no place for is told, never dropped silently."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osremed.core.paths import host_paths
from osremed.hotspot import sensor as sensor_module
from osremed.hotspot.budget import Budget
from osremed.hotspot.model import Profile
from osremed.hotspot.recorder import Recorder, Settings
from osremed.hotspot.sensor import Sensor
from osremed.hotspot.verbs import read_profile

pytestmark = pytest.mark.kernel
FORKS = 60
#: each process waits once, in a call of its own
FORKING = f"""
import os, time
for _ in range({FORKS}):
    pid = os.fork()
    if pid == 0:
        time.sleep(0.002)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def recorded(source: str) -> Profile:
    """The profile of a program, recorded in this process."""
    paths = host_paths()
    os.makedirs(paths.run, exist_ok=True)
    with Sensor() as sensor:
        recorder = Recorder(Settings(budget=Budget(ceiling=0.9)), paths, sensor)
        recorder.start()
        start_ns = time.time_ns()
        try:
            subprocess.run([sys.executable, "-c", source], check=True)
            end_ns = time.time_ns()
        finally:
            recorder.stop()
    return read_profile(start_ns, end_ns)


def test_every_wait_of_many_short_processes_is_counted(prefix: Path) -> None:
    profile = recorded(FORKING)
    sleeps = [each for each in profile.blocked if each.syscall == "clock_nanosleep" and each.count == 1]
    assert len({each.pid for each in sleeps}) >= FORKS
    assert not [gap for gap in profile.gaps if "found no place" in gap]


def test_waits_without_a_place_among_the_exact_ones_are_a_gap(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_module, "_MOST_PAIRS", 8)
    profile = recorded(FORKING)
    assert len(profile.blocked) <= 8
    (gap,) = [gap for gap in profile.gaps if "waits found no place among the exact ones" in gap]
    assert int(gap.split()[0]) >= FORKS - 8
