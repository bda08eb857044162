"""One leads, whoever else waits; who is killed leads no more; who waits for a file that is gone does not lead by it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from osremed.core.errors import BadInput, Unavailable
from osremed.flows.leading import leading

WAITS = """
import sys
from osremed.flows.leading import leading
print("waits", flush=True)
with leading(sys.argv[1], standby=True):
    print("leads", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def waiting(tmp_path):
    started = []

    def start(path):
        argv = [sys.executable, "-c", WAITS, path]
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "waits\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def blocked(process, path):
    """True once it waits for the lock of this file, as the kernel has it."""
    inode = os.stat(path).st_ino
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with open("/proc/locks") as locks:
            if any("->" in line and f" {process.pid} " in line and f":{inode} " in line for line in locks):
                return True
        time.sleep(0.02)
    return False


def test_a_second_is_told_who_leads(tmp_path):
    path = str(tmp_path / "lock")
    with leading(path, standby=False), pytest.raises(BadInput) as told, leading(path, standby=False):
        pass
    assert f"pid {os.getpid()} on {socket.gethostname()} since " in told.value.what


def test_who_stands_by_leads_once_the_other_is_killed_and_not_before(tmp_path, waiting):
    path = str(tmp_path / "lock")
    first, second = waiting(path), None
    assert first.stdout.readline() == "leads\n"
    second = waiting(path)
    assert blocked(second, path)
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline() == "leads\n"
    with pytest.raises(BadInput, match=f"pid {second.pid} "), leading(path, standby=False):
        pass


def test_a_lock_whose_file_was_exchanged_leads_no_more(tmp_path):
    path = str(tmp_path / "lock")
    with leading(path, standby=False) as lead:
        lead.check()
        os.rename(path, f"{path}.old")
        with pytest.raises(Unavailable, match="exchanged"):
            lead.check()
        with leading(path, standby=False) as other:
            other.check()


def test_who_waited_for_a_file_that_was_exchanged_waits_for_the_one_that_is_there(tmp_path, waiting):
    path = str(tmp_path / "lock")
    with leading(path, standby=False):
        process = waiting(path)
        assert blocked(process, path)
        os.rename(path, f"{path}.old")
        second = ExitStack()
        second.enter_context(leading(path, standby=False))
    with second:
        assert blocked(process, path)
    assert process.stdout.readline() == "leads\n"
