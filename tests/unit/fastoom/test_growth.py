"""Who grew lately, and what each held before."""

from __future__ import annotations

from osremed.fastoom.growth import Growth
from tests.unit.fastoom.conftest import MIB, process

S = 10**9
LIMIT = 1000 * MIB


def test_growth_is_what_was_added_since_the_least_of_the_last_half_minute() -> None:
    growth = Growth()
    seen = [growth.note(t * S, held * MIB) // MIB for t, held in ((0, 500), (5, 400), (10, 430), (36, 450), (70, 470))]
    assert seen == [0, 0, 30, 20, 0]


def test_a_host_that_stands_still_is_looked_at_once() -> None:
    growth = Growth()
    growth.note(0, 500 * MIB)
    assert growth.due(0, LIMIT)
    growth.keep(0, [process(10, 100)])
    for t in range(1, 100):
        growth.note(t * S, (500 + t % 9) * MIB)
        assert not growth.due(t * S, LIMIT)


def test_a_host_that_grows_is_looked_at_every_few_seconds_at_most() -> None:
    growth, looks = Growth(), 0
    for t in range(600):
        growth.note(t * S // 10, t * 10 * MIB)
        if growth.due(t * S // 10, LIMIT):
            growth.keep(t * S // 10, [])
            looks += 1
    assert looks == 60 // 5


def test_what_was_held_before_is_the_look_when_all_together_held_least() -> None:
    growth = Growth()
    assert growth.before(0) is None
    for t, held in ((0, 900), (60, 300), (70, 400), (80, 500)):
        growth.note(t * S, held * MIB)
        growth.keep(t * S, [process(10, held)])
    assert growth.before(85 * S) == {(10, 100): 300 * MIB}
    assert growth.before(105 * S) == {(10, 100): 400 * MIB}, "the look before the window counts: little moved since"
    assert growth.before(500 * S) == {(10, 100): 500 * MIB}


def test_slow_growth_is_seen_between_the_looks() -> None:
    growth = Growth()
    for minute in range(60):
        growth.note(minute * 60 * S, (300 + 2 * minute) * MIB)
        if growth.due(minute * 60 * S, LIMIT):
            growth.keep(minute * 60 * S, [process(10, 100 + 2 * minute)])
    assert growth.note(59 * 60 * S, 418 * MIB) == 0
    assert 8 * MIB <= growth.crept_bytes(59 * 60 * S) <= 20 * MIB


def test_a_look_that_missed_somebody_tells_nobodys_growth_and_is_not_repeated_at_once() -> None:
    growth = Growth()
    growth.note(0, 300 * MIB)
    growth.keep(0, None)
    assert growth.before(S) is None
    assert not growth.due(S, LIMIT)
    growth.note(6 * S, 400 * MIB)
    growth.keep(6 * S, [process(10, 50)])
    assert growth.before(7 * S) == {(10, 100): 50 * MIB}
