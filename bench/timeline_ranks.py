#!/usr/bin/env python3
"""How often the slow rank is named, and no rank when none is slow: real PyTorch (CPU) and gloo, real flight-recorder
dumps. Needs an interpreter with torch, given as the argument; not part of the tests.

    bench/timeline_ranks.py /path/to/python-with-torch [repetitions]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from figures import tell

ROOT = Path(__file__).resolve().parents[1]
FACTORS = (1.0, 1.05, 1.1, 1.3)
RANKS, STEPS, STEP_S = 4, 30, 0.02

WORKER = """
import os, sys, time
rank, ranks, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
repetitions, steps, step_s = map(float, sys.argv[4:7])
factors = [float(each) for each in sys.argv[7].split(",")]
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=ranks, init_method=f"file://{out}/store")
ones = torch.ones(1000)
for factor in factors:
    for repetition in range(int(repetitions)):
        slow = repetition % ranks
        group = dist.new_group(group_desc=f"x{factor} slow{slow} n{repetition}")
        dist.barrier(group)
        for _ in range(int(steps)):
            until = time.monotonic() + step_s * (factor if rank == slow else 1.0)
            while time.monotonic() < until:
                time.sleep(max(0.0, until - time.monotonic()))
            dist.all_reduce(ones, group=group)
from torch._C._distributed_c10d import _dump_fr_trace
with open(f"{out}/fr_{rank}", "wb") as file:
    file.write(_dump_fr_trace())
dist.barrier()
dist.destroy_process_group()
"""


def main() -> int:
    python, repetitions = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
    sys.path.insert(0, str(ROOT))
    from osremed.timeline.flightrecorder import as_one_job, load_dump  # noqa: PLC0415
    from osremed.timeline.slowrank import slow_ranks  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as out:
        environment = {**os.environ, "TORCH_FR_BUFFER_SIZE": "100000"}
        words = [str(each) for each in (RANKS, out, repetitions, STEPS, STEP_S)]
        factors = ",".join(str(each) for each in FACTORS)
        workers = [
            subprocess.Popen([python, "-c", WORKER, str(rank), *words, factors], env=environment)
            for rank in range(RANKS)
        ]
        codes = [worker.wait(600) for worker in workers]
        if any(codes):
            return 1
        right: Counter[float] = Counter()
        for verdict in slow_ranks(as_one_job(load_dump(f"{out}/fr_{rank}") for rank in range(RANKS))):
            found = re.fullmatch(r"x([0-9.]+) slow([0-9]+) n[0-9]+", verdict.group.name)
            if found:
                factor = float(found.group(1))
                right[factor] += verdict.rank == (int(found.group(2)) if factor > 1 else -1)
                if verdict.rank != (int(found.group(2)) if factor > 1 else -1):
                    print(f"  {verdict.group.name}: {verdict.why}")
    for factor in FACTORS:
        print(f"x{factor}: {right[factor]} of {repetitions} right")
        rank = f"a rank {factor:g} times as slow" if factor > 1 else "no slow rank"
        wrong = 100 * (repetitions - right[factor]) / repetitions
        tell(f"wrong verdicts of {repetitions}, {rank}", "%", {"osremed": [wrong]}, {"": 5})
    return 0


if __name__ == "__main__":
    sys.exit(main())
