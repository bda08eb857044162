#!/usr/bin/env python3
"""What a call at a host costs, from a warm ansible-playbook and from a new one, in turn: wall and CPU time of a ping
and of a look at a host (this machine, Ansible's local connection).

    bench/executor_calls.py [CALLS]

CPU time is that of all processes a call has, the module and what it runs on the host among them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from figures import tell

from osremed.core.action import Call, Status
from osremed.executor import stragglers
from osremed.executor.runner import AnsibleExecutor

ROOT = Path(__file__).resolve().parents[1]
CALLS = 15
MODULES = {"a ping": ("ansible.builtin.ping", {}), "a look": ("osremed.host.evidence", {"collectors": {"fastoom": {}}})}
START_S = 60.0


def cpu_s(work: Path) -> float:
    """Of this process, its children that have ended, and those of the process that serves calls."""
    pids = [os.getpid(), *stragglers.marked_processes(str(work / "calls"))]
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(each) for each in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def serving(work: Path) -> bool:
    return any((work / "calls").glob("*/warm-*/socket"))


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else CALLS
    with tempfile.TemporaryDirectory() as name:
        folder, executors = Path(name), {}
        facts = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "osremed_prefix": name,
                 "osremed_command": [sys.executable, "-m", "osremed"]}  # fmt: skip
        (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"here": facts}}}))
        os.environ.update(PYTHONPATH=str(ROOT))  # for the on-host program; Ansible's own is not given it
        for player in ("osremed", "a new ansible-playbook"):
            work = str(folder / player.split()[-1])
            executors[player] = AnsibleExecutor(str(folder / "hosts.json"), str(ROOT / "collections"), work)
        warm, new = executors.values()
        new._warm.path = new._warm._script = ""  # as where the collection has no such program
        warm.warm_up()
        give_up_s = time.monotonic() + START_S
        while not serving(folder / "osremed"):
            if time.monotonic() > give_up_s:
                print("nobody serves: is the collection there?", file=sys.stderr)
                return 1
            time.sleep(0.1)
        for what, (module, words) in MODULES.items():
            wall: dict[str, list[float]] = {player: [] for player in executors}
            cpu: dict[str, list[float]] = {player: [] for player in executors}
            for _ in range(count):
                for player, executor in executors.items():
                    work_dir = folder / player.split()[-1]
                    before, begin_s = cpu_s(work_dir), time.monotonic()
                    outcome = executor.run(Call(module, words, "here", 60))
                    wall[player].append(1e3 * (time.monotonic() - begin_s))
                    cpu[player].append(1e3 * (cpu_s(work_dir) - before))
                    assert outcome.status is Status.OK, outcome.detail
            for kind, found in (("time", wall), ("CPU time", cpu)):
                tell(f"{kind} of {what} at a host", "ms", found, {"a new ansible-playbook": 0.7})
                (ours, theirs) = (median(samples) for samples in found.values())
                print(f"{what}: {kind} {ours:.0f} ms, new {theirs:.0f} ms, {ours / theirs:.2f}")
        for executor in executors.values():
            executor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
