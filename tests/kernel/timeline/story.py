"""Programs that ask for device memory, each on lines that the test knows. Runs on any CPython.

story.py serve DIRECTORY MIB      an inference server: each line on stdin is a request that takes MIB more, for good
story.py threads DIRECTORY N M    N threads, each M times, each from a line of its own; waits for a line on stdin first
story.py rank DIRECTORY WORK_MS STOP   works, reduces and waits for the others, over and over; stops after STOP steps
story.py devices DIRECTORY MIB DEVICE HELD    two threads: each line on stdin takes MIB more on DEVICE, for good; HELD
                                  MIB are taken once on another, the default where it is, and as much is freed again
story.py choices DIRECTORY        one allocation for each way in which a thread comes to its device, in a new thread
story.py cells DIRECTORY          a notebook: each line on stdin is compiled and run, allocates, and is gone at the next
story.py calls DIRECTORY          one call of each kind; waits for a line on stdin first
"""

import ctypes
import os
import sys
import threading
import time

MIB = 1 << 20
MALLOC = "_ZN3c104cuda20CUDACachingAllocator6Native6mallocEm"
FREE = "_ZN3c104cuda20CUDACachingAllocator6Native4freeEm"


def open_library(name):
    return ctypes.CDLL(os.path.join(sys.argv[2], name))


def function_of(library, name):
    found = getattr(library, name)
    found.restype, found.argtypes = ctypes.c_uint64, (ctypes.c_uint64,)
    return found


def context_decorator(function):
    def decorate_context(*words):
        return function(*words)

    return decorate_context


class ModelRunner:
    def __init__(self, malloc):
        self.malloc, self.kept = malloc, []

    def attention(self, size):
        return self.malloc(size)  # THE LINE

    @context_decorator
    def execute_model(self, size):
        self.kept.append(self.attention(size))


def serve(size):
    runner = ModelRunner(function_of(open_library("libc10_cuda.so"), MALLOC))
    print("ready", os.getpid(), flush=True)
    for _ in sys.stdin:
        runner.execute_model(size)
        print(len(runner.kept) * size, flush=True)


def threads(count, times):
    malloc = function_of(open_library("libc10_cuda.so"), MALLOC)
    barrier = threading.Barrier(count + 1)
    source = "def ask_{0}(malloc, times):\n" + "\n" * 7 + "{1}    for _ in range(times):\n        malloc({2})\n"
    workers = []
    for number in range(count):
        space = {}
        text = source.format(number, "\n" * number, 2 * MIB * (number + 10))
        exec(compile(text, f"/made/worker_{number}.py", "exec"), space)

        def work(ask=space[f"ask_{number}"]):
            barrier.wait()
            ask(malloc, times)

        workers.append(threading.Thread(target=work))
    print("ready", os.getpid(), flush=True)
    sys.stdin.readline()
    for worker in workers:
        worker.start()
    barrier.wait()
    for worker in workers:
        worker.join()
    print("done", flush=True)
    sys.stdin.readline()


def devices(size, device, held):
    runner = ModelRunner(function_of(open_library("libc10_cuda.so"), MALLOC))
    free, choose = function_of(open_library("libc10_cuda.so"), FREE), open_library("libcudart.so.12").cudaSetDevice
    asked, said = threading.Semaphore(0), threading.Semaphore(0)

    def leak():
        choose(device)
        while True:
            asked.acquire()
            runner.execute_model(size * MIB)
            said.release()

    def keep():
        if device == 0:
            choose(1)
        runner.malloc(held * MIB)  # THE OTHER LINE
        free(runner.malloc(held * MIB))

    print("ready", os.getpid(), flush=True)
    for number, _ in enumerate(sys.stdin):
        if number == 0:
            threading.Thread(target=leak, daemon=True).start()
            other = threading.Thread(target=keep)
            other.start()
            other.join()
        asked.release()
        said.acquire()
        print(len(runner.kept) * size * MIB, flush=True)


def choices():
    runtime, driver = open_library("libcudart.so.12"), open_library("libcuda.so.1")
    place = ctypes.c_uint64()

    def take(mib):
        runtime.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(mib * MIB))

    def create(mib, where, device):
        asked = (ctypes.c_int * 8)(1, 1, where, device)
        driver.cuMemCreate(ctypes.byref(place), ctypes.c_size_t(mib * MIB), asked, 0)

    stories = (
        lambda: take(1),
        lambda: (runtime.cudaSetDevice(3), take(2)),
        lambda: (runtime.cudaSetDevice(3), runtime.cudaSetDevice(99), take(3)),
        lambda: (runtime.cudaSetDevice(3), driver.cuCtxSetCurrent(None), take(4)),
        lambda: (driver.cuCtxSetCurrent(None), runtime.cudaSetDevice(3), take(5)),
        lambda: (runtime.cudaSetDevice(3), driver.cuCtxPushCurrent_v2(None), take(6)),
        lambda: (driver.cuCtxPushCurrent_v2(None), driver.cuCtxPopCurrent_v2(None), take(7)),
        lambda: (runtime.cudaSetDevice(3), driver.cuCtxPopCurrent_v2(None), take(8)),
        lambda: (runtime.cudaSetDevice(3), create(9, 1, 2)),
        lambda: create(10, 3, 0),
    )
    print("ready", os.getpid(), flush=True)
    sys.stdin.readline()
    runtime.cudaSetDevice(5)
    for story in stories:
        worker = threading.Thread(target=story)
        worker.start()
        worker.join()
    print("done", flush=True)
    sys.stdin.readline()


def rank(work_ms, stop):
    runtime, nccl = open_library("libcudart.so.12"), open_library("libnccl.so.2")
    print("ready", os.getpid(), flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    step = 0
    while not stop or step < stop:
        step += 1
        time.sleep(work_ms / 1000)
        nccl.ncclAllReduce(None, None, ctypes.c_size_t(1000), 7, 0, None, None)
        runtime.cudaStreamSynchronize(None)
    time.sleep(1000)


def cells():
    malloc = function_of(open_library("libc10_cuda.so"), MALLOC)
    print("ready", os.getpid(), flush=True)
    for number, _ in enumerate(sys.stdin):
        cell = compile(f"malloc({(10 + number) * 2 * MIB})", f"cell-{number:02d}", "exec")
        exec(cell, {"malloc": malloc})
        print("done", flush=True)
        sys.stdin.readline()
        del cell
        print("gone", flush=True)


def calls():
    runtime, nccl = open_library("libcudart.so.12"), open_library("libnccl.so.2")
    driver, allocator = open_library("libcuda.so.1"), open_library("libc10_cuda.so")
    place = ctypes.c_uint64()
    print("ready", os.getpid(), flush=True)
    sys.stdin.readline()
    function_of(allocator, FREE)(function_of(allocator, MALLOC)(30 * MIB))
    runtime.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(7 * MIB))
    runtime.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(2000 * MIB))
    driver.cuMemCreate(ctypes.byref(place), ctypes.c_size_t(2 * MIB), None, 0)
    nccl.ncclCommInitRank(ctypes.byref(place))
    for _ in range(3):
        nccl.ncclAllReduce(None, None, ctypes.c_size_t(1000), 7, 0, None, None)
    nccl.ncclSend(None, ctypes.c_size_t(500), 8, 1, None, None)
    for _ in range(2):
        runtime.cudaStreamSynchronize(None)
    print("done", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    what, rest = sys.argv[1], [int(word) for word in sys.argv[3:]]
    rest = [word * MIB for word in rest] if what == "serve" else rest
    stories = (serve, threads, devices, choices, rank, cells, calls)
    {each.__name__: each for each in stories}[what](*rest)
