"""Panorama beside smem, vmtouch, fincore and psutil: the same machine state, in turn, several rounds.

Each tool answers its own question, so completeness is printed with time and CPU: how much of the memory in use it puts
a name to. vmtouch and fincore need to be told paths: they get every file below PATHS. A crowd of processes is forked
for the run, since a bare test machine has few."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

from figures import tell

PATHS = ["/usr", "/lib", "/etc", "/opt", "/home", "/root", "/srv", "/var", "/tmp"]
_PR_SET_PDEATHSIG = 1
PSUTIL = """
import psutil
print(sum(each.memory_full_info().pss for each in psutil.process_iter() if each.pid > 1))
"""
FINCORE = "find %s -xdev -type f -size +0 -print0 2>/dev/null | xargs -0 fincore -b -n -o RES 2>/dev/null"


def meminfo() -> dict[str, int]:
    with open("/proc/meminfo", encoding="ascii") as file:
        return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}


def measured(command: list[str]) -> tuple[float, float, int, str]:
    """Wall and CPU seconds, peak resident bytes, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, usage.ru_maxrss * 1024, output


def panorama_named(output: str) -> int:
    """All of MemTotal but free memory and the residual has an owner's name."""
    lines = json.loads(output)["balance"]["lines"]
    known = [line for line in lines if isinstance(line["bytes"], int)]
    return sum(line["bytes"] for line in known if line["kind"] not in ("free", "unaccounted"))


def smem_named(output: str) -> int:
    return column_sum(output) * 1024


def vmtouch_named(output: str) -> int:
    match = re.search(r"Resident Pages: (\d+)/", output)
    return int(match[1]) * resource.getpagesize() if match else 0


def column_sum(output: str) -> int:
    return sum(int(line) for line in output.split() if line.isdigit())


def crowd(count: int) -> list[int]:
    libc, children = ctypes.CDLL(None), []
    for _ in range(count):
        child = os.fork()
        if not child:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a killed bench leaves none behind
            signal.pause()
        children.append(child)
    return children


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=850)
    arguments = parser.parse_args()
    paths = [path for path in PATHS if os.path.isdir(path) and not os.path.islink(path)]
    tools = {
        "osremed panorama": ([sys.executable, "-m", "osremed", "panorama", "-o", "json"], panorama_named),
        "smem": (["smem", "-H", "-c", "pss"], smem_named),
        "psutil": ([sys.executable, "-c", PSUTIL], column_sum),
        "vmtouch": (["vmtouch", "-m", "64G", *paths], vmtouch_named),
        "fincore": (["sh", "-c", FINCORE % " ".join(paths)], column_sum),
    }
    seen: dict[str, list[tuple[float, float, int, int]]] = {}
    children = crowd(arguments.processes)
    try:
        for _ in range(arguments.rounds):
            for name, (command, named) in tools.items():
                if shutil.which(command[0]) is None:
                    print(f"{name}: not installed; make system-bench")
                    continue
                wall, cpu, peak, output = measured(command)
                seen.setdefault(name, []).append((wall, cpu, peak, named(output)))
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    now = meminfo()
    used = now["MemTotal"] - now["MemFree"]
    print(f"{arguments.processes} processes more, {arguments.rounds} rounds in turn, medians; {used >> 20} MiB in use")
    print(f"{'tool':<18} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9} {'named MiB':>10} {'of use':>7}")
    for name, rounds in seen.items():
        wall, cpu, peak, named = (statistics.median(column) for column in zip(*rounds))
        print(f"{name:<18} {wall:8.2f} {cpu:8.2f} {peak / 2**20:9.1f} {named / 2**20:10.0f} {named / used:7.1%}")
    walls = {name: [row[0] for row in rounds] for name, rounds in seen.items()}
    tell(f"whole report, {arguments.processes} processes more", "s", walls, {"": 3.0})
    if {"smem", "vmtouch"} <= set(walls):
        both = [sum(pair) for pair in zip(walls["smem"], walls["vmtouch"])]
        tell(
            "whole report",
            "s",
            {"osremed panorama": walls["osremed panorama"], "smem and vmtouch": both},
            {"smem and vmtouch": 0.5},
        )
    tell("peak memory", "MiB", {name: [row[2] / 2**20 for row in rounds] for name, rounds in seen.items()}, {"": 150})
    tell(
        "memory in use with a name",
        "%",
        {name: [100 * row[3] / used for row in rounds] for name, rounds in seen.items()},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
