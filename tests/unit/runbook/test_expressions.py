"""Conditions are strict: no name and no value means no answer, never false by accident."""

import pytest

from osremed.core.errors import BadInput
from osremed.runbook.expressions import ExpressionFailed, Risk, check_condition, condition_holds, render

DATA = {"event": {"level": "high", "items": 3, "ratio": 0.04}, "panorama": {"files": [], "gone": {"missing": "denied"}}}


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("event.level in ['medium', 'high']", True),
        ("event.items == 3", True),
        ("event.ratio < 0.03", False),
        ("panorama.files | length > 0 and panorama.files[0].cached_bytes > 1", False),
    ],
)
def test_a_condition_is_true_or_false(expression, answer):
    assert condition_holds(expression, DATA) is answer


@pytest.mark.parametrize(
    "expression",
    [
        "event.nothing > 1",
        "panorama.files[0].cached_bytes > 1",
        "panorama.gone > 5",
        "event.level",
        "missing_name",
        "1 / 0 > 1",
        "event.ratio > 'x'",
        "''.__class__.__mro__[1].__subclasses__() | length > 0",
        "range(10 ** 9) | length > 0",
    ],
)
def test_what_has_no_value_is_neither_true_nor_false(expression):
    with pytest.raises(ExpressionFailed):
        condition_holds(expression, DATA)


def test_a_whole_template_keeps_its_type_and_a_mixed_one_becomes_text():
    assert render({"paths": "{{ event.items }}", "text": "n={{ event.items }}"}, DATA) == {"paths": 3, "text": "n=3"}


def test_what_a_host_says_is_never_a_template():
    data = {"event": {"name": "{{ 7 * 7 }}"}}
    assert render("{{ event.name }}", data) == "{{ 7 * 7 }}"
    assert render("is {{ event.name }}", data) == "is {{ 7 * 7 }}"


@pytest.mark.parametrize(
    ("risk", "expression", "answer"),
    [
        ("low", "risk >= 'medium'", False),
        ("medium", "risk >= 'medium'", True),
        ("high", "risk > 'medium'", True),
        ("medium", "risk < 'high'", True),
        ("medium", "risk <= 'low'", False),
        ("medium", "risk == 'medium'", True),
    ],
)
def test_risks_are_ordered_by_meaning_not_by_alphabet(risk, expression, answer):
    assert condition_holds(expression, {"risk": Risk(risk)}) is answer


def test_a_risk_compared_with_another_word_has_no_answer():
    with pytest.raises(ExpressionFailed, match="use one of low, medium, high"):
        condition_holds("risk >= 'grave'", {"risk": Risk("low")})


def test_the_names_of_a_condition_are_checked_before_it_runs():
    with pytest.raises(BadInput, match="undefined name 'evnt'"):
        check_condition("evnt.level == 1", allowed={"event"}, where="f:1:1")
