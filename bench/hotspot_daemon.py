"""What the recorder itself costs under a mixed load: CPU of its process, memory, BPF run time, what it writes an hour,
and how many of the stacks that are unwound by tables reach their root.

The load is paced, so that it is the same for everyone: a Python service asked 50 times a second, Redis (where it is
installed) asked 200 times, a program of Python started each second, a shell script that starts a dozen small programs a
second. Several checkouts may be given: their recorders run at the same time, each with a ring of its own, so that each
meets the very same host. The first minute (unwind tables, names of what runs already) is not counted.

    sudo .venv/bin/python bench/hotspot_daemon.py [--seconds 120] [--warm 60] [--tree OTHER_CHECKOUT ...]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from figures import tell
from hotspot import REPOSITORY, SERVE, answers, free_port, wait_for

ASK = """
import http.client, sys, time
client, next_s = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1])), time.monotonic()
while True:
    client.request("GET", "/"); client.getresponse().read()
    next_s += 0.02
    time.sleep(max(0, next_s - time.monotonic()))
"""
ASK_REDIS = """
import socket, sys, time
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    for _ in range(10): link.sendall(b"*3\\r\\n$3\\r\\nSET\\r\\n$1\\r\\nk\\r\\n$1\\r\\nv\\r\\n"); link.recv(64)
    time.sleep(0.05)
"""
SHORT = "while :; do {python} -c 'import json, argparse, http.client; sum(range(10**6))'; sleep 1; done"
SHELL = "while :; do for each in 1 2 3 4 5 6; do ls / | wc -l > /dev/null; done; sleep 1; done"


class Figures(NamedTuple):
    """Counters of a recorder at a moment: seconds of CPU (its own, without children), of BPF, bytes written."""

    at_s: float
    own_s: float
    written: int


@contextlib.contextmanager
def load() -> Iterator[None]:
    port, redis_port = free_port(), free_port()
    commands = [
        [sys.executable, "-c", SERVE, str(port)],
        ["sh", "-c", SHORT.format(python=sys.executable)],
        ["sh", "-c", SHELL],
    ]
    with_redis = shutil.which("redis-server") is not None
    if with_redis:
        commands.append(["redis-server", "--port", str(redis_port), "--save", "", "--appendonly", "no"])
    with contextlib.ExitStack() as stack:
        for words in commands:
            _started(stack, words)
        wait_for(lambda: answers(port), "the service")
        _started(stack, [sys.executable, "-c", ASK, str(port)])
        if with_redis:
            wait_for(lambda: answers(redis_port), "redis")
            _started(stack, [sys.executable, "-c", ASK_REDIS, str(redis_port)])
        yield


def _started(stack: contextlib.ExitStack, words: list[str]) -> None:
    process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    stack.callback(process.kill)


class Recorder:
    """A recorder of a checkout, with a ring of its own."""

    def __init__(self, tree: str, folder: str, python: str) -> None:
        self.tree, self.prefix = tree, Path(folder)
        environment = dict(os.environ, OSREMED_PREFIX=folder, PYTHONPATH=tree)
        command = [python, "-m", "osremed", "hotspot", "run", "--ceiling", "90%"]
        self.said = (self.prefix / "said").open("wb")
        self.process = subprocess.Popen(command, env=environment, cwd=tree, stdout=self.said, stderr=self.said)

    def figures(self) -> Figures:
        """ProcessLookupError when it has ended."""
        stat = Path(f"/proc/{self.process.pid}/schedstat").read_text(encoding="ascii")
        ring = self.prefix / "var/lib/osremed/hotspot"
        held = [
            each.stat().st_size for each in ring.iterdir() if not each.name.startswith(("kallsyms", "unwind", "vdso"))
        ]
        return Figures(time.monotonic(), int(stat.split()[0]) / 1e9, sum(held))

    def memory_mb(self) -> tuple[float, float]:
        """Resident, and its share of it (PSS)."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii")
        found = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith("kB")}
        return found["Rss"] / 1e3, found["Pss"] / 1e3

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.said.close()


def bpf_ns(pid: int) -> tuple[int, int]:
    """Run time and runs of the programs a process holds, while statistics are on (/proc/PID/fdinfo)."""
    total = runs = 0
    seen = set()
    for each in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            rows = dict(line.split(":\t") for line in each.read_text(encoding="ascii").splitlines() if ":\t" in line)
            if "run_time_ns" in rows and rows["prog_id"] not in seen:
                seen.add(rows["prog_id"])
                total, runs = total + int(rows["run_time_ns"]), runs + int(rows["run_cnt"])
    return total, runs


def rooted(folder: Path) -> tuple[int, int]:
    """Samples with an unwound stack in the ring, and how many of the stacks reach their root."""
    from osremed.hotspot.records import CPU_SAMPLE, UNWOUND, USER_CUT, read, stacks_of  # noqa: PLC0415
    from osremed.hotspot.ring import read_window  # noqa: PLC0415  the checkout this script lies in

    found = [
        each.flags & USER_CUT
        for segment in read_window(str(folder / "var/lib/osremed/hotspot"), 0, 1 << 63).segments
        for each in read(segment.records, stacks_of(segment.records))
        if each is not None and each.kind == CPU_SAMPLE and each.flags & UNWOUND
    ]
    return len(found), found.count(0)


def line(recorder: Recorder, before: Figures, after: Figures, bpf: tuple[int, int]) -> str:
    wall_s = after.at_s - before.at_s
    rss, pss = recorder.memory_mb()
    share = bpf[0] / 1e9 / wall_s / (os.cpu_count() or 1)
    own = 100 * (after.own_s - before.own_s) / wall_s
    written = (after.written - before.written) / wall_s * 3600 / 1e6
    if recorder.tree == REPOSITORY:
        tell("the recorder's own CPU", "% of a core", {"osremed": [own]}, {"": 0.5})
        tell("run time of its BPF programs", "% of the machine", {"osremed": [100 * share]}, {"": 1.0})
        tell("the recorder's memory", "MB", {"osremed": [rss]}, {"": 25.0})
        tell("what it writes", "MB/h", {"osremed": [written]}, {"": 40.0})
    return (
        f"{own:6.2f} % of a core  {rss:5.1f} MB resident ({pss:.1f} its own)  "
        f"{written:6.1f} MB/h  "
        f"BPF {100 * share:.2f} % of the machine ({bpf[0] / max(bpf[1], 1):.0f} ns a run)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--warm", type=float, default=60.0)
    parser.add_argument("--tree", action="append", default=[], help="another checkout, with its BPF objects compiled")
    options = parser.parse_args()
    sys.path.insert(0, REPOSITORY)
    from osremed.sensors.bpf.programs import measuring  # noqa: PLC0415  the checkout this script lies in

    with contextlib.ExitStack() as stack:
        stack.enter_context(load())
        recorders = []
        for tree in (*options.tree, REPOSITORY):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            recorders.append(Recorder(tree, folder, sys.executable))
            stack.callback(recorders[-1].end)
        time.sleep(options.warm)
        with measuring():
            before = [(each.figures(), bpf_ns(each.process.pid)) for each in recorders]
            time.sleep(options.seconds)
            for recorder, (first, (ns, runs)) in zip(recorders, before):
                ns_after, runs_after = bpf_ns(recorder.process.pid)
                bpf = ns_after - ns, runs_after - runs
                print(f"{recorder.tree}\n  {line(recorder, first, recorder.figures(), bpf)}", flush=True)
        for recorder in recorders:
            recorder.end()
            count, whole = rooted(recorder.prefix)
            if recorder.tree == REPOSITORY:
                lost = 100 * (1 - whole / max(count, 1))
                tell("unwound stacks that do not reach their root", "%", {"osremed": [lost]}, {"": 1.0})
            print(f"{recorder.tree}\n  {count} stacks unwound, {100 * whole / max(count, 1):.1f} % to the root")


if __name__ == "__main__":
    main()
