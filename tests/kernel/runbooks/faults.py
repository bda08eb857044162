"""Programs with a known fault, one a word: `faults.py FAULT SECONDS [DIRECTORY]`. Standard library alone; each stays
within a core, 300 MiB and one directory, and ends by itself."""

from __future__ import annotations

import os
import sys
import threading
import time


def procreads(end, _directory):
    """Reads what the kernel has to make up, three hundred times a second."""
    while time.monotonic() < end:
        for path in ("/proc/self/smaps", "/proc/stat", "/proc/interrupts"):
            with open(path, "rb") as stream:
                stream.read()
        time.sleep(0.01)


def locks(end, _directory):
    """Three threads of which one can work at a time, in the lock."""
    held = threading.Lock()

    def contend():
        while time.monotonic() < end:
            with held:
                time.sleep(0.008)
            time.sleep(0.002)

    threads = [threading.Thread(target=contend) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def blocking(end, directory):
    """Computes, and waits for the disk in between on the same thread."""
    path = os.path.join(directory, "blocking")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, os.urandom(1 << 20) * 64)
    os.fsync(fd)
    at = 0
    while time.monotonic() < end:
        sum(each * each for each in range(20000))
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for _ in range(4):
            at = (at + (7 << 20) + 4096) % (63 << 20)
            os.pread(fd, 1 << 20, at)
        os.pwrite(fd, os.urandom(1 << 16), at)
        os.fdatasync(fd)
    os.close(fd)


def fsyncs(end, directory):
    """Commits each line on its own."""
    fd = os.open(os.path.join(directory, "fsyncs"), os.O_WRONLY | os.O_CREAT, 0o600)
    while time.monotonic() < end:
        os.write(fd, b"one line\n")
        os.fsync(fd)
        time.sleep(0.003)
    os.close(fd)


def burn(end, _directory):
    """One busy thread: what a CPU limit stops."""
    while time.monotonic() < end:
        sum(each * each for each in range(20000))


def paced(end, _directory):
    """Works for 22 ms of CPU time in each tenth of a second."""
    while time.monotonic() < end:
        began, done = time.monotonic(), time.thread_time() + 0.022
        while time.thread_time() < done:
            sum(each * each for each in range(2000))
        time.sleep(max(0.0, began + 0.1 - time.monotonic()))


def procstorm(end, _directory):
    """Reads its own memory map without a pause: kernel time alone."""
    while time.monotonic() < end:
        with open("/proc/self/smaps", "rb") as stream:
            stream.read()


def backlog(end, directory):
    """Leaves 700 MiB that are not on disk yet, and writes them anew when they are."""
    path = os.path.join(directory, "backlog")
    while time.monotonic() < end:
        with open(path, "wb") as stream:
            stream.writelines(b"x" * (1 << 20) for _ in range(700))
        time.sleep(20)


def leak(end, _directory):
    """Keeps 256 KiB more each half second, up to 400 MiB."""
    kept = []
    while time.monotonic() < end:
        if len(kept) < 1600:
            kept.append(b"x" * (256 << 10))
        time.sleep(0.5)


def cache(end, directory):
    """Reads a file over and over: page cache up to the limit of its group."""
    path = os.path.join(directory, "cached")
    with open(path, "rb", buffering=0) as stream:
        while time.monotonic() < end:
            stream.seek(0)
            while stream.read(1 << 20):
                continue
            time.sleep(0.05)


if __name__ == "__main__":
    fault, seconds = sys.argv[1], float(sys.argv[2])
    every = (procreads, locks, blocking, fsyncs, burn, paced, procstorm, backlog, leak, cache)
    {each.__name__: each for each in every}[fault](time.monotonic() + seconds, sys.argv[3] if len(sys.argv) > 3 else "")
