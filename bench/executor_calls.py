#!/usr/bin/env python3
"""What a call at a host costs, from a warm ansible-playbook and from a new one, in turn: wall and CPU time of a ping
and of a look at a host (this machine, Ansible's local connection). And of a ping at many hosts: a warm call each, eight
at a time as a canary makes them, beside one play over all of them with eight forks.

    bench/executor_calls.py [CALLS]

CPU time is that of all processes a call has, the module and what it runs on the host among them.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
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
REAPED_S = 0.5  #: what a forked play has spent is told once its parent has taken leave of it
HOSTS, AT_ONCE, ROUNDS = 32, 8, 3


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


def of_many(folder: Path, warm: AnsibleExecutor) -> None:
    """ms a host of a ping at HOSTS hosts."""
    names = [f"many-{number}" for number in range(HOSTS)]
    play = [{"hosts": ",".join(names), "gather_facts": False, "tasks": [{"ansible.builtin.ping": {}}]}]
    (folder / "many.json").write_text(json.dumps(play))
    words = ["ansible-playbook", "-i", str(folder / "hosts.json"), "-f", str(AT_ONCE), str(folder / "many.json")]
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    environ = {**os.environ, "PATH": path, "ANSIBLE_PIPELINING": "True"}
    wall: dict[str, list[float]] = {"osremed": [], "one play": []}
    cpu: dict[str, list[float]] = {"osremed": [], "one play": []}
    for _ in range(ROUNDS):
        before, begin_s = cpu_s(folder / "osremed"), time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = list(pool.map(lambda host: warm.run(Call("ansible.builtin.ping", {}, host, 60)), names))
        wall["osremed"].append(1e3 * (time.monotonic() - begin_s) / HOSTS)
        time.sleep(REAPED_S)
        cpu["osremed"].append(1e3 * (cpu_s(folder / "osremed") - before) / HOSTS)
        assert {each.status for each in outcomes} == {Status.OK}
        before, begin_s = children_s(), time.monotonic()
        subprocess.run(words, env=environ, check=True, stdout=subprocess.DEVNULL)
        wall["one play"].append(1e3 * (time.monotonic() - begin_s) / HOSTS)
        cpu["one play"].append(1e3 * (children_s() - before) / HOSTS)
    for kind, found in (("time", wall), ("CPU time", cpu)):
        tell(f"{kind} a host of a ping at {HOSTS} hosts", "ms", found, {"one play": 1.0})
        (ours, theirs) = (median(samples) for samples in found.values())
        print(
            f"a ping at {HOSTS} hosts, {kind} a host: {ours:.0f} ms, in one play {theirs:.0f} ms, {ours / theirs:.2f}"
        )


def children_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else CALLS
    with tempfile.TemporaryDirectory() as name:
        folder, executors = Path(name), {}
        facts = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "osremed_prefix": name,
                 "osremed_command": [sys.executable, "-m", "osremed"]}  # fmt: skip
        names = ["here", *(f"many-{number}" for number in range(HOSTS))]
        (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": dict.fromkeys(names, facts)}}))
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
                    time.sleep(REAPED_S)
                    cpu[player].append(1e3 * (cpu_s(work_dir) - before))
                    assert outcome.status is Status.OK, outcome.detail
            for kind, found in (("time", wall), ("CPU time", cpu)):
                tell(f"{kind} of {what} at a host", "ms", found, {"a new ansible-playbook": 0.7})
                (ours, theirs) = (median(samples) for samples in found.values())
                print(f"{what}: {kind} {ours:.0f} ms, new {theirs:.0f} ms, {ours / theirs:.2f}")
        of_many(folder, warm)
        for executor in executors.values():
            executor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
