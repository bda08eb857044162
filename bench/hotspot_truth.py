"""How far from the truth a profile is: programs that know how their time was spent, watched by the recorder and
by a peer at the same time. Python beside py-spy (by hand, where it is installed), C without frame pointers beside
`perf record --call-graph dwarf`. The distance is half of the sum of all differences of the shares, in percent.

    sudo .venv/bin/python bench/hotspot_truth.py [--rounds 5] [--seconds 20]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from figures import tell
from hotspot import REPOSITORY

sys.path.insert(0, REPOSITORY)
from osremed.hotspot.verbs import read_profile
from tests.kernel.hotspot.conftest import TRUTH
from tests.kernel.hotspot.test_unwinding import NATIVE, compiled, make_tables

RATE = 99
Shares = dict[str, float]


def distance(found: Mapping[str, float], truth: Mapping[str, float]) -> float:
    return 50 * sum(abs(found.get(name, 0.0) - share) for name, share in truth.items())


def of_stacks(stacks: Iterable[tuple[Iterable[str], int]], names: Iterable[str]) -> Shares:
    """Of the weight of stacks that have one of these functions, the share of each."""
    found = dict.fromkeys(names, 0)
    for stack, weight in stacks:
        for name in found.keys() & set(stack):
            found[name] += weight
    return {name: weight / max(sum(found.values()), 1) for name, weight in found.items()}


def py_spy(pid: int, folder: Path, seconds: float) -> Callable[[Iterable[str]], Shares]:
    raw = folder / "pyspy.raw"
    words = ["py-spy", "record", "-r", str(RATE), "-d", str(int(seconds)), "-f", "raw", "-o", str(raw), "-p", str(pid)]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def read(names: Iterable[str]) -> Shares:
        child.wait(60)
        rows = (line.rpartition(" ") for line in raw.read_text(encoding="utf-8").splitlines())
        return of_stacks((([part.split(" ")[0] for part in row[0].split(";")], int(row[2])) for row in rows), names)

    return read


def perf(pid: int, folder: Path, _seconds: float) -> Callable[[Iterable[str]], Shares]:
    data = str(folder / "perf.data")
    words = ["perf", "record", "-q", "-F", str(RATE), "-e", "cpu-clock", "--call-graph", "dwarf", "-o", data]
    child = subprocess.Popen([*words, "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def read(names: Iterable[str]) -> Shares:
        child.wait(60)
        words = ["perf", "script", "-F", "comm,ip,sym", "-i", data]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return of_stacks(((stack.split(), 1) for stack in text.split("\n\n")), names)

    return read


def one(
    command: list[str], peer: Callable[[int, Path, float], Callable[[Iterable[str]], Shares]] | None, folder: Path,
    truth_of: Callable[[str], Shares],
) -> tuple[float, float | None, int]:  # fmt: skip
    """Distance of the recorder and of the peer, and how many samples the recorder had."""
    start_ns = time.time_ns()
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    read = peer(program.pid, folder, float(command[-1])) if peer else None
    printed = program.communicate()[0]
    time.sleep(3)  # a segment is two seconds
    truth = truth_of(printed)
    profile = read_profile(start_ns, time.time_ns())
    own = [[part.name for part in each.stack] for each in profile.samples
           if each.pid == program.pid and each.state == "cpu"]  # fmt: skip
    ours = distance(of_stacks(((stack, 1) for stack in own), truth), truth)
    return ours, distance(read(truth), truth) if read else None, len(own)


def python_truth(printed: str) -> Shares:
    told = json.loads(printed)
    both = told["alpha"] + told["beta"]
    return {name: told[name] / both for name in ("alpha", "beta")}


def native_truth(printed: str) -> Shares:
    heavy, light = map(float, printed.split())
    return {"heavy": heavy, "light": light}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["OSREMED_PREFIX"] = name
        native = compiled(folder, "native", NATIVE)
        make_tables(folder, native)
        words = [sys.executable, "-m", "osremed", "hotspot", "run", "--segment", "2s", "--ceiling", "90%"]
        recorder = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (folder / "run/osremed/hotspot.json").exists():
                time.sleep(0.2)
            seconds = str(options.seconds)
            for title, command, who, peer, truth_of in (
                ("Python", [sys.executable, str(TRUTH), "cpu", seconds], "py-spy", py_spy, python_truth),
                ("C without frame pointers", [str(native), seconds], "perf", perf, native_truth),
            ):
                there = peer if shutil.which(who) else None
                found = [one(command, there, folder, truth_of) for _ in range(options.rounds)]
                players = {"osremed": [ours for ours, _, _ in found]}
                if there:
                    players[who] = [theirs for _, theirs, _ in found if theirs is not None]
                print(f"{title}: {[samples for _, _, samples in found]} samples", flush=True)
                for player, each in players.items():
                    print(f"  {player:8} {' '.join(f'{value:.2f}' for value in sorted(each))} %", flush=True)
                tell(f"distance of a profile from the truth, {title}", "%", players)
        finally:
            recorder.terminate()
            recorder.wait(60)


if __name__ == "__main__":
    main()
