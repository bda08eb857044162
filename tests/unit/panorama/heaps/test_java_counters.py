"""A JVM that has not sampled its spaces yet is not one that holds nothing."""

from __future__ import annotations

import time

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.heaps import java

USED = "sun.gc.generation.0.space.0.used"


@pytest.fixture
def answers(monkeypatch):
    """Answers of the JVM's counters, one a look; the last one stays."""

    def give(*told):
        waiting = list(told)
        monkeypatch.setattr(java.jattach, "counters", lambda _space: waiting.pop(0) if len(waiting) > 1 else waiting[0])

    return give


def test_the_first_sample_is_waited_for(answers):
    answers(Value({USED: 0}), Value({USED: 0}), Value({USED: 4096}))
    assert java._sampled(None, time.monotonic() + 30) == Value({USED: 4096})


def test_what_is_never_sampled_is_missing_and_not_zero(answers):
    answers(Value({USED: 0}))
    told = java._sampled(None, time.monotonic() + 0.05)
    assert isinstance(told, Missing)
    assert told.reason is Reason.NO_DATA


def test_no_counters_at_all_are_told_at_once(answers):
    gone = Missing(Reason.GONE, "hsperfdata")
    answers(gone)
    assert java._sampled(None, time.monotonic() + 30) is gone
