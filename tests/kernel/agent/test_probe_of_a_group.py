"""A probe of a real control group sees what its processes hold."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from osremed.agent.probes import prepare_probe
from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import cgroup

pytestmark = pytest.mark.kernel

LIMIT_BYTES = 64 << 20
HOLD = """
import sys
sys.stdin.readline()
held = bytearray(40 << 20)
held[::4096] = b"x" * (len(held) // 4096)
print(flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def group():
    if os.geteuid() != 0:
        pytest.skip("control groups need root")
    hierarchy = cgroup.memory_hierarchy()
    if isinstance(hierarchy, Missing):
        pytest.skip(f"no memory controller: {hierarchy}")
    created = cgroup.create(hierarchy.value, f"/osremed-probe-{os.getpid()}", LIMIT_BYTES)
    yield created
    cgroup.remove(created)


def test_available_memory_of_a_group_falls_by_what_a_process_takes_and_comes_back(group):
    probe = prepare_probe("memory.available_bytes", {"scope": group.path})
    before = probe()
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        cgroup.add(group, child.pid)
        child.stdin.write(b"go\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"\n"
        during, ratio = probe(), prepare_probe("memory.available_ratio", {"scope": group.path})()
    finally:
        child.communicate()
    assert isinstance(before, Value)
    assert isinstance(during, Value)
    assert isinstance(ratio, Value)
    assert before.value - during.value > 38 << 20
    assert 0 < ratio.value < 0.4
    after = probe()
    assert isinstance(after, Value)
    assert before.value - after.value < 8 << 20


def test_a_group_that_was_removed_is_gone(group):
    probe = prepare_probe("memory.available_ratio", {"scope": group.path})
    assert isinstance(probe(), Value)
    cgroup.remove(group)
    reading = probe()
    assert isinstance(reading, Missing)
    assert reading.reason is Reason.GONE
    os.mkdir(group.directory)  # for the fixture to remove
