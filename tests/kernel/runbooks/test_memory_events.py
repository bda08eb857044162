"""The agent tells the memory events that runbooks begin with, of programs and groups that are so. Looks are nearer
together than the agent does; nothing else differs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from osremed.agent.probes import prepare_probe
from osremed.core.reading import Missing, Value
from osremed.panorama.alarms import DYING, GROWTH, PAGE_CACHE, Alarms
from osremed.panorama.moment import light_balance, look_of, wide_look
from osremed.sensors import cgroup, residency

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root")]
FAULTS = Path(__file__).parent / "faults.py"
MIB = 1 << 20


@pytest.fixture
def make_group():
    """`make_group(path, limit_bytes)`: a group below one of the test's own, removed at the end."""
    hierarchy = cgroup.memory_hierarchy()
    if isinstance(hierarchy, Missing):
        pytest.skip(str(hierarchy))
    top = f"/osremed{uuid.uuid4().hex[:8]}.slice"
    yield lambda path, limit_bytes: cgroup.create(hierarchy.value, f"{top}/{path}", limit_bytes)
    with contextlib.suppress(FileNotFoundError):
        cgroup.remove(cgroup.group(hierarchy.value, top), timeout_s=20)


@contextlib.contextmanager
def running(group, *argv):
    def join():
        Path(group.directory, "cgroup.procs").write_text(str(os.getpid()))

    child = subprocess.Popen([sys.executable, *map(str, argv)], preexec_fn=join)  # noqa: PLW1509  one thread, one call
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def look():
    balance = light_balance("/proc").value
    return look_of(wide_look("/proc"), balance, time.monotonic_ns(), "/proc").value


def told_within(seconds, every_s, wanted):
    """The attributes of the first event that is wanted; looks every so often."""
    alarms, give_up = Alarms(), time.monotonic() + seconds
    while time.monotonic() < give_up:
        for event in alarms.note(look()):
            if wanted(event):
                return event.attributes
        time.sleep(every_s)
    raise AssertionError("not told")


def test_a_leak_is_told_with_its_service_and_the_time_that_is_left(make_group):
    group = make_group("import.service", 200 * MIB)
    with running(group, FAULTS, "leak", "120") as leak:
        facts = told_within(90, 2.5, lambda event: event.name == GROWTH and event.attributes["pid"] == leak.pid)
    assert (facts["unit"], facts["scope"], facts["state"]) == ("import.service", group.path, "raised")
    assert facts["limit_bytes"] == 200 * MIB
    assert 0.2 * MIB < facts["rate_bytes_s"] < 1.5 * MIB  # half a MiB a second, and its start
    assert facts["held_bytes"] > facts["before_bytes"] + 4 * MIB


def test_page_cache_at_a_limit_is_told_and_a_group_at_rest_is_not(make_group, tmp_path):
    """The file is written by the reader's group: who touches a page first pays for it."""
    busy, still = make_group("reports.service", 64 * MIB), make_group("archive.service", 64 * MIB)
    path = tmp_path / "cached"
    path.write_bytes(os.urandom(MIB) * 160)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    rest = "import os, sys, time; open(sys.argv[1], 'wb').write(os.urandom(70 << 20)); os.sync(); time.sleep(120)"
    told = []

    def wanted(event):
        told.append(event)
        return event.name == PAGE_CACHE and event.attributes["scope"] == busy.path

    with running(still, "-c", rest, tmp_path / "still"), running(busy, FAULTS, "cache", "120", tmp_path):
        facts = told_within(60, 2.0, wanted)
    assert facts["unit"] == "reports.service"
    assert facts["cache_ratio"] > 0.5
    assert still.path not in [event.attributes["scope"] for event in told if event.name == PAGE_CACHE]


def test_removed_groups_that_hold_page_cache_are_told_and_dropping_it_frees_them(make_group, tmp_path):
    parent = make_group("pods", 4096 * MIB)
    size = max(20 * MIB, round(0.01 * look().total_bytes / 8))
    paths = []
    for number in range(8):
        group = make_group(f"pods/job-{number}", size + 32 * MIB)
        paths.append(tmp_path / f"job-{number}")
        write = f"f = open(sys.argv[1], 'wb'); f.write(b'x' * {size}); f.flush(); os.fsync(f.fileno())"
        with running(group, "-c", f"import os, sys; {write}", paths[-1]) as child:
            assert child.wait(timeout=60) == 0
        cgroup.remove(group, timeout_s=20)
    facts = told_within(30, 0.5, lambda event: event.name == DYING and event.attributes["scope"] == parent.path)
    # What is cached, not what was written: where DAMON pages out what looks cold some of each file may be gone,
    # and more the later one looks.
    cached = sum(residency.residency_of_path(path).value.cached_bytes for path in paths)
    assert facts["held_bytes"] >= 0.95 * cached >= 0.6 * 8 * size
    probe = prepare_probe("memory.dying_ratio", {"scope": parent.path, "of": f"{facts['held_bytes']}B"})
    assert probe().value == pytest.approx(1.0, abs=0.05)
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert isinstance(probe(), Value)
    assert probe().value < 0.2
