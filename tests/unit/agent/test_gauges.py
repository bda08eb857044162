"""Rates and shares that verification rests on."""

from __future__ import annotations

import pytest

from osremed.agent import gauges
from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reason, Value
from osremed.sensors.cpugroup import Throttling


class Seconds:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def seconds(monkeypatch):
    made = Seconds()
    monkeypatch.setattr(gauges.time, "monotonic", made.monotonic)
    return made


def sampled(probe, seconds, count, every_s=0.25):
    found = []
    for _ in range(count):
        found.append(probe())
        seconds.now += every_s
    return found


def values(readings):
    return [reading.value for reading in readings if isinstance(reading, Value)]


def test_there_is_no_rate_before_two_seconds_and_then_it_is_that_of_the_last_two(seconds):
    total = iter(range(1000))
    probe = gauges._recent(lambda: Value(next(total)), lambda then, now, span: (now - then) / span)
    found = sampled(probe, seconds, 20)
    assert all(isinstance(each, Missing) for each in found[:8])
    assert values(found) == [4.0] * 12


def test_a_counter_that_was_gone_begins_anew(seconds):
    readings = [Value(0)] * 9 + [Missing(Reason.GONE, "group")] + [Value(0)] * 9
    probe = gauges._recent(iter(readings).__next__, lambda then, now, span: 1.0)
    found = sampled(probe, seconds, 19)
    assert [isinstance(each, Value) for each in found] == [False] * 8 + [True] + [False] * 9 + [True]


def test_a_group_that_does_not_run_is_not_throttled_and_one_that_is_gone_is_unknown(seconds, monkeypatch):
    readings = [Value(Throttling(100, 60, 9.0))] * 9 + [Missing(Reason.GONE, "cpu.stat")]
    monkeypatch.setattr(gauges.cpugroup, "throttling", lambda _: readings.pop(0))
    monkeypatch.setattr(gauges, "_cpu_group", lambda _: None)
    found = sampled(gauges.throttled_ratio(scope="/batch"), seconds, 10)
    assert values(found) == [0.0]
    assert isinstance(found[-1], Missing)


def test_half_of_the_periods_are_half(seconds, monkeypatch):
    readings = [Value(Throttling(100 + 2 * at, 60 + at, 9.0)) for at in range(9)]
    monkeypatch.setattr(gauges.cpugroup, "throttling", lambda _: readings.pop(0))
    monkeypatch.setattr(gauges, "_cpu_group", lambda _: None)
    assert values(sampled(gauges.throttled_ratio(scope="/batch"), seconds, 9)) == [0.5]


@pytest.mark.parametrize("scope", ["node", "/", "batch", "/a/../b"])
def test_only_a_group_of_its_own_is_held_against_what_it_held(scope):
    with pytest.raises(BadInput):
        gauges.held_ratio(scope=scope, of="1MiB")


def test_a_parent_that_is_gone_holds_an_unknown_amount():
    probe = gauges.dying_ratio(scope="/there-is-no-such-group-7f3a", of="1MiB")
    assert isinstance(probe(), Missing)


@pytest.mark.parametrize("of", ["0B", "some"])
def test_a_share_of_nothing_is_refused(of):
    with pytest.raises(BadInput):
        gauges.held_ratio(scope="/batch", of=of)
