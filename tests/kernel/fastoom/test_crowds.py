"""Victims that cannot move, that come back faster than they go, that look like the kernel's own, and very many of
them; on real processes, in groups and PID namespaces of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osremed.core.reading import Value
from osremed.sensors import cgroup, procfs
from tests.kernel.fastoom.conftest import MIB, ROOT, kernel_oom_kills, until

pytestmark = pytest.mark.kernel
NOW = {"enter_percent": 40, "leave_percent": 45, "target_percent": 50, "grace_s": 0}
FREEZER, PIDS = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup/pids")

_BOMB = """
import os, sys, time
for directory in sys.argv[1:]:
    with open(directory + "/cgroup.procs", "w") as f: f.write(str(os.getpid()))
sys.stdin.readline()
if os.fork() == 0:
    while True:
        try:
            if os.fork() == 0:
                memory = b"x" * (4 << 20)
        except OSError:
            time.sleep(0.001)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]: pass
        except ChildProcessError: pass
while True:  # pid 1 of the namespace: takes the orphans
    try: os.wait()
    except ChildProcessError: time.sleep(0.01)
"""
_CHILD_OF_TWO = """
import json, os, sys, time
root, group, policy = sys.argv[1:4]
def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline: time.sleep(0.01)
ready, told = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        with open(group + "/cgroup.procs", "w") as f: f.write(str(os.getpid()))
        memory = b"x" * (82 << 20)
        os.write(told, b"%d %d" % (os.getpid(), os.getppid()))
    time.sleep(600)
hog, parent = map(int, os.read(ready, 100).split())
sys.path.insert(0, root)
from osremed.fastoom import verbs
answer = verbs.run(policy=policy, once=True)
print(json.dumps({"hog": hog, "parent": parent, "events": answer.document["events"]}))
"""
_CROWD = """
import gc, os, signal, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as f: f.write(str(os.getpid()))
gc.freeze()
started = 0
for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        os.close(0), os.close(1)
        signal.pause()
    started += 1
print(started, flush=True)
signal.pause()
"""


def killed(guard) -> list[dict]:
    return [event for event in guard.events() if event["action"] == "killed"]


def usage_bytes(group: cgroup.Group) -> int:
    reading = cgroup.usage(group)
    assert isinstance(reading, Value)
    return reading.value


@pytest.fixture
def make_side_group() -> Iterator[Callable[[Path], Path]]:
    """Groups of version 1 controllers other than memory; removed when their processes are gone."""
    made: list[Path] = []

    def make(controller: Path) -> Path:
        if not (controller / "cgroup.procs").exists():
            pytest.skip(f"no version 1 hierarchy at {controller}")
        made.append(controller / f"osremed-test-{os.getpid()}")
        made[-1].mkdir()
        return made[-1]

    yield make
    for directory in made:
        until(lambda: not (directory / "cgroup.procs").read_text(), f"{directory} has processes", 60)  # noqa: B023
        directory.rmdir()


@pytest.fixture
def frozen_apart(make_side_group, make_group, workload) -> Iterator[Callable[[int], None]]:
    """Freezes a process in a group of its own; it thaws before it is ended."""
    directory = None

    def freeze(pid: int) -> None:
        nonlocal directory
        directory = make_side_group(FREEZER)
        (directory / "cgroup.procs").write_text(str(pid))
        (directory / "freezer.state").write_text("FROZEN")
        until(lambda: (directory / "freezer.state").read_text() == "FROZEN\n", "the process does not freeze")

    yield freeze
    if directory is not None:
        (directory / "freezer.state").write_text("THAWED")
    workload.end()


def test_a_frozen_hog_gives_up_its_memory_although_it_cannot_die(make_group, workload, guard, frozen_apart) -> None:
    group = make_group(128 * MIB)
    companion = workload.start(group, "companion", 10)
    hog = workload.start(group, "hog", 82)
    frozen_apart(hog.pid)
    guard.policy(scopes=[{"cgroup": group.path}], overrides=NOW)
    guard.start()
    guard.until(lambda: killed(guard), "the guard waits for a frozen process for ever", 60)
    assert [one["pid"] for one in killed(guard)[0]["killed"]] == [hog.pid]
    assert usage_bytes(group) < 64 * MIB, "its memory was not taken back"
    assert killed(guard)[0]["killed"][0]["freed"] is False, "it is still there, and the record must say so"
    assert hog.poll() is None
    assert companion.poll() is None
    assert len(killed(guard)) == 1


@pytest.fixture
def bomb(make_group, make_side_group) -> Iterator[tuple[cgroup.Group, subprocess.Popen[str]]]:
    """Once it reads a line, it forks 4 MiB children as fast as it can, up to 100 processes: in a PID namespace, so that
    all end with it, and a group that bears them."""
    group, narrow = make_group(640 * MIB), make_side_group(PIDS)
    (narrow / "pids.max").write_text("100")
    argv = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    argv += [sys.executable, "-ISc", _BOMB, group.directory, str(narrow)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True)
    yield group, process
    process.kill()
    process.wait()
    process.stdin.close()
    until(lambda: not cgroup.pids(group).value, "the bomb outlived its namespace", 60)


def test_a_fork_bomb_that_outruns_the_guard_ends_at_the_storm_breaker(bomb, workload, guard) -> None:
    group, process = bomb
    service = workload.start(group, "service", 20)
    guard.policy(
        scopes=[{"cgroup": group.path}],
        overrides=NOW,
        protect=[{"name": "service"}],
        limits={"max_kills": 60, "window_s": 600},
    )
    guard.start()
    workload.go(process)
    guard.until(lambda: "held_back" in guard.actions(), "the storm breaker did not stop it", 120)
    signalled = [one["pid"] for event in killed(guard) for one in event["killed"]]
    assert 1 <= len(signalled) <= 60
    assert service.poll() is None
    assert service.pid not in signalled


def test_a_child_of_pid_2_in_a_namespace_is_no_kernel_thread(make_group, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], overrides=NOW)
    argv = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    argv += [sys.executable, "-ISc", _CHILD_OF_TWO, ROOT, group.directory, str(guard.policy_path)]
    environment = {**os.environ, "OSREMED_PREFIX": str(guard.prefix)}
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, timeout=90, check=True)
    seen = json.loads(done.stdout)
    assert seen["parent"] == 2
    attributes = [event["attributes"] for event in seen["events"]]
    assert [one["pid"] for event in attributes for one in event["killed"]] == [seen["hog"]]
    assert attributes[0]["killed"][0]["freed"] is True


def test_among_two_thousand_processes_one_decision_ends_the_one_that_leaks(make_group, workload, guard) -> None:
    group = make_group(2048 * MIB)
    crowd = subprocess.Popen(
        [sys.executable, "-ISc", _CROWD, group.directory, "2000"], stdout=subprocess.PIPE, text=True, process_group=0
    )
    try:
        assert crowd.stdout.readline() == "2000\n"
        free_percent = 100 - 100 * usage_bytes(group) // (2048 * MIB)
        assert free_percent > 50
        lines = {"enter_percent": free_percent - 8, "leave_percent": free_percent - 7}
        guard.policy(
            scopes=[{"cgroup": group.path}],
            overrides={**lines, "target_percent": free_percent - 6, "warn_percent": free_percent - 4, "grace_s": 0},
        )
        guard.start()
        hog = workload.start(group, "hog", kind="leak")
        workload.go(hog)
        assert hog.wait(60) == -signal.SIGKILL
        guard.until(lambda: killed(guard), "no record of the kill")
        assert [one["pid"] for event in killed(guard) for one in event["killed"]] == [hog.pid]
        assert len([pid for pid in cgroup.pids(group).value if procfs.stat(pid).value.state != "Z"]) == 2001
        assert kernel_oom_kills(group) == 0
    finally:
        os.killpg(crowd.pid, signal.SIGKILL)
        crowd.wait()
        crowd.stdout.close()
        until(lambda: not cgroup.pids(group).value, "the crowd did not leave", 60)
