#!/usr/bin/env python3
"""What following calls of CUDA costs: CPU time of an allocation without probes, with them, and below many Python
frames, in turn; and of a look for processes. On libraries with CUDA's names that do nothing (built here).

    bench/timeline_calls.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from figures import tell

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, CALLS = 5, 3000

PROGRAM = """
import ctypes, sys, time
sys.setrecursionlimit(10000)
malloc = ctypes.CDLL(sys.argv[1] + "/libcudart.so.12").cudaMalloc
place = ctypes.byref(ctypes.c_uint64())
size = ctypes.c_size_t(2 << 20)
def below(depth, count):
    if depth:
        return below(depth - 1, count)
    began = time.process_time()
    for _ in range(count):
        malloc(place, size)
    return (time.process_time() - began) / count * 1e6
print("ready", flush=True)
for line in sys.stdin:
    depth, count = map(int, line.split())
    print(below(depth, count), flush=True)
"""


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from osremed.core.reading import Missing  # noqa: PLC0415
    from osremed.demo.fakecuda import build  # noqa: PLC0415
    from osremed.timeline.callwatch import Budget, Calls  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", PROGRAM, str(build(Path(folder)))]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdout.readline()
            cost: dict[str, list[float]] = {}
            looks: list[float] = []
            for _ in range(ROUNDS):
                cost.setdefault("no probe", []).append(ask(program, 0))
                calls = Calls(Budget(1e9))
                if isinstance(calls.probes, Missing):
                    print(calls.probes)
                    return 1
                calls.look([program.pid])
                cost.setdefault("probed, 2 frames", []).append(ask(program, 0))
                cost.setdefault("probed, 30 frames", []).append(ask(program, 28))
                calls.take()
                for _ in range(20):
                    began = time.process_time()
                    calls.look([program.pid])
                    looks.append(time.process_time() - began)
                calls.close()
            program.stdin.close()
    for name, found in cost.items():
        print(f"{name}: {median(found):.1f} us of CPU a call (cudaMalloc and the cuMemAlloc below it)")
    last = {"probed, 30 frames": cost.pop("probed, 30 frames")}
    tell(
        "CPU of a cudaMalloc and the cuMemAlloc below it",
        "us",
        {"probed, 2 frames": cost["probed, 2 frames"], "no probe": cost["no probe"]},
    )
    tell("the same below many frames of Python", "us", {**last, "no probe": cost["no probe"]})
    tell("a look for new processes", "ms", {"osremed": [1000 * each for each in looks]})
    processes = sum(each.name.isdigit() for each in Path("/proc").iterdir())
    print(f"a look for new processes: {1000 * median(looks):.1f} ms of CPU, {processes} processes")
    return 0


def ask(program: subprocess.Popen[str], depth: int) -> float:
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(f"{depth} {CALLS}\n")
    program.stdin.flush()
    return float(program.stdout.readline())


if __name__ == "__main__":
    sys.exit(main())
