"""pidfds: what is signalled is what was looked at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import process, procfs


@pytest.fixture
def child():
    running = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    yield running
    running.kill()
    running.wait()


def start_time(pid: int) -> int:
    reading = procfs.stat(pid)
    assert isinstance(reading, Value)
    return reading.value.start_time_ticks


def test_a_verified_process_gets_the_signal_and_its_end_is_seen(child) -> None:
    pidfd = process.open_verified(child.pid, start_time(child.pid))
    assert isinstance(pidfd, Value)
    assert process.wait_exited([pidfd.value], 0) == set()
    assert process.send(pidfd.value, signal.SIGKILL) is None
    assert process.wait_exited([pidfd.value], 30) == {pidfd.value}
    assert process.release_memory(pidfd.value) is None
    child.wait()
    assert process.send(pidfd.value, signal.SIGKILL).reason is Reason.GONE
    os.close(pidfd.value)


def test_a_pid_that_now_belongs_to_another_is_gone_and_leaves_no_descriptor(child) -> None:
    before = os.listdir("/proc/self/fd")
    reading = process.open_verified(child.pid, start_time(child.pid) + 1)
    assert isinstance(reading, Missing)
    assert reading.reason is Reason.GONE
    assert os.listdir("/proc/self/fd") == before
    assert child.poll() is None


def test_a_process_that_ended_is_gone(child) -> None:
    started = start_time(child.pid)
    child.kill()
    child.wait()
    assert process.open_verified(child.pid, started).reason is Reason.GONE


def test_memory_of_a_process_that_is_not_dying_is_not_released(child) -> None:
    if not process.can_release_memory():
        pytest.skip("this kernel has no process_mrelease (Linux 5.15)")
    pidfd = process.open_verified(child.pid, start_time(child.pid))
    assert process.release_memory(pidfd.value).reason is Reason.UNSUPPORTED
    assert child.poll() is None
    os.close(pidfd.value)


def test_waiting_ends_at_its_deadline(child) -> None:
    pidfd = process.open_verified(child.pid, start_time(child.pid))
    assert process.wait_exited([pidfd.value], 0.05) == set()
    os.close(pidfd.value)


_FORGETS = """
import sys; sys.path.insert(0, sys.argv[1])
import argparse, decimal, json, unittest  # a start that needs much
from osremed.sensors import process

def code_kib():
    inside, size = False, 0
    for line in open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape"):
        words = line.split()
        if "-" in words[0]:
            inside = words[1] == "r-xp"
        elif inside and words[0] == "Rss:":
            size += int(words[1])
    return size

code_kib()
before = code_kib()
process.forget_code()
print(before, code_kib())
decimal.Decimal(1) / 3, json.dumps([1])  # what is needed again is there again
"""


def test_code_that_is_forgotten_leaves_memory_and_runs_again_when_it_is_needed():
    argv = [sys.executable, "-c", _FORGETS, str(Path(__file__).resolve().parents[3])]
    ended = subprocess.run(argv, capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    assert after < 0.8 * before
