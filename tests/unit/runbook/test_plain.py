"""A condition evaluated plainly gives what its template gives: the same value, or the template's own words."""

from __future__ import annotations

from glob import glob

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.runbook import expressions
from osremed.runbook.catalog import load_catalog
from osremed.runbook.expressions import ExpressionFailed, condition_holds

KEYS = st.sampled_from(["level", "count", "inner", "gone", "items"])
CONSTANTS = st.sampled_from(["'high'", "''", "3", "0", "1.5", "true", "false", "none", "['high', 'low']", "[1, 3]"])
PATHS = st.one_of(
    KEYS.map("event.{}".format),
    st.tuples(KEYS, KEYS).map(lambda keys: f"event.{keys[0]}.{keys[1]}"),
    st.tuples(KEYS, CONSTANTS).map(lambda each: f"event.{each[0]} | default({each[1]})"),
    st.sampled_from(["event", "host", "nothing", "nothing.level | default(3)"]),
)
OPERANDS = st.one_of(PATHS, CONSTANTS)
COMPARISONS = st.tuples(OPERANDS, st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]), OPERANDS).map(
    " ".join
)
CONDITIONS = st.recursive(
    st.one_of(COMPARISONS, OPERANDS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or", "<"]), inner).map(lambda each: f"({' '.join(each)})"),
        inner.map("not ({})".format),
    ),
    max_leaves=6,
)
VALUES = st.sampled_from(["high", "", 3, 0, 1.5, True, False, None, [1, 3], {"level": "low", "count": 1}])
EVENTS = st.dictionaries(KEYS, VALUES)


def answer(condition, data):
    try:
        return condition_holds(condition, data)
    except ExpressionFailed as error:
        return error.what


@settings(deadline=None, max_examples=300)
@given(CONDITIONS, EVENTS)
def test_plain_and_template_agree(condition, event):
    data = {"event": event, "host": "web-1"}
    plainly = answer(condition, data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(expressions, "_plainly", lambda _condition: None)
        assert plainly == answer(condition, data)


def test_the_events_of_every_shipped_runbook_are_matched_plainly():
    assert glob("runbooks/*/runbook.yaml")
    for entry in load_catalog("runbooks").values():
        for clause in (clause for trigger in entry.runbook.on for clause in trigger.clauses):
            assert clause.where is None or expressions._plainly(clause.where) is not None, clause.where


def test_a_condition_too_deep_for_one_stack_still_has_its_answer():
    deep = " and ".join(["event.a"] * 120) + " and event.b"
    assert condition_holds(deep, {"event": {"a": True, "b": False}}) is False


@pytest.mark.parametrize("condition", ["event.a }} {{ event.b", "event.a, event.b", "event.a | length > 0"])
def test_what_is_not_plain_is_left_to_the_template(condition):
    assert expressions._plainly(condition) is None
