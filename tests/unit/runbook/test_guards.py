"""Each guard says yes or no with its figures; the first no ends the list."""

from dataclasses import replace
from datetime import datetime

import pytest
from pydantic import TypeAdapter

from osremed.runbook.controls import Controls, Freeze
from osremed.runbook.document import Guards
from osremed.runbook.guards import GUARDS, Situation, check_guards, refusing_guard
from osremed.runbook.model import RunState
from tests.unit.runbook.conftest import make_run

S = 1_000_000_000
SILENCE = Controls()
NOW = make_run().raised_ns


def other(
    number, *, host="node-1", state=RunState.SUCCEEDED, ended_s_ago=0.0, raised_s_ago=0.0, acted=True, book="near-oom"
):
    run = make_run(number, host, book, now_ns=NOW - round(raised_s_ago * S))
    return replace(
        run,
        state=state,
        admitted=acted,
        attempted=1 if acted else 0,
        applied=("x",) if acted else (),
        updated_ns=NOW - round(ended_s_ago * S),
    )


def verdict(entry, *others, hosts=40, known=True, age_s=0.0, controls=SILENCE, now_ns=NOW, **guards):
    run = make_run(99, now_ns=now_ns)
    run = replace(run, event=replace(run.event, time_ns=now_ns - round(age_s * S)))
    parts = {name: Guards.model_fields[name].annotation for name in guards}
    given = {name: TypeAdapter(parts[name]).validate_python(value) for name, value in guards.items()}
    book = entry.runbook.model_copy(update={"guards": entry.runbook.guards.model_copy(update=given)})
    now = Situation(run, book, others, hosts, known, now_ns, (), controls)
    last = check_guards(now)[-1]
    assert refusing_guard(now) == ("" if last.passed else last.guard)  # the same answer without words
    return (last.guard if not last.passed else None), last.detail


def test_a_quiet_fleet_lets_the_run_in_through_every_guard(entry):
    run = make_run(99, now_ns=NOW)
    results = check_guards(Situation(run, entry.runbook, (), 40, True, NOW))
    assert [result.guard for result in results] == [name for name, _ in GUARDS]
    assert all(result.passed for result in results)


@pytest.mark.parametrize(
    ("guard", "words", "arguments", "others"),
    [
        ("scope", "not in the inventory", {"known": False}, []),
        ("fresh", "at most 15 min", {"age_s": 901}, []),
        ("target-busy", "is APPLYING", {}, [other(1, state=RunState.APPLYING)]),
        ("target-busy", "(other-book) is VERIFYING", {}, [other(1, state=RunState.VERIFYING, book="other-book")]),
        ("cooldown", "cooldown 10 min", {}, [other(1, ended_s_ago=599)]),
        ("cooldown", "cooldown 10 min", {}, [other(1, ended_s_ago=5, state=RunState.UNDONE)]),
        ("fleet", "at most 2 of 40", {}, [other(n, host=f"n{n}", state=RunState.VERIFYING) for n in (1, 2)]),
        ("fleet", "at most 1 of 3", {"hosts": 3}, [other(1, host="n1", state=RunState.VERIFYING)]),
        ("storm", "20 runs", {}, [other(n, host=f"n{n}", raised_s_ago=599) for n in range(20)]),
    ],
)
def test_a_guard_refuses_with_its_name_and_figures(entry, guard, words, arguments, others):
    name, detail = verdict(entry, *others, **arguments)
    assert name == guard
    assert words in detail


@pytest.mark.parametrize(
    "others",
    [
        [other(1, ended_s_ago=600)],
        [other(1, ended_s_ago=5, state=RunState.REFUSED, acted=False)],
        [other(1, host="node-2", ended_s_ago=5)],
        [other(n, host=f"n{n}", raised_s_ago=601) for n in range(20)],
        [other(n, host=f"n{n}", state=RunState.REFUSED, acted=False) for n in range(50)],
    ],
    ids=["cooled down", "refused runs do not count", "another host", "an old storm", "refusals are no storm"],
)
def test_what_is_over_or_elsewhere_does_not_refuse(entry, others):
    assert verdict(entry, *others)[0] is None


@pytest.mark.parametrize("later_by_s", [1, 0, -600], ids=["in order", "at once", "the clock was set back"])
def test_of_two_runs_raised_on_one_host_only_the_one_let_in_first_goes_on(entry, later_by_s):
    first = replace(make_run(1, now_ns=NOW), state=RunState.AWAITING_APPROVAL, admitted=True)
    second = make_run(2, now_ns=NOW + later_by_s * S)
    assert check_guards(Situation(first, entry.runbook, (second,), 40, True, NOW))[-1].passed
    refused = check_guards(Situation(second, entry.runbook, (first,), 40, True, NOW))[-1]
    assert (refused.guard, refused.passed) == ("target-busy", False)
    assert "is AWAITING_APPROVAL" in refused.detail


@pytest.mark.parametrize(
    ("age_s", "words"),
    [(-59, None), (-61, "61.00 s ahead of the clock here, at most 60.00 s"), (-365 * 86400, "365 d ahead")],
)
def test_an_event_of_the_future_is_not_fresh(entry, age_s, words):
    name, detail = verdict(entry, age_s=age_s)
    assert name == (words and "fresh")
    assert (words or "") in detail


def test_a_run_that_was_let_in_and_found_nothing_to_do_counts_too(entry):
    idle = replace(other(1, ended_s_ago=5, state=RunState.REFUSED, acted=False), admitted=True)
    assert verdict(entry, idle)[0] == "cooldown"


def frozen(**scope):
    return Controls(freezes=(Freeze(by="ann", reason="fair", since_ns=0, **scope),))


@pytest.mark.parametrize(
    ("scope", "refuses"),
    [
        ({}, True),
        ({"runbook": "near-oom"}, True),
        ({"host": "node-1"}, True),
        ({"runbook": "near-oom", "host": "node-1"}, True),
        ({"runbook": "other"}, False),
        ({"host": "node-2"}, False),
        ({"until_ns": NOW + S}, True),
        ({"until_ns": NOW - S}, False),
    ],
)
def test_a_freeze_stops_its_scope_and_says_who_and_why(entry, scope, refuses):
    name, detail = verdict(entry, controls=frozen(**scope))
    assert (name == "freeze") == refuses
    if refuses:
        assert detail.endswith("is frozen by ann: fair")


def test_what_people_said_and_cannot_be_read_stops_everything(entry):
    assert verdict(entry, controls=None)[0] == "freeze"


def test_a_host_with_a_half_undone_change_is_a_humans_until_acknowledged(entry):
    bad = other(1, state=RunState.UNDO_INCOMPLETE, ended_s_ago=86400, book="other-book")
    name, detail = verdict(entry, bad)
    assert name == "half-undone"
    assert f"osremed runs acknowledge {bad.run_id}" in detail
    assert verdict(entry, bad, controls=Controls(acknowledged=(bad.run_id,)))[0] is None
    assert verdict(entry, replace(bad, event=replace(bad.event, host="node-2")))[0] is None


@pytest.mark.parametrize(
    ("failed", "ended_s_ago", "refuses"),
    [(1, 1100, True), (1, 1300, False), (2, 2300, True), (2, 2500, False), (3, 3500, True), (3, 3700, False)],
)
def test_after_each_failure_in_a_row_the_wait_doubles_up_to_the_pause(entry, failed, ended_s_ago, refuses):
    runs = [other(n, state=RunState.UNDONE, ended_s_ago=ended_s_ago + 9000 * n) for n in range(failed)]
    before = other(50, state=RunState.UNDONE, ended_s_ago=90000)
    kept = other(51, ended_s_ago=80000)  # ends the row
    assert (verdict(entry, before, kept, *runs)[0] == "backoff") == refuses


def test_a_fix_that_helps_and_comes_back_too_often_goes_to_a_human(entry):
    runs = [other(n, ended_s_ago=3600 * (n + 1)) for n in range(5)]
    name, detail = verdict(entry, *runs)
    assert (name, "helped 5 times in 24 h" in detail) == ("recurrence", True), detail
    assert verdict(entry, *runs[:4])[0] is None
    assert verdict(entry, *[other(n, ended_s_ago=86400 + 3600 * (n + 1)) for n in range(9)])[0] is None


def test_the_breaker_opens_when_half_of_the_fleets_last_runs_were_not_kept_and_closes_by_hand(entry):
    runs = [
        other(n, host=f"n{n}", state=RunState.UNDONE if n % 2 else RunState.SUCCEEDED, ended_s_ago=5000 + n)
        for n in range(10)
    ]
    name, detail = verdict(entry, *runs)
    assert name == "breaker"
    assert "5 of the last 10 runs" in detail
    assert verdict(entry, *runs[:3])[0] is None
    good = [replace(run, state=RunState.SUCCEEDED) if run.host == "n1" else run for run in runs]
    assert verdict(entry, *good)[0] is None
    assert verdict(entry, *runs, controls=Controls(resets={"near-oom": NOW - 4000 * S}))[0] is None
    assert verdict(entry, *runs, controls=Controls(resets={"other": NOW - 4000 * S}))[0] == "breaker"


def test_the_blast_radius_counts_hosts_and_not_runs(entry):
    runs = [other(n, host=f"n{n % 3}", ended_s_ago=700 + n) for n in range(6)]
    radius = {"hosts": "10%", "per": "1h"}
    assert verdict(entry, *runs, blast_radius=radius)[0] is None  # 3 and this one: 4 of 40
    name, detail = verdict(entry, *runs, other(9, host="n9", ended_s_ago=700), blast_radius=radius)
    assert name == "blast-radius"
    assert "5 hosts changed" in detail
    assert verdict(entry, *runs, other(9, host="n9", ended_s_ago=3700), blast_radius=radius)[0] is None


NIGHT = [{"days": ["fri"], "from": "22:00", "to": "06:00", "timezone": "Europe/Berlin"}]


@pytest.mark.parametrize(
    ("utc", "inside"),
    [
        ("2026-11-20T20:59", False),  # Friday 21:59 in Berlin
        ("2026-11-20T21:00", True),
        ("2026-11-21T04:59", True),  # Saturday morning belongs to Friday's window
        ("2026-11-21T05:00", False),
        ("2026-11-21T21:30", False),
        ("2026-07-24T20:00", True),  # summer time
    ],
)
def test_changes_wait_for_a_maintenance_window_of_its_own_time_zone(entry, utc, inside):
    now_ns = round(datetime.fromisoformat(f"{utc}+00:00").timestamp() * S)
    assert (verdict(entry, now_ns=now_ns, windows=NIGHT)[0] is None) == inside
