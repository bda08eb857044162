"""What cannot be seen is not fine: the judgement over samples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.core.probe import (
    ProbeSample,
    Tolerance,
    Verdict,
    judge,
    parse_tolerance,
    sample_as_json,
    sample_from_json,
)
from osremed.core.reading import Missing, Reason, Value

GAP = Missing(Reason.TIMED_OUT, "test")
ABOVE = Tolerance(">", 0.10, within_s=60, hold_s=15)


def samples(*pairs):
    return [ProbeSample(at_s, GAP if value is None else Value(value)) for at_s, value in pairs]


@pytest.mark.parametrize(
    ("name", "given_samples", "while_running", "at_the_end"),
    [
        ("nothing was read", samples(), None, Verdict.UNKNOWN),
        ("held long enough", samples((0, 0.2), (15, 0.2)), Verdict.HOLDS, Verdict.HOLDS),
        ("held, but not yet long enough", samples((0, 0.2), (14, 0.2)), None, Verdict.FAILS),
        ("a dip breaks it", samples((0, 0.2), (8, 0.05), (16, 0.2)), None, Verdict.FAILS),
        ("a gap breaks it", samples((0, 0.2), (8, None), (16, 0.2)), None, Verdict.FAILS),
        ("held again after a gap", samples((0, 0.2), (8, None), (9, 0.2), (24, 0.2)), Verdict.HOLDS, Verdict.HOLDS),
        ("outside at the end", samples((0, 0.2), (15, 0.05)), None, Verdict.FAILS),
        ("blind at the end", samples((0, 0.2), (14, 0.2), (15, None)), None, Verdict.UNKNOWN),
        ("blind all along", samples((0, None), (60, None)), None, Verdict.UNKNOWN),
        ("the bound itself is outside of >", samples((0, 0.10), (15, 0.10)), None, Verdict.FAILS),
        ("began too late", samples((46, 0.2), (61, 0.2)), None, Verdict.FAILS),
        ("began at the last moment", samples((45, 0.2), (60, 0.2)), Verdict.HOLDS, Verdict.HOLDS),
    ],
)
def test_judgement(name, given_samples, while_running, at_the_end):
    assert judge(given_samples, ABOVE, ended=False) is while_running
    assert judge(given_samples, ABOVE, ended=True) is at_the_end


def test_a_tolerance_without_a_hold_needs_one_good_sample():
    assert judge(samples((0, 0.2)), Tolerance(">", 0.1, 10, 0), ended=False) is Verdict.HOLDS


any_samples = st.lists(
    st.tuples(st.floats(0.01, 5), st.none() | st.floats(allow_nan=True, allow_infinity=True)), max_size=30
).map(lambda steps: samples(*[(sum(s[0] for s in steps[: i + 1]), step[1]) for i, step in enumerate(steps)]))
tolerances = st.tuples(
    st.sampled_from([">", ">=", "<", "<=", "==", "!="]), st.floats(0, 10), st.floats(0, 60), st.floats(0, 1)
).map(lambda t: Tolerance(t[0], t[1], within_s=t[2], hold_s=t[2] * t[3]))


@given(any_samples, tolerances)
def test_holds_only_on_an_unbroken_seen_stretch_that_is_long_enough_and_in_time(given_samples, tolerance):
    verdict = judge(given_samples, tolerance, ended=True)
    if verdict is not Verdict.HOLDS:
        return
    stretch = []
    for sample in reversed(given_samples):
        if not (isinstance(sample.reading, Value) and tolerance.accepts(sample.reading.value)):
            break
        stretch.append(sample)
    assert stretch
    assert stretch[0].at_s - stretch[-1].at_s >= tolerance.hold_s
    assert stretch[-1].at_s + tolerance.hold_s <= tolerance.within_s + 1e-9
    assert all(not math.isnan(sample.reading.value) for sample in stretch)


@given(any_samples, tolerances, st.integers(0, 29))
def test_turning_a_reading_into_a_gap_never_turns_the_verdict_into_holds(given_samples, tolerance, index):
    if index >= len(given_samples) or judge(given_samples, tolerance, ended=True) is Verdict.HOLDS:
        return
    blinded = [*given_samples]
    blinded[index] = ProbeSample(blinded[index].at_s, GAP)
    assert judge(blinded, tolerance, ended=True) is not Verdict.HOLDS


@given(any_samples, tolerances)
def test_the_end_only_adds_a_verdict_it_never_changes_one(given_samples, tolerance):
    running, ended = (judge(given_samples, tolerance, ended=end) for end in (False, True))
    assert ended is not None
    assert running in (None, ended)


@pytest.mark.parametrize(
    ("text", "op", "bound"),
    [("value > 0.10", ">", 0.1), ("value>=10%", ">=", 0.1), (" value < 5 ", "<", 5), ("value != 0", "!=", 0)],
)
def test_expectations(text, op, bound):
    assert parse_tolerance(text, within_s=2, hold_s=1) == Tolerance(op, bound, 2, 1)


@pytest.mark.parametrize(
    "text", ["", "value", "value > ", "> 1", "value > -1", "value > 1 or 1", "value ~ 1", "x > 1", None, 3]
)
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(BadInput) as caught:
        parse_tolerance(text, within_s=2, hold_s=1)
    assert "value > 0.10" in caught.value.hint


@pytest.mark.parametrize(("within_s", "hold_s"), [(1, 2), (1, -1), (float("nan"), 1), (1, float("nan"))])
def test_a_hold_that_does_not_fit_is_refused(within_s, hold_s):
    with pytest.raises(BadInput, match="longer than"):
        parse_tolerance("value > 1", within_s=within_s, hold_s=hold_s)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 10**6))
def test_samples_come_back_from_json(value, at_ms):
    for sample in (ProbeSample(at_ms / 1000, Value(value)), ProbeSample(at_ms / 1000, GAP)):
        assert sample_from_json(sample_as_json(sample)) == sample


@pytest.mark.parametrize(
    "document",
    [
        *[None, [], {}, {"at_s": 1}, {"value": 1}, {"at_s": "x", "value": 1}, {"at_s": 1, "value": {}}],
        *[{"at_s": 1, "value": bad} for bad in (True, None, "0.5", [], float("nan"), float("inf"), 10**400)],
        *[{"at_s": bad, "value": 1} for bad in (float("nan"), float("inf"))],
        {"at_s": 1, "value": {"missing": "unheard_of", "source": "x"}},
    ],
)
def test_a_sample_from_a_host_that_is_not_one_is_bad_input(document):
    with pytest.raises(BadInput, match="not a probe sample"):
        sample_from_json(document)
