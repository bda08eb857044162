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


def run(number, state, *, host="node-1", hours_ago=0.0, took_s=60, found=True, manual_s=None, waited_s=0):
    made = make_run(number, host, now_ns=NOW - round(hours_ago * H))
    acted = state is not RunState.REFUSED
    return replace(
        made,
        state=state,
        updated_ns=made.raised_ns + took_s * 10**9,
        bundle="b",
        findings=FOUND if found else (),
        applied=("x",) if acted else (),
        manual_s=manual_s,
        waited_ns=round(waited_s * 10**9),
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


def test_kept_runs_save_what_people_take_by_hand_less_what_these_were_waited_for():
    """Three of 20 min each, and for each the median of the waiting: 5 min."""
    kept = [run(n, RunState.SUCCEEDED, manual_s=1200.0, waited_s=waited) for n, waited in ((1, 0), (2, 300), (3, 3000))]
    (grade,) = grades(kept)
    assert grade.time_saved_s == 3 * (1200 - 300)
    assert 'osremed_runs_time_saved_seconds{runbook="near-oom"} 2700\n' in as_prometheus([grade])


def test_runs_that_were_not_kept_save_nothing_and_nothing_is_saved_below_zero():
    bad = [run(1, RunState.UNDONE, manual_s=1200.0), run(2, RunState.REFUSED, manual_s=1200.0)]
    assert grades(bad)[0].time_saved_s == 0.0
    assert grades([*bad, run(3, RunState.SUCCEEDED, manual_s=1200.0)])[0].time_saved_s == 1200.0
    assert grades([run(4, RunState.SUCCEEDED, manual_s=600.0, waited_s=7200)])[0].time_saved_s == 0.0


def test_what_a_runbook_said_when_the_run_began_counts_and_where_none_said_it_there_is_no_figure():
    said = run(1, RunState.SUCCEEDED, manual_s=600.0), run(2, RunState.SUCCEEDED, manual_s=1200.0)
    assert grades([*said, run(3, RunState.SUCCEEDED)])[0].time_saved_s == 1800.0
    (grade,) = grades([run(1, RunState.SUCCEEDED)])
    assert grade.as_json()["time_saved_s"] is None
    assert "time_saved" not in as_prometheus([grade])
