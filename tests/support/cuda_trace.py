"""Traces as Kineto writes them for a CUDA job, with a known answer: each step waits for data, launches, computes on
one stream and communicates on another."""

from __future__ import annotations

import random
from typing import Any

WAIT_US, HOST_US, KERNEL_US, COMMUNICATE_US = 2000, 300, 900, 500


def event(name: str, category: str, start_us: float, duration_us: float, pid: Any, tid: Any, **args: Any) -> dict:
    if category == "kernel":
        args = {"device": pid, "stream": tid, **args}
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": start_us,
        "dur": duration_us,
        "args": args,
    }


def job(
    ranks: int = 1, steps: int = 10, kernels: int = 4, *, slow: int = -1, factor: float = 1.0, seed: int = 0
) -> list[dict]:
    """A document for each rank. The slow rank's kernels take `factor` times as long; all leave a collective
    together."""
    rng = random.Random(seed)
    documents = [_head(rank, ranks) for rank in range(ranks)]
    begin = [1_000_000.0] * ranks
    correlation = 1
    for step in range(steps):
        ready = []
        for rank in range(ranks):
            stretch = factor if rank == slow else 1.0
            noise = [rng.gauss(1.0, 0.005) for _ in range(kernels)]
            durations = [KERNEL_US * stretch * each for each in noise]
            ready.append(_step(documents[rank]["traceEvents"], rank, step, begin[rank], durations, correlation))
            correlation += kernels + 1
        done = max(end for end, _ in ready) + COMMUNICATE_US
        for rank in range(ranks):
            group = {"Process Group Name": "0", "Process Group Ranks": str(list(range(ranks)))}
            kernel = event(
                "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
                "kernel",
                ready[rank][0],
                done - ready[rank][0],
                0,
                13,
                correlation=ready[rank][1],
                **group,
            )
            documents[rank]["traceEvents"].append(kernel)
            begin[rank] = done
    return documents


def _head(rank: int, ranks: int) -> dict:
    names = [
        {"ph": "M", "name": "process_name", "pid": 0, "tid": 0, "ts": 0, "args": {"name": "python"}},
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": 7, "ts": 0, "args": {"name": "stream 7 "}},
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": 13, "ts": 0, "args": {"name": "stream 13 "}},
    ]
    info = {"backend": "nccl", "rank": rank, "world_size": ranks}
    return {
        "schemaVersion": 1,
        "distributedInfo": info,
        "baseTimeNanoseconds": 1790857026000000000,
        "traceEvents": names,
    }


def _step(
    events: list[dict], rank: int, step: int, at: float, durations: list[float], correlation: int
) -> tuple[float, int]:
    """Host side, then the kernels; when the last kernel ends, and the correlation of the collective."""
    pid, tid = 1000 + rank, 1000 + rank
    host_end = at + WAIT_US + HOST_US * len(durations) + 100
    events.append(event(f"ProfilerStep#{step}", "user_annotation", at, host_end - at, pid, tid))
    events.append(event("train.py(20): train_step", "python_function", at, host_end - at, pid, tid))
    events.append(event("torch/utils/data/dataloader.py(700): __next__", "python_function", at, WAIT_US, pid, tid))
    ready = at + WAIT_US
    for number, duration in enumerate(durations):
        launch = at + WAIT_US + number * HOST_US
        events.append(event("model.py(33): forward", "python_function", launch, HOST_US - 1, pid, tid))
        events.append(event("aten::mm", "cpu_op", launch + 1, HOST_US - 10, pid, tid))
        events.append(event("cudaLaunchKernel", "cuda_runtime", launch + 50, 10, pid, tid, correlation=correlation))
        start = max(ready, launch + 65)
        events.append(event(f"sm90_gemm_{number % 3}", "kernel", start, duration, 0, 7, correlation=correlation))
        ready = start + duration
        correlation += 1
    launch = at + WAIT_US + len(durations) * HOST_US
    events.append(event("nccl:all_reduce", "cpu_op", launch, 60, pid, tid))
    events.append(event("cudaLaunchKernelExC", "cuda_runtime", launch + 5, 10, pid, tid, correlation=correlation))
    return ready, correlation
