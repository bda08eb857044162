"""Probes that were let go and come back: nothing that was missed meanwhile is told as known."""

from __future__ import annotations

import sys
import time

import pytest

from osremed.timeline import callwatch
from osremed.timeline.callprobes import FUNCTIONS, WAITS
from osremed.timeline.callwatch import Budget
from osremed.timeline.ledger import shares
from osremed.timeline.rankreports import Jobs
from tests.kernel.timeline.conftest import MIB, say

pytestmark = pytest.mark.kernel


def until(holds, what, deadline_s=30.0):
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def waiting(calls, pids):
    return [each for each in calls.flights() if FUNCTIONS[each.function] == WAITS and each.pid in pids]


def step_to(calls, pids, step):
    def stepped():
        calls.look(pids)
        return calls.step == step

    until(stepped, f"step {step}")


@pytest.fixture
def retry(monkeypatch):
    """The look at which the probes come back."""

    def look(calls, pids):
        monkeypatch.setattr(callwatch, "_RETRY_S", 0.0)
        calls._budget = Budget(1e9)
        calls.look(pids)
        assert calls.step == 0

    return look


def test_a_wait_that_nobody_follows_any_more_is_no_hang_and_all_files_are_probed_at_once(
    cuda, following, program, retry
):
    pids = [program(sys.executable, "rank", cuda, 1, 0, FAKE_SYNC_MS="300")[1] for _ in range(4)]
    calls, jobs = following(calls_per_s=1.0), Jobs()
    calls.look(pids)
    files = {file for pid in pids for file in calls.processes[pid].files}
    before = {file: set(calls.probes.value.attached[file]) for file in files}
    until(lambda: waiting(calls, pids), "a rank waits")
    step_to(calls, pids, 1)
    assert not waiting(calls, pids)
    assert jobs.look(calls, 0.0) == {"gpu.slow_rank": None, "gpu.hang": None}
    for _ in range(5):  # who is known is looked at less and less often
        calls.look(pids)
    retry(calls, pids)
    assert {file: set(calls.probes.value.attached.get(file, ())) for file in files} == before
    assert jobs.look(calls, 0.0) == {"gpu.slow_rank": None, "gpu.hang": None}, "nothing is known of the time between"
    assert jobs.look(calls, 60.0)["gpu.hang"] is False


def test_what_may_have_been_freed_meanwhile_is_not_told_as_held(cuda, following, program, retry):
    process, pid = program(sys.executable, "serve", cuda, 26)
    calls = following(calls_per_s=0.0)
    calls.look([pid])
    for step in range(1, len(callwatch._STEPS)):
        say(process, None)
        step_to(calls, [pid], step)
    assert shares(calls.processes[pid].ledger)
    retry(calls, [pid])
    (told,) = (each for each in calls.document()["processes"] if each["pid"] == pid)
    assert told["held_bytes"] == 0
    assert any("stepped down" in gap for gap in told["gaps"])
    say(process, None)
    until(lambda: calls.take() or calls.processes[pid].ledger.seen, "the next allocation is seen")
    assert [share.bytes for share in shares(calls.processes[pid].ledger)] == [26 * MIB]


@pytest.mark.parametrize("looked_at", [True, False])
def test_the_calls_of_a_process_that_has_ended_are_forgotten(cuda, following, program, looked_at):
    process, pid = program(sys.executable, "calls", cuda)
    calls = following()
    calls.look([pid])
    say(process)
    assert pid in {of for of, _ in calls.sums()}
    process.stdin.close()
    process.wait(20)
    if looked_at:
        calls.look([])
    else:
        assert pid not in {of for of, _ in calls.sums()}
    assert pid not in {of for of, _ in calls.probes.value.sums()}
