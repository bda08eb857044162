"""A memory control group of the test's own, processes in it, and a guard that may act on nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from osremed.core.journal import read_journal
from osremed.core.reading import Missing, Value
from osremed.sensors import cgroup

ROOT = str(Path(__file__).resolve().parents[3])
MIB = 1 << 20

_WORKER = """
import mmap, os, signal, sys, time
group, name, adj, mib, kind = sys.argv[1:6]
with open(group + "/cgroup.procs", "w") as f: f.write(str(os.getpid()))
with open("/proc/self/comm", "w") as f: f.write(name)
if adj != "0":
    with open("/proc/self/oom_score_adj", "w") as f: f.write(adj)
mib = int(mib)
if kind == "ignores-term":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
def touch(memory):
    for offset in range(0, len(memory), 4096): memory[offset] = 1
if kind == "leak":
    kept = []
    sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
    while True:
        kept.append(b"x" * (1 << 20)); time.sleep(0.01)
if kind == "maps-file":
    with open(sys.argv[6], "rb") as f: memory = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    total = sum(memory[offset] for offset in range(0, len(memory), 4096))
elif kind == "shares-memory":
    with open(sys.argv[6], "r+b") as f: memory = mmap.mmap(f.fileno(), 0)
    touch(memory)
elif kind == "holds":
    memory = bytearray(mib << 20)
    touch(memory)
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
if kind in ("victim", "ignores-term"):
    memory = bytearray(mib << 20)
    touch(memory)
while True: time.sleep(60)
"""


@pytest.fixture
def hierarchy() -> cgroup.Hierarchy:
    found = cgroup.memory_hierarchy()
    if os.geteuid() != 0:
        pytest.skip("needs root to make control groups")
    if isinstance(found, Missing):
        pytest.skip(f"needs a memory controller: {found}")
    return found.value


@pytest.fixture
def make_group(hierarchy: cgroup.Hierarchy) -> Iterator[Callable[[int], cgroup.Group]]:
    made: list[cgroup.Group] = []

    def make(limit_bytes: int) -> cgroup.Group:
        group = cgroup.create(hierarchy, f"/osremed-test-{os.getpid()}-{len(made)}", limit_bytes)
        made.append(group)
        return group

    yield make
    for group in made:
        cgroup.remove(group, timeout_s=10)


class Workload:
    """Processes the test started; ended by it, whatever happens."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []

    def start(
        self, group: cgroup.Group, name: str, mib: int = 0, *, adj: int = 0, kind: str = "holds", extra: str = ""
    ) -> subprocess.Popen[str]:
        """Returns once the process is in the group and holds its memory; a `leak` and a `victim` take theirs after
        `go`, since they may not live long enough to say so."""
        args = [sys.executable, "-I", "-S", "-c", _WORKER, group.directory, name, str(adj), str(mib), kind, extra]
        process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def run_victim(self, group: cgroup.Group, *, kind: str = "victim") -> subprocess.Popen[str]:
        """A process that soon holds 82 MiB."""
        process = self.start(group, "victim", 82, kind=kind)
        self.go(process)
        return process

    @staticmethod
    def go(process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


@pytest.fixture
def workload(make_group: object) -> Iterator[Workload]:
    """After make_group, so that processes end before their group is removed."""
    started = Workload()
    yield started
    started.end()


class Guard:
    """The real daemon in a process of its own, as the zipapp would start it; its files below `prefix`."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.policy_path = prefix / "etc/osremed/fastoom.json"
        self.policy_path.parent.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None

    def policy(self, **parts: Any) -> None:
        document = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": "medium", **parts}
        self.policy_path.write_text(json.dumps(document))

    def start(self, **arguments: Any) -> None:
        """Returns once the guard guards."""
        self.spawn(**arguments)
        self.until(lambda: self.status()["pid"] == self.pid, "the guard did not start")

    def spawn(self, **arguments: Any) -> None:
        code = (
            f"import sys; sys.path.insert(0, {ROOT!r})\n"
            f"from osremed.fastoom import verbs\n"
            f"print(verbs.run(**{arguments!r}).text)"
        )
        environment = {**os.environ, "OSREMED_PREFIX": str(self.prefix)}
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], env=environment)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def status(self) -> dict[str, Any]:
        try:
            return json.loads((self.prefix / "run/osremed/fastoom.json").read_bytes())
        except FileNotFoundError:
            return {"pid": 0}

    def events(self) -> list[dict[str, Any]]:
        """Attributes of every decision, oldest first."""
        return self.told("memory.near_oom")

    def told(self, name: str) -> list[dict[str, Any]]:
        """Attributes of every event of the name, oldest first."""
        contents = read_journal(str(self.prefix / "var/lib/osremed/events/fastoom"))
        assert contents.damaged == ()
        return [entry.record["attributes"] for entry in contents.entries if entry.record["name"] == name]

    def actions(self) -> list[str]:
        return [event["action"] for event in self.events()]

    def until(self, condition: Callable[[], Any], message: str, timeout_s: float = 30) -> None:
        until(condition, message, timeout_s)
        assert self.process is not None
        assert self.process.poll() is None, "the guard ended"

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.terminate()
        return self.process.wait(timeout=30)


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    running = Guard(tmp_path)
    yield running
    assert running.stop() == 0


def until(condition: Callable[[], Any], message: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.01)


def kernel_oom_kills(group: cgroup.Group) -> int:
    reading = cgroup.oom_kills(group)
    assert isinstance(reading, Value)
    return reading.value
