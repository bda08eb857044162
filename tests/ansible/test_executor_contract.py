"""What every Executor promises, asked of the fake one and of the real one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from osremed.core.action import Call, Status

ACT = "example.lab.act"


def call(args, *, host="here", module=ACT, timeout_s=60.0, check=False):
    return Call(module, args, host, timeout_s, check)


def test_a_result_comes_back_without_what_ansible_adds(executor):
    outcome = executor.run(call({"echo": "hello"}))
    assert outcome.status is Status.OK
    assert not outcome.changed
    assert outcome.result["echo"] == "hello"
    assert {"invocation", "diff", "failed", "exception"}.isdisjoint(outcome.result)
    assert not [key for key in outcome.result if key.startswith("_ansible")]
    assert 0 < outcome.started_ns <= outcome.ended_ns


@pytest.mark.parametrize(
    "value",
    [
        {
            "whole": 7,
            "part": 0.25,
            "yes": True,
            "none": None,
            "words": ["on", "1", "null", ""],
            "deep": [{"a": {"b": [1]}}],
        },
        "{{ 6 * 7 }}",
        "{% raw %} {{ lookup('pipe', 'id') }}",
        "a=b 'c' \"d\" \\e\nsecond line\ttab é 漢 \U0001f600 \x7f",
    ],
)
def test_arguments_arrive_as_they_are(executor, value):
    assert executor.run(call({"echo": value})).result["echo"] == value


def test_a_change_is_told_with_its_diff_and_done(executor, tmp_path):
    path = tmp_path / "made"
    outcome = executor.run(call({"create": str(path)}))
    assert (outcome.status, outcome.changed, path.exists()) == (Status.OK, True, True)
    assert outcome.diff == f"--- before\n+++ {path}\n@@ -0,0 +1 @@\n+made\n"
    assert not executor.run(call({"create": str(path)})).changed


def test_check_tells_the_change_and_makes_none(executor, tmp_path):
    path = tmp_path / "made"
    outcome = executor.run(call({"create": str(path)}, check=True))
    assert (outcome.status, outcome.changed, path.exists()) == (Status.OK, True, False)
    assert "+made" in outcome.diff


def test_a_module_that_says_no_has_failed_and_says_why(executor):
    outcome = executor.run(call({"fail": "the disk is full"}))
    assert (outcome.status, outcome.detail) == (Status.FAILED, "the disk is full")
    assert outcome.result["hint"] == "as asked"
    assert not outcome.ambiguous


@pytest.mark.parametrize("host", ["elsewhere", "all", "some", "her*", "here:there", "localhost", "", "here,", "!there"])
def test_only_a_host_of_the_inventory_is_reached(executor, host, tmp_path):
    outcome = executor.run(call({"create": str(tmp_path / "made")}, host=host))
    assert outcome.status is Status.REFUSED
    assert outcome.detail
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("module", ["example.lab.nothing", "no.such.module"])
def test_a_module_that_does_not_exist_is_refused(executor, module):
    outcome = executor.run(call({}, module=module))
    assert outcome.status is Status.REFUSED
    assert outcome.detail


def test_arguments_that_json_cannot_say_are_refused(executor):
    assert executor.run(call({"echo": {1, 2}})).status is Status.REFUSED
    assert executor.run(call({"echo": float("nan")})).status is Status.REFUSED


def test_a_host_that_cannot_be_reached_is_ambiguous(executor):
    outcome = executor.run(call({}, host="nowhere"))
    assert outcome.status is Status.UNREACHABLE
    assert outcome.detail
    assert outcome.ambiguous


def test_a_call_that_takes_too_long_is_ended_and_ambiguous(executor):
    outcome = executor.run(call({"wait_s": 60.0}, timeout_s=1.0))
    assert outcome.status is Status.TIMED_OUT
    assert outcome.ambiguous
    assert outcome.ended_ns - outcome.started_ns < 30e9


def test_cancel_ends_the_call_on_that_host_only(executor):
    with ThreadPoolExecutor(2) as pool:
        here = pool.submit(executor.run, call({"wait_s": 60.0}, timeout_s=100))
        there = pool.submit(executor.run, call({"echo": "stays", "wait_s": 4.0}, host="there", timeout_s=100))
        give_up = time.monotonic() + 30
        while not executor.cancel("here") and time.monotonic() < give_up:
            time.sleep(0.05)
        outcome = here.result(timeout=30)
        assert (outcome.status, outcome.ambiguous) == (Status.CANCELLED, True)
        assert there.result(timeout=60).result["echo"] == "stays"


def test_four_at_once_do_not_mix(executor):
    start = threading.Barrier(4)

    def one(number):
        start.wait(10)
        return executor.run(call({"echo": number, "wait_s": 0.2}, host="here" if number % 2 else "there"))

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(one, range(4)))
    assert [outcome.result["echo"] for outcome in outcomes] == [0, 1, 2, 3]


def test_a_large_result_comes_back_whole(executor):
    assert len(executor.run(call({"large": 3_000_000})).result["large"]) == 3_000_000
