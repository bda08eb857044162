"""Control groups of the kernel itself, where files of a captured host cannot show what it refuses."""

from __future__ import annotations

import os
import subprocess

import pytest

from osremed.core.reading import Reason, Value
from osremed.sensors import cgroup, procfs

pytestmark = pytest.mark.kernel


@pytest.fixture
def domain():
    """A group of the unified hierarchy with one process, and a threaded group below it."""
    mounts = procfs.read_parsed("/proc/self/mountinfo", cgroup.parse_mountinfo, limit_bytes=procfs.LONG_BYTES).value
    mount = next((point for kind, point, _ in mounts if kind == "cgroup2"), None)
    if mount is None or os.geteuid():
        pytest.skip("needs root and the unified hierarchy")
    top = cgroup.group(cgroup.Hierarchy(2, mount), f"/osremed-test-{os.getpid()}")
    os.makedirs(f"{top.directory}/machine/thread")
    process = subprocess.Popen(["sleep", "600"])
    try:
        cgroup.add(cgroup.group(top.hierarchy, f"{top.path}/machine"), process.pid)
        with open(f"{top.directory}/machine/thread/cgroup.type", "w", encoding="ascii") as file:
            file.write("threaded")
        yield top, process.pid
    finally:
        process.kill()
        process.wait()
        cgroup.remove(top)


def test_a_threaded_group_below_hides_no_process(domain):
    top, pid = domain
    assert cgroup.pids(cgroup.group(top.hierarchy, f"{top.path}/machine/thread")).reason is Reason.UNSUPPORTED
    assert cgroup.pids(top) == Value((pid,))
