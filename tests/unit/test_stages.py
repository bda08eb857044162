"""The gate fails when anything in it does: a stage, or the queue from which the lanes take them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

STAGES = Path(__file__).parents[2] / "tools/stages"
TOOLS = [
    "python",
    "ruff",
    "mypy",
    "lint-imports",
    "vermin",
    "yamllint",
    "ansible-lint",
    "osremed",
    "antsibull-changelog",
    "antsibull-docs",
]
#: Writes down how it was called, and fails when it was called with what is to break.
TOOL = """#!/bin/bash
echo "${0##*/} $*" >> "$TOLD"
[[ "$*" != *"$BREAKS"* ]]
"""


@pytest.fixture
def gate(tmp_path):
    """gate(breaks) -> (exit code, how its tools were called); `gate.failing(name)` puts a tool there that fails."""
    tools, bin_ = tmp_path / "tools", tmp_path / ".venv/bin"
    for folder in (tools, bin_, tmp_path / "collections/ansible_collections/osremed/host"):
        folder.mkdir(parents=True)
    shutil.copy(STAGES, tools)

    def put(name, text):
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)

    def run(breaks="nothing at all"):
        told = tmp_path / "told"
        told.write_text("")
        env = {**os.environ, "TOLD": str(told), "BREAKS": breaks}
        done = subprocess.run([str(tools / "stages"), "all"], env=env, capture_output=True, timeout=60, check=False)
        return done.returncode, told.read_text()

    for name in TOOLS:
        put(name, TOOL)
    run.failing = lambda name: put(name, "#!/bin/sh\nexit 4\n")
    run.reports = tmp_path / ".osremed/reports"
    return run


def test_every_stage_runs_once(gate):
    code, told = gate()
    assert code == 0
    once = ("tests/unit tests/crash", "tests/prefect", "tests/browser", "tools/sanity.py", "mypy tools")
    for part in (*once, "test_role_"):
        assert len([line for line in told.splitlines() if part in f"{line} "]) == (2 if part == "test_role_" else 1)


@pytest.mark.parametrize("breaks", ["unit.xml", "ansible.xml", "ansible-roles.xml", "tools/sanity.py", "browser.xml"])
def test_a_stage_that_fails_fails_the_gate_and_neither_lane_takes_another(gate, breaks):
    code, _told = gate(breaks)
    assert code != 0
    assert (gate.reports / "failed").exists()


@pytest.mark.parametrize("name", ["sed", "flock", "head"])
def test_a_queue_from_which_nothing_can_be_taken_fails_the_gate(gate, name):
    gate.failing(name)
    assert gate()[0] != 0
