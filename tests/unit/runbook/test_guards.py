"""Each guard says yes or no with its figures; the first no ends the list."""

from dataclasses import replace

import pytest

from osremed.runbook.guards import GUARDS, Situation, check_guards
from osremed.runbook.model import RunState
from tests.unit.runbook.conftest import make_run

S = 1_000_000_000
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


def verdict(entry, *others, hosts=40, known=True, age_s=0.0):
    run = make_run(99, now_ns=NOW)
    run = replace(run, event=replace(run.event, time_ns=NOW - round(age_s * S)))
    results = check_guards(Situation(run, entry.runbook, others, hosts, known, NOW))
    last = results[-1]
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


def test_of_two_runs_raised_on_one_host_only_the_first_goes_on(entry):
    first, second = make_run(1, now_ns=NOW), make_run(2, now_ns=NOW + 1)
    assert check_guards(Situation(first, entry.runbook, (second,), 40, True, NOW))[-1].passed
    assert not check_guards(Situation(second, entry.runbook, (first,), 40, True, NOW))[-1].passed


def test_a_run_that_was_let_in_and_found_nothing_to_do_counts_too(entry):
    idle = replace(other(1, ended_s_ago=5, state=RunState.REFUSED, acted=False), admitted=True)
    assert verdict(entry, idle)[0] == "cooldown"
