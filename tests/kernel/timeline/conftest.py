"""Programs that call what looks like CUDA, and what follows their calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from osremed.core.reading import Missing
from osremed.demo.fakecuda import build
from osremed.sensors.bpf import features
from osremed.timeline.callwatch import Budget, Calls
from tests.unit.timeline.conftest import environment, fake_driver, scenario, watch

__all__ = ["environment", "fake_driver", "scenario", "watch"]
STORY = Path(__file__).with_name("story.py")
PYENV = Path(os.environ.get("PYENV_ROOT", "/root/.pyenv"), "versions")
PYTHONS = [sys.executable, *(str(path) for each in ("3.11.*", "3.12.*", "3.13.*") for path in PYENV.glob(each))]
PYTHONS = [each if each == sys.executable else f"{each}/bin/python3" for each in PYTHONS]
MIB = 1 << 20
THE_LINE = next(at for at, line in enumerate(STORY.read_text().splitlines(), 1) if "# THE LINE" in line)


@pytest.fixture(scope="session")
def cuda(tmp_path_factory):
    try:
        return build(tmp_path_factory.mktemp("cuda"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def following():
    missing = features.absent()
    if isinstance(missing, Missing):
        pytest.skip(str(missing))
    made = []

    def start(calls_per_s=1e9):
        calls = Calls(Budget(calls_per_s))
        assert not isinstance(calls.probes, Missing), str(calls.probes)
        made.append(calls)
        return calls

    yield start
    for calls in made:
        calls.close()


@pytest.fixture
def program():
    """Starts a program of story.py that waits for a line; it and the pid that it has here."""
    started = []

    def start(python, *words, before=(), **environment):
        command = [*before, python, "-I", str(STORY), *(str(word) for word in words)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        started.append(process)
        ready = process.stdout.readline().split()
        assert ready[:1] == ["ready"], f"the program ended with {process.wait(10)}"
        return process, int(ready[1])

    yield start
    for process in started:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def say(process, answer="done"):
    process.stdin.write("go\n")
    process.stdin.flush()
    said = process.stdout.readline().strip()
    assert said == answer or answer is None, said
    return said
