"""The cost of what is on now and then only is measured too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from osremed.core.paths import host_paths
from osremed.hotspot.budget import Budget
from osremed.hotspot.recorder import Recorder, Settings
from osremed.hotspot.sensor import COUNTING, Sensor

pytestmark = pytest.mark.kernel


def test_windows_of_system_calls_are_measured(prefix: Path) -> None:
    paths = host_paths()
    os.makedirs(paths.run, exist_ok=True)
    caller = subprocess.Popen([sys.executable, "-c", "import os\nwhile True: os.getppid()"])
    try:
        with Sensor() as sensor:
            recorder = Recorder(Settings(budget=Budget(ceiling=0.9)), paths, sensor)
            recorder.start()
            try:
                for _ in range(9):
                    recorder.tick()
                assert sensor.run_time_s(COUNTING) > 0
            finally:
                recorder.stop()
    finally:
        caller.kill()
        caller.wait()
