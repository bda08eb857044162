from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osremed.core.reading import Missing
from osremed.hotspot.model import Profile
from osremed.hotspot.verbs import read_profile
from osremed.sensors.bpf import features

TRUTH = Path(__file__).parent / "truth.py"


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    missing = features.absent()
    if isinstance(missing, Missing):
        pytest.skip(str(missing))
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    return tmp_path


@pytest.fixture
def record(prefix: Path) -> Callable[..., tuple[Profile, Any]]:
    """Records while a program runs; the profile of that time and what the program printed."""

    def run(words: list[str]) -> tuple[Profile, Any]:
        command = [sys.executable, "-m", "osremed", "hotspot", "run", "--segment", "2s", "--ceiling", "90%"]
        recorder = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while not (prefix / "run/osremed/hotspot.json").exists():
                assert recorder.poll() is None, "the recorder ended"
                assert time.monotonic() < deadline, "no segment after a minute"
                time.sleep(0.1)
            start_ns = time.time_ns()
            done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
            end_ns = time.time_ns()
            assert recorder.poll() is None, "the recorder ended before the program"
        finally:
            recorder.terminate()  # it writes what it has
            recorder.wait(timeout=60)
        return read_profile(start_ns, end_ns), done.stdout

    return run
