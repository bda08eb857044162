#!/usr/bin/env python3
"""Page cache by file: osremed's BPF walk (with and without the scan of pages) next to vmtouch over the same root.

In turn, ROUNDS times: wall time, CPU time, and how much of Cached + Buffers was found. vmtouch sees the files that have
a path below PATH; the walk sees all. Needs root. Reads nothing into the cache but directories (vmtouch's walk)."""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from figures import tell

ROOT = Path(__file__).resolve().parents[1]
_OURS = """
import json, sys, time
from osremed.panorama.cache import by_bpf
from osremed.panorama.layers import Progress
from osremed.sensors import procfs
found = by_bpf(procfs.pids().value, Progress("files", time.monotonic() + 600), pages=sys.argv[1] == "pages")
print(json.dumps([found.cached_bytes, found.files_found, found.longest_hold_s]))
"""


def timed(argv: list[str]) -> tuple[str, float, float]:
    """(output, wall seconds, CPU seconds of the child)."""
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    wall_s, after = time.monotonic() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{argv[0]} failed: {done.stderr}")
    return done.stdout, wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ours(mode: str) -> tuple[int, float, float]:
    output, wall_s, cpu_s = timed([sys.executable, "-c", _OURS, mode])
    cached, files, hold_s = json.loads(output)
    print(f"  osremed, {mode}: {files} files, longest slice {hold_s * 1000:.0f} ms")
    return cached, wall_s, cpu_s


def vmtouch(path: str) -> tuple[int, float, float]:
    output, wall_s, cpu_s = timed(["vmtouch", path])
    pages = re.search(r"Resident Pages: (\d+)/", output)
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0, wall_s, cpu_s


def expected_bytes() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("Cached", "Buffers")) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", default="/usr", help="what vmtouch walks")
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    players = {"osremed, files": lambda: ours("files"), "osremed, files and pages": lambda: ours("pages")}
    if shutil.which("vmtouch"):
        players[f"vmtouch {wanted.path}"] = lambda: vmtouch(wanted.path)
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in players}
    for number in range(wanted.rounds):
        print(f"round {number + 1}")
        for name, play in players.items():
            cached, wall_s, cpu_s = play()
            figures[name].append((cached / expected_bytes(), wall_s, cpu_s))
    print(f"{'':<28} {'of the cache':>12} {'wall':>9} {'CPU':>9}   medians of {wanted.rounds}")
    for name, rows in figures.items():
        share, wall_s, cpu_s = (statistics.median(column) for column in zip(*rows))
        print(f"{name:<28} {share * 100:>10.2f} % {wall_s:>7.2f} s {cpu_s:>7.2f} s")
    columns = ("page cache with a name", "%", 100), ("wall", "s", 1), ("CPU", "s", 1)
    for column, (what, unit, factor) in enumerate(columns):
        tell(what, unit, {name: [row[column] * factor for row in rows] for name, rows in figures.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
