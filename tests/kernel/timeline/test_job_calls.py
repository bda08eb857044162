"""Ranks of a job on this host, told apart by their calls alone: the slow one, none, and the one that stopped."""

from __future__ import annotations

import sys
import time

import pytest

pytestmark = pytest.mark.kernel
RANKS = 4


@pytest.fixture
def job(cuda, following, program, tmp_path):
    """Starts ranks that work so many ms a step and stop after so many steps (0: never); their pids."""
    following().close()  # skips where there is no BPF

    def start(work_ms, stops):
        meeting = tmp_path / "meeting"
        meeting.write_bytes(bytes(4096))
        words = zip(work_ms, stops, strict=True)
        return [program(sys.executable, "rank", cuda, *each, FAKE_RANKS=f"{meeting}:{RANKS}")[1] for each in words]

    return start


def of(events, name):
    return [each["attributes"] for each in events if each["name"] == name]


def test_the_rank_that_the_others_wait_for_is_named(job, watch):
    pids = job((10, 10, 14, 10), (0,) * RANKS)
    running = watch(interval_s=0.5, stuck_s=60.0)
    (told, *_) = of(
        running.wait_for(lambda found: of(found, "gpu.slow_rank"), "the slow rank is told"), "gpu.slow_rank"
    )
    assert told["pid"] == pids[2]
    assert sorted(told["others"]) == sorted(set(pids) - {pids[2]})
    assert told["step_share"] > 0.1
    assert told["state"] == "raised"


def test_nobody_is_named_when_all_are_as_fast(job, watch):
    job((10,) * RANKS, (0,) * RANKS)
    running = watch(interval_s=0.5, stuck_s=60.0)
    running.wait_for_status(lambda found: len(found["calls"]["processes"]) == RANKS, "all ranks are followed")
    before = running.wait_for_status(lambda found: found["calls"]["calls"] > 500, "they are counted")["calls"]["calls"]
    end = time.monotonic() + 12  # twice as long as the slow one takes to be named
    running.wait_for_status(lambda found: found["calls"]["calls"] > before and time.monotonic() > end, "and go on", 60)
    assert of(running.events(), "gpu.slow_rank") == []


def test_the_rank_that_stopped_is_told_apart_from_those_that_wait_for_it(job, watch):
    pids = job((5,) * RANKS, (0, 800, 0, 0))
    running = watch(interval_s=0.2, stuck_s=2.0)
    (told,) = of(running.wait_for(lambda found: of(found, "gpu.hang"), "the hang is told"), "gpu.hang")
    assert sorted(told["waiting"]) == sorted(set(pids) - {pids[1]})
    assert told["behind"] == [pids[1]]
    assert told["function"] == "cudaStreamSynchronize"
    assert told["waited_s"] >= 2
