"""No expression of a runbook can run for ever or fill the memory."""

from __future__ import annotations

import pytest

from osremed.core.errors import BadInput
from osremed.runbook.expressions import ExpressionFailed, check_condition, check_template, condition_holds, render

DATA = {"event": {"level": "high", "n": 10**30, "words": ["a", "b"], "text": "x" * 3000}}


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in event.words %}{{ a }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{{ 9 ** 9 ** 9 }}",
        "{% set a = event.text ~ event.text %}{{ a }}",
        "{% set a = [event, event] %}{{ a }}",
        "{{ {'a': event} }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ event.text.center(1000000000) }}",
        "{{ event.text | center(1000000000) }}",
        "{{ event.words | map('indent', 1000000000) }}",
        "{{ event | xmlattr }}",
        "{{ range(1000000000) | list }}",
        "{{ lipsum(n=100000) }}",
        "{{ cycler }}",
        "{{ event.words() }}",
    ],
)
def test_what_could_grow_or_loop_is_refused_when_linted_or_has_no_value(template):
    try:
        check_template(template, allowed={"event"}, where="rules.yaml:3:7")
    except BadInput as error:
        assert error.where == "rules.yaml:3:7"
    else:
        with pytest.raises(ExpressionFailed):
            render(template, DATA)


@pytest.mark.parametrize(
    "expression",
    [
        "'x' * 1000000000 == ''",
        "event.words * 100000000 == ''",
        "'%1000000000d' % 1 == ''",
        "event.text + event.text == ''",
        "event.n * event.n * event.n * event.n * event.n > 0",
        "event.level | round(1000000000, 'ceil') == 0",
        "2.5 | round(1000000000, 'ceil') == 0",
        "event.text | replace('x', event.text) | length > 1",
        "event.text | join(event.text) | length > 1",
    ],
)
def test_a_value_that_grows_too_large_is_no_value(expression):
    with pytest.raises(ExpressionFailed):
        condition_holds(expression, DATA)


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("event.n / 1048576 > 0.5 and event.n % 7 < 7", True),
        ("event.level in ['medium', 'high']", True),
        ("event.words | map('upper') | join(', ') == 'A, B'", True),
        ("event.text | replace('x', 'y') | length == 3000", True),
        ("(2.567 | round(1)) == 2.6", True),
        ("event.level.startswith('hi') and not event.level.endswith('x')", True),
        ("1 + 1 - 3 * 2 == -4 and -1 < 0", True),
    ],
)
def test_arithmetic_and_filters_work_within_the_bounds(expression, holds):
    check_condition(expression, allowed={"event"}, where="here")
    assert condition_holds(expression, DATA) is holds


def test_an_unknown_filter_is_found_when_linted():
    with pytest.raises(BadInput, match="uses the filter 'frobnicate'"):
        check_condition("event | frobnicate", allowed={"event"}, where="here")
