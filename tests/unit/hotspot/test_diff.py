from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.hotspot.diff import Diff, compare
from osremed.hotspot.model import Mode, Profile
from osremed.hotspot.stats import discoveries, estimate, p_value
from tests.unit.hotspot.made import frame, profile, sample, service


def significant(diff: Diff) -> list[str]:
    return [change.path[-1].name for change in diff.functions if change.significant]


def test_two_windows_of_one_service_do_not_differ() -> None:
    """At most 0.2 false flags a diff over 50 diffs (measured: 0.00 to 0.06)."""
    flags = sum(len(significant(compare(service(2 * at, 60), service(2 * at + 1, 60)))) for at in range(50))
    assert flags <= 0.2 * 50


@pytest.mark.parametrize(("injected", "seconds"), [(0.02, 60), (0.05, 20)])
def test_an_injected_change_is_found(injected: float, seconds: int) -> None:
    """+2 points from 3,000 samples and +5 from 1,000, in at least 95 of 100 trials."""
    trials, found = 20, 0
    for at in range(trials):
        diff = compare(service(2 * at, seconds), service(2 * at + 1, seconds, injected))
        found += "f40" in significant(diff)
    assert found >= 0.95 * trials


def test_bursts_are_not_taken_for_a_change() -> None:
    """A job of some seconds that falls into one window by chance: its samples are many, its blocks are few."""

    def bursty(offset: int) -> Profile:
        taken = []
        for second in range(64):
            job = (second + offset) % 32 < 6
            taken += [sample(second + at / 50, frame("job" if job and at < 25 else "serve")) for at in range(50)]
        return profile(*taken, length_s=64)

    assert significant(compare(bursty(0), bursty(16))) == []


def test_new_and_vanished_functions_are_told() -> None:
    before = profile(*[sample(at / 50, frame("old" if at % 4 else "same")) for at in range(1000)], length_s=20)
    after = profile(*[sample(at / 50, frame("fresh" if at % 4 else "same")) for at in range(1000)], length_s=20)
    changes = {change.path[-1].name: change for change in compare(before, after).functions}
    assert changes["fresh"].fresh
    assert changes["fresh"].significant
    assert changes["old"].vanished
    assert not changes["same"].significant


def test_swapping_the_sides_swaps_the_signs() -> None:
    one, two = service(1, 20), service(2, 20, 0.1)
    forth, back = compare(one, two), compare(two, one)
    effects = {change.path: change.effect for change in forth.functions}
    assert {change.path: pytest.approx(-change.effect) for change in back.functions} == effects
    assert sorted(significant(forth)) == sorted(significant(back))


def test_unlike_clocks_are_refused() -> None:
    one = service(1, 10)
    with pytest.raises(BadInput, match="not taken alike"):
        compare(one, dataclasses.replace(one, mode=Mode("cycles", 99, 2)))


def slowed(made: Profile, every: int, from_s: int = 0) -> Profile:
    """As a recorder takes it that went down to a part of its rate: fewer samples, each for more time."""
    first_ns = made.start_ns + from_s * 10**9
    fewer = [each for number, each in enumerate(made.samples) if each.at_ns < first_ns or number % every == 0]
    taken = (each if each.at_ns < first_ns else each._replace(weight_ns=each.weight_ns * every) for each in fewer)
    return dataclasses.replace(made, samples=tuple(taken), mode=Mode("cpu-clock", 0 if from_s else 99 // every, 2))


def test_a_recorder_that_took_fewer_samples_of_a_busy_host_makes_no_difference() -> None:
    flags = 0
    for at in range(25):
        before, after = slowed(service(2 * at, 60), 4, from_s=30), slowed(service(2 * at + 1, 60), 4)
        flags += len(significant(compare(before, after)))
    assert flags <= 0.2 * 25


def test_a_difference_is_seen_across_rates_and_the_rates_are_told() -> None:
    diff = compare(service(1, 60), slowed(service(2, 60, 0.10), 4, from_s=30))
    assert significant(diff)
    assert "99 a second before, at changing rates after" in " ".join(diff.warnings)


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(BadInput, match="no off samples"):
        compare(service(1, 10), service(2, 10), "off")


def test_too_few_samples_are_said() -> None:
    warnings = " ".join(compare(service(1, 4), service(2, 4)).warnings)
    assert "only 200 samples" in warnings
    assert "only 4 seconds" in warnings


def test_recursion_counts_once() -> None:
    deep = profile(*[sample(at / 50, frame("a"), frame("a"), frame("a")) for at in range(500)])
    assert compare(deep, deep).functions[0].after.share == pytest.approx(1.0)


def test_correlated_blocks_widen_the_error() -> None:
    even = estimate([5.0] * 64, [10.0] * 64)
    clumped = estimate([10.0] * 32 + [0.0] * 32, [10.0] * 64)
    assert even.share == clumped.share == 0.5
    assert clumped.error > 2 * even.error


def test_nothing_known_is_not_significant() -> None:
    nothing = estimate([], [])
    assert p_value(nothing, nothing) == 1.0


def test_benjamini_and_hochberg_by_hand() -> None:
    assert discoveries([0.001, 0.008, 0.039, 0.041, 0.6], 0.05) == [True, True, False, False, False]
    assert discoveries([0.9, 0.8], 0.05) == [False, False]
    assert discoveries([]) == []


@given(st.lists(st.floats(0, 1), max_size=40))
def test_a_smaller_p_value_is_never_worse(values: list[float]) -> None:
    kept = discoveries(values, 0.1)
    assert all(kept[one] or not kept[two] for one in range(len(values)) for two in range(len(values))
               if values[one] <= values[two])  # fmt: skip
