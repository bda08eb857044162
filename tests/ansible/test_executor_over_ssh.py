"""What only a host that is reached over ssh can show: what stays there, and what a login that fails is told as."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from osremed.core.action import Call, Status

pytestmark = pytest.mark.ansible
ACT = "example.lab.act"


def until(condition, within_s=30.0):
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.05)


def is_waiting(path):
    """The module has made this file and waits now."""
    return path.exists() and path.read_text() == "made\n"


@pytest.fixture
def began(tmp_path):
    return tmp_path / "began"


def test_a_call_that_ran_out_of_time_has_no_process_left_there(ssh_executor, sshd, began):
    outcome = ssh_executor.run(Call(ACT, {"create": str(began), "wait_s": 200}, "here", 8))
    assert is_waiting(began), outcome
    assert (outcome.status, outcome.ambiguous) == (Status.TIMED_OUT, True)
    assert sshd.logged_in() == ()
    assert "ended on the host" in outcome.detail


def test_a_cancelled_call_has_no_process_left_there_and_another_one_goes_on(ssh_executor, sshd, began):
    with ThreadPoolExecutor(2) as pool:
        here = pool.submit(ssh_executor.run, Call(ACT, {"create": str(began), "wait_s": 200}, "here", 100))
        until(lambda: is_waiting(began))
        there = pool.submit(ssh_executor.run, Call(ACT, {"create": f"{began}-too", "wait_s": 200}, "there", 100))
        until(lambda: is_waiting(began.with_name("began-too")))
        both = set(sshd.logged_in())
        assert ssh_executor.cancel("here") == 1
        assert here.result(timeout=60).status is Status.CANCELLED
        left = set(sshd.logged_in())
        assert left, "the other call goes on"
        assert left < both
        ssh_executor.cancel("there")
        assert there.result(timeout=60).status is Status.CANCELLED
    assert sshd.logged_in() == ()


def test_a_connection_that_is_cut_is_unreachable_and_ambiguous_never_done(ssh_executor, sshd, began):
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ssh_executor.run, Call(ACT, {"create": str(began), "wait_s": 200}, "here", 100))
        until(lambda: is_waiting(began))
        for pid in sshd.connections():
            os.kill(pid, signal.SIGKILL)
        outcome = running.result(timeout=60)
    assert (outcome.status, outcome.ambiguous, outcome.changed) == (Status.UNREACHABLE, True, False)
    assert outcome.detail
    for pid in sshd.logged_in():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("host", "why"),
    [("nowhere", "refused"), ("stranger", "verification failed"), ("closed", "Permission denied")],
)
def test_a_login_that_fails_says_why_and_reaches_nothing(ssh_executor, host, why, began):
    outcome = ssh_executor.run(Call(ACT, {"create": str(began)}, host, 60))
    assert (outcome.status, outcome.ambiguous) == (Status.UNREACHABLE, True)
    assert why in outcome.detail
    assert not began.exists()
