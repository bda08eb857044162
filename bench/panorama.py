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
import tempfile
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


def measured(command: list[str]) -> tuple[float, float, int, int, str]:
    """Wall and CPU seconds, peak resident bytes of its largest process, bytes in use meanwhile, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = meminfo()
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, *map(peak_bytes, tree(process.pid)))
            time.sleep(0.02)
        wall = time.perf_counter() - began
        output.seek(0)
        said = output.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, peak, memory["MemTotal"] - memory["MemFree"], said


def tree(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            return [pid, *(each for child in children.read().split() for each in tree(int(child)))]
    except OSError:
        return [pid]


def peak_bytes(pid: int) -> int:
    """VmHWM, sampled: ru_maxrss remembers the parent from before exec."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


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
    seen: dict[str, list[tuple[float, float, float, float]]] = {}
    children = crowd(arguments.processes)
    try:
        for _ in range(arguments.rounds):
            for name, (command, named) in tools.items():
                if shutil.which(command[0]) is None:
                    print(f"{name}: not installed; make system-bench")
                    continue
                wall, cpu, peak, used, output = measured(command)
                seen.setdefault(name, []).append((wall, cpu, peak / 2**20, 100 * named(output) / used))
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    print(f"{arguments.processes} processes more, {arguments.rounds} rounds in turn, medians")
    print(f"{'tool':<18} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9} {'of memory in use':>17}")
    for name, rounds in seen.items():
        wall, cpu, peak, named = (statistics.median(column) for column in zip(*rounds))
        print(f"{name:<18} {wall:8.2f} {cpu:8.2f} {peak:9.1f} {named:15.1f} %")
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
    tell("peak memory", "MiB", {name: [row[2] for row in rounds] for name, rounds in seen.items()}, {"": 150})
    tell(
        "memory in use with a name",
        "%",
        {name: [row[3] for row in rounds] for name, rounds in seen.items()},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
