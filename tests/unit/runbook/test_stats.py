"""The automation is graded by what its runs came to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from osremed.core.finding import Finding
from osremed.runbook.model import RunState
from osremed.runbook.stats import as_prometheus, grades
from tests.unit.runbook.conftest import make_run

H = 3600 * 10**9
NOW = make_run().raised_ns
FOUND = (Finding("x", "x", 1.0, ("event",), ""),)


def run(number, state, *, host="node-1", hours_ago=0.0, took_s=60, found=True):
    made = make_run(number, host, now_ns=NOW - round(hours_ago * H))
    acted = state is not RunState.REFUSED
    return replace(
        made,
        state=state,
        updated_ns=made.raised_ns + took_s * 10**9,
        bundle="b",
        findings=FOUND if found else (),
        applied=("x",) if acted else (),
    )


def test_a_runbook_is_graded_by_its_ended_runs():
    runs = [
        run(1, RunState.SUCCEEDED, hours_ago=50, took_s=30),
        run(2, RunState.SUCCEEDED, hours_ago=40, took_s=90),  # comes 10 h after the first: that one did not last
        run(3, RunState.UNDONE, hours_ago=10),  # 30 h after: the second lasted a day
        run(4, RunState.UNDO_INCOMPLETE, host="node-2"),
        run(5, RunState.REFUSED, host="node-3", found=False),
        replace(run(6, RunState.VERIFYING), state=RunState.VERIFYING),
    ]
    (grade,) = grades(runs)
    assert (grade.runs, grade.acted, grade.kept, grade.undone, grade.undo_incomplete) == (5, 4, 2, 1, 1)
    assert (grade.refused, grade.false_fires, grade.recurred) == (1, 1, 1)
    assert (grade.success_ratio, grade.undo_ratio, grade.recurrence_ratio) == (0.5, 0.5, 0.5)
    assert grade.seconds == pytest.approx(60)
    assert 'osremed_runs_kept{runbook="near-oom"} 2' in as_prometheus([grade])


def test_what_was_never_counted_is_no_ratio():
    (grade,) = grades([run(1, RunState.REFUSED)])
    assert (grade.success_ratio, grade.undo_ratio, grade.recurrence_ratio, grade.seconds) == (None, None, None, None)


def test_older_runs_do_not_count():
    assert grades([run(1, RunState.SUCCEEDED, hours_ago=50)], since_ns=NOW - 40 * H) == ()
