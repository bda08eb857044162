"""Heaps of three CPython processes of 300 MB: time, CPU, memory of the reader, exactness, and stalls of the targets.

Each target runs a clock thread that logs the longest time it stood still. The peer is the usual way to look into a
process that did not ask for it: gdb attaches and runs gc.get_objects() inside (`--no-gdb` leaves it out). memray cannot
play: it knows what was allocated since it was attached, not what is held; py-spy knows stacks and no heap."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from figures import tell

from osremed.panorama.heaps.collect import Wish, collect_heaps
from osremed.panorama.heaps.model import HeapReport

TARGET = """
import sys, threading, time
class Session:
    def __init__(self, number):
        self.user, self.number, self.data = f"user-{number}", number, [number, number + 1]
held, gap = {}, [0.0]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def clock():
    last = time.monotonic()
    while True:
        time.sleep(0.0005)
        now = time.monotonic()
        gap[0] = max(gap[0], now - last)
        last = now
while resident() < int(sys.argv[1]) << 20:
    for _ in range(1000):
        held[len(held)] = Session(len(held))
threading.Thread(target=clock, daemon=True).start()
print(len(held), flush=True)
for _line in sys.stdin:
    print(gap[0] * 1000, flush=True)
    gap[0] = 0.0
"""
GDB_CODE = "import gc, collections; n = collections.Counter(type(o).__name__ for o in gc.get_objects())"


class Target:
    def __init__(self, python: str, mib: int) -> None:
        command = [python, "-c", TARGET, str(mib)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.sessions = 0

    def gap_ms(self) -> float:
        """Longest stall since the last call."""
        self.process.stdin.write("gap\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


class Memory(threading.Thread):
    """Peak of the memory of this process and its children that is not shared with anybody else, sampled."""

    def __init__(self, targets: list[Target]) -> None:
        super().__init__(daemon=True)
        self.targets = {str(one.process.pid) for one in targets}
        self.peak_bytes, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            with open(f"/proc/self/task/{os.getpid()}/children") as stream:
                children = stream.read().split()
            self.peak_bytes = max(self.peak_bytes, sum(pss_bytes(pid) for pid in {"self", *children} - self.targets))


def pss_bytes(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def read_all(targets: list[Target], limit_s: float) -> dict:
    memory = Memory(targets)
    memory.start()
    began_s, cpu_before_s = time.monotonic(), cpu_s()
    pids = [one.process.pid for one in targets if one.sessions]
    heaps = collect_heaps(pids, Wish(limit_s=limit_s, rows=50))
    wall_s, used_s = time.monotonic() - began_s, cpu_s() - cpu_before_s
    memory.over.set()
    rows = []
    for target, heap in zip([one for one in targets if one.sessions], heaps):
        assert isinstance(heap, HeapReport), heap
        counted = {row.name: row.count for row in heap.snapshot.types}.get("__main__.Session", 0)
        seen = heap.snapshot
        rows.append(
            {
                "runtime": seen.runtime,
                "resident_mib": seen.resident_bytes >> 20,
                "attributed": round(seen.attributed_bytes / seen.resident_bytes, 3),
                "coverage": round(seen.coverage, 3),
                "planted": target.sessions,
                "counted": counted,
            }
        )
    return {"wall_s": round(wall_s, 2), "cpu_s": round(used_s, 2), "reader_mib": memory.peak_bytes >> 20, "heaps": rows}


def gdb_stall_ms(target: Target) -> dict:
    target.gap_ms()
    began_s = time.monotonic()
    calls = [
        "call (int)PyGILState_Ensure()",
        f'call (int)PyRun_SimpleString("{GDB_CODE}")',
        "call (void)PyGILState_Release(1)",
    ]
    command = ["gdb", "-batch", "-nx", "-p", str(target.process.pid)]
    done = subprocess.run(
        [*command, *(part for call in calls for part in ("-ex", call))], check=False, capture_output=True
    )
    result = {"gdb_wall_s": round(time.monotonic() - began_s, 2), "gdb_exit_code": done.returncode}
    try:
        return {**result, "gdb_stall_ms": target.gap_ms()}
    except (BrokenPipeError, ValueError):  # its read was interrupted with an error no program expects
        return {**result, "gdb_stall_ms": "the target died of it"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python", action="append", help="interpreter of a target; three times for three (default: this one)"
    )
    parser.add_argument("--mib", type=int, default=300)
    parser.add_argument("--limit", type=float, default=6.0, help="seconds for each heap")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-gdb", action="store_true")
    options = parser.parse_args()
    pythons = (options.python or [sys.executable]) * 3
    targets = [Target(python, options.mib) for python in pythons[:3]]
    try:
        for target in targets:
            target.sessions = int(target.process.stdout.readline())
        results = []
        for number in range(options.rounds):
            for target in targets:
                target.gap_ms()
            result = read_all(targets, options.limit)
            result["stall_ms"] = [round(target.gap_ms(), 1) for target in targets]
            busy_for(result["wall_s"], result["cpu_s"])
            result["control_stall_ms"] = [round(target.gap_ms(), 1) for target in targets]
            print(json.dumps({"round": number, **result}), flush=True)
            results.append(result)
        tell_all(results, options.mib)
        if shutil.which("gdb") and not options.no_gdb:
            print(json.dumps(gdb_stall_ms(targets[0])))
    finally:
        for target in targets:
            target.process.kill()
            target.process.wait()


def tell_all(results: list[dict], mib: int) -> None:
    tell(f"three heaps of {mib} MiB", "s", {"osremed": [each["wall_s"] for each in results]}, {"": 15})
    tell("peak memory of the reader", "MiB", {"osremed": [each["reader_mib"] for each in results]}, {"": 150})
    counted = [100 * heap["counted"] / heap["planted"] for each in results for heap in each["heaps"]]
    tell("planted objects counted", "%", {"osremed": counted})
    kinds = {"osremed, while it read": "stall_ms", "nobody read, as much CPU used": "control_stall_ms"}
    stalls = {kind: [stall for each in results for stall in each[key]] for kind, key in kinds.items()}
    tell("longest stall of a target", "ms", stalls)


def busy_for(wall_s: float, used_s: float) -> None:
    """The control period: as much CPU as the reader used, in two processes, and nobody read."""
    code = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass"
    busy = [subprocess.Popen([sys.executable, "-c", code, str(used_s / 2)]) for _ in range(2)]
    time.sleep(wall_s)
    for one in busy:
        one.wait()


if __name__ == "__main__":
    main()
