"""vllm_server.py LIBRARIES PORT SERVED_MIB REQUEST_EVERY_S KEEP: an inference server on two GPUs, shaped like vLLM's.

An engine with a worker for each GPU. A worker takes SERVED_MIB at its start (weights and KV cache), and then 26 MiB
(GPU 0) or 14 MiB (GPU 1) of scratch for each request, on a stream of the request's own, under `decorate_context` as
torch.inference_mode has it. With KEEP 0 the scratch goes back to the caching allocator, which keeps it for a stream
that nobody uses again; with KEEP 1 the program itself holds on to it. The KV cache never fills.
GET /health answers 200 with the figures once all workers serve, 503 before.
"""

from __future__ import annotations

import ctypes
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable

MIB = 1 << 20
SCRATCH_MIB = (26, 14)
CACHE_BLOCKS, BLOCKS_OF_A_REQUEST, RUNNING = 1000, 40, 8
ALLOCATOR = "_ZN3c104cuda20CUDACachingAllocator6Native"


def name_process(name: str) -> None:
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)


def inference_mode(function: Callable[..., float]) -> Callable[..., float]:
    """As torch.utils._contextlib wraps what runs without gradients."""

    @functools.wraps(function)
    def decorate_context(*arguments: object) -> float:
        return function(*arguments)

    return decorate_context


class Allocator:
    """As torch.empty has no Python of its own, neither has this; 0 from it is a refusal."""

    def __init__(self, libraries: str) -> None:
        library = ctypes.CDLL(os.path.join(libraries, "libc10_cuda.so"))
        self.empty, self.give_back = library[ALLOCATOR + "6mallocEm"], library[ALLOCATOR + "4freeEm"]
        self.use_stream = library["_ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE"]
        for function in (self.empty, self.give_back, self.use_stream):
            function.argtypes, function.restype = (ctypes.c_uint64,), ctypes.c_uint64


class GPUModelRunner:
    def __init__(self, allocator: Allocator, scratch_mib: int, keep: bool) -> None:
        self.allocator, self.scratch_bytes = allocator, scratch_mib * MIB
        self.kept: list[int] | None = [] if keep else None
        self.running: list[int] = []
        self.weights: list[int] = []

    def load_model(self, served_mib: int) -> None:
        self.weights = [self.allocator.empty(512 * MIB) for _ in range(served_mib // 512)]

    def attention(self) -> int:
        place: int = self.allocator.empty(self.scratch_bytes)  # THE LINE
        return place

    @inference_mode
    def execute_model(self, request: int) -> float:
        self.allocator.use_stream(request)
        scratch = self.attention()
        if not scratch:
            raise MemoryError("CUDA out of memory")
        if self.kept is None:
            self.allocator.give_back(scratch)
        else:
            self.kept.append(scratch)
        self.running = [*self.running, request][-RUNNING:]
        return len(self.running) * BLOCKS_OF_A_REQUEST / CACHE_BLOCKS


def work(libraries: str, rank: int, served_mib: int, keep: bool) -> None:
    """Of one GPU: a request is a line on stdin, its answer a line on stdout."""
    name_process(f"vllm-worker-tp{rank}")
    runner = GPUModelRunner(Allocator(libraries), SCRATCH_MIB[rank], keep)
    runner.load_model(served_mib)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(f"{runner.execute_model(int(line))}\n")
        sys.stdout.flush()


class Engine:
    """Sends each request to all workers. `step` is False once a worker has ended."""

    def __init__(self, arguments: list[str]) -> None:
        self.workers: list[subprocess.Popen[str]] = []
        self.figures: dict[str, float] = {"requests": 0, "kv_cache_usage": 0.0, "ready": False}
        for rank in range(len(SCRATCH_MIB)):
            self.workers.append(
                subprocess.Popen(
                    [sys.executable, "-I", "-S", os.path.abspath(__file__), "worker", str(rank), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "CUDA_VISIBLE_DEVICES": str(rank)},
                )
            )

    def answers(self) -> list[str]:
        return [worker.stdout.readline().strip() for worker in self.workers if worker.stdout]

    def step(self) -> bool:
        request = int(self.figures["requests"]) + 1
        try:
            for worker in self.workers:
                assert worker.stdin
                worker.stdin.write(f"{request}\n")
                worker.stdin.flush()
        except BrokenPipeError:
            return False
        answers = self.answers()
        if not all(answers):
            return False
        self.figures = {"requests": request, "kv_cache_usage": max(map(float, answers)), "ready": True}
        return True


def handler_of(engine: Engine) -> type[http.server.BaseHTTPRequestHandler]:
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(engine.figures).encode()
            self.send_response(200 if engine.figures["ready"] else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            return

    return Health


def serve(libraries: str, port: int, served_mib: int, every_s: float, keep: int) -> None:
    name_process("vllm-engine")
    engine = Engine([libraries, str(served_mib), str(keep)])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler_of(engine))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if engine.answers() != ["ready"] * len(engine.workers):
        sys.exit("a worker did not start")
    pace = threading.Event()
    while engine.step():
        pace.wait(every_s)
    sys.exit("a worker ended")


if sys.argv[1] == "worker":
    work(sys.argv[3], int(sys.argv[2]), int(sys.argv[4]), sys.argv[5] == "1")
else:
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
