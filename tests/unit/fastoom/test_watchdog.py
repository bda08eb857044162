"""The watchdog acts only when the loop hangs, memory is gone, and it knows whom."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from osremed.fastoom.watchdog import Watchdog
from osremed.sensors import procfs


@pytest.fixture
def victim():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process, (process.pid, procfs.stat(process.pid).value.start_time_ticks)
    process.kill()
    process.wait()


def test_a_hanging_loop_costs_the_victim_it_named_last(victim) -> None:
    process, identity = victim
    dog = Watchdog(lambda: True, hung_s=0.0)
    dog.beat(identity, near=True)
    dog.look()
    assert process.wait(10) == -signal.SIGKILL
    assert dog.ended == [identity]
    dog.look()
    assert dog.ended == [identity], "once"


@pytest.mark.parametrize(
    ("short", "hung_s", "start"),
    [(False, 0.0, 0), (True, 60.0, 0), (True, 0.0, 1)],
    ids=["room", "alive", "reused pid"],
)
def test_it_ends_nobody_otherwise(victim, short, hung_s, start) -> None:
    process, (pid, ticks) = victim
    dog = Watchdog(lambda: short, hung_s=hung_s)
    dog.beat((pid, ticks + start), near=True)
    dog.look()
    assert process.poll() is None
    assert dog.ended == []


def test_its_thread_sees_a_loop_that_hangs(victim) -> None:
    process, identity = victim
    dog = Watchdog(lambda: True, hung_s=0.2)
    dog.start()
    dog.beat(identity, near=True)
    assert process.wait(30) == -signal.SIGKILL
    dog.beat(None, near=False)


def test_without_a_named_victim_it_ends_nobody() -> None:
    dog = Watchdog(lambda: True, hung_s=0.0)
    dog.beat(None, near=True)
    dog.look()
    assert dog.ended == []
