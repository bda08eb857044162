from __future__ import annotations

import pytest

from osremed.core.action import Outcome, Status
from osremed.executor.outcome import Seen, outcome_of, render_diff, with_ending


def seen(*events, ended="successful", exit_code=0, text=""):
    return outcome_of(Seen(tuple(events), ended, exit_code, text), 1, 2)


START = ("runner_on_start", {})


def test_a_result_that_came_first_counts_even_if_the_run_was_cancelled_after_it():
    assert seen(START, ("runner_on_ok", {"changed": True}), ended="canceled").status is Status.OK


@pytest.mark.parametrize(
    ("ended", "events", "status"),
    [
        ("timeout", (START,), Status.TIMED_OUT),
        ("timeout", (), Status.TIMED_OUT),
        ("canceled", (START,), Status.CANCELLED),
        ("failed", (START,), Status.CANCELLED),
        ("failed", (), Status.REFUSED),
    ],
)
def test_without_a_result_only_a_task_that_never_began_is_certain(ended, events, status):
    outcome = seen(*events, ended=ended, exit_code=-9)
    assert outcome.status is status
    assert outcome.ambiguous is (status is not Status.REFUSED)
    assert outcome.detail


def test_a_result_that_was_lost_is_not_a_success():
    assert seen(START, ("runner_on_ok", {})).ambiguous


def test_a_task_that_check_mode_skipped_proves_nothing():
    outcome = seen(("runner_on_skipped", {"skipped": True, "msg": "remote module (x) does not support check mode"}))
    assert outcome.status is Status.REFUSED
    assert "check mode" in outcome.detail


def test_a_module_that_crashed_tells_its_traceback():
    failed = ("runner_on_failed", {"failed": True, "module_stderr": "Traceback ...", "msg": "", "changed": False})
    assert seen(failed).detail == "Traceback ..."


def test_a_task_timeout_is_not_a_failure_of_the_module():
    timed_out = ("runner_on_failed", {"failed": True, "msg": "Timed out after 1 second(s).", "timedout": {"period": 1}})
    assert seen(timed_out).status is Status.TIMED_OUT


def test_diffs_are_unified_text():
    one = {"before": "a\nb\n", "after": "a\nc\n", "before_header": "old", "after_header": "new"}
    assert render_diff(one) == "--- old\n+++ new\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"
    assert render_diff([one, {"prepared": "as is\n"}]).endswith("+c\nas is\n")
    assert render_diff(None) == render_diff({}) == render_diff({"before": "x", "after": "x"}) == ""


def test_a_missing_newline_at_the_end_is_shown():
    assert render_diff({"before": "", "after": "a"}).endswith("+a\n\\ No newline at end of file\n")


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (Outcome(Status.OK, result={"stdout": "2\n"}), "2 of its processes were ended on the host"),
        (Outcome(Status.UNREACHABLE, detail="refused"), "what it left running on the host could not be ended: refused"),
    ],
)
def test_what_became_of_a_call_on_its_host_is_told_and_its_outcome_stays(ending, told):
    ended = with_ending(Outcome(Status.TIMED_OUT, detail="late"), ending)
    assert (ended.status, ended.ambiguous, ended.detail) == (Status.TIMED_OUT, True, f"late; {told}")
