"""Levels: entered at their line, left clearly above it; both memory and swap must be short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason
from osremed.fastoom.model import Level, Stall
from osremed.fastoom.policy import SENSITIVITY
from osremed.fastoom.pressure import (
    FILL_BYTES_PER_S,
    for_growers_alone,
    needs_action,
    next_level,
    overgrows,
    sleep_s,
    thrashes,
)
from tests.unit.fastoom.conftest import MIB, signals

T = SENSITIVITY["medium"]  # warn 16 %, enter 8 %, leave 11 %, target 14 %


def walk(*shares: float) -> list[str]:
    level, words = Level.NONE, []
    for share in shares:
        level = next_level(level, signals(share), T)
        words.append(level.word)
    return words


def test_levels_on_the_way_down_and_up() -> None:
    assert walk(0.5, 0.16, 0.08, 0.04) == ["none", "low", "medium", "high"]
    assert walk(0.04, 0.06, 0.09, 0.12, 0.18, 0.2) == ["high", "high", "medium", "low", "low", "none"]


def test_a_level_does_not_flap_around_its_line() -> None:
    assert walk(0.08, 0.082, 0.079, 0.10, 0.08) == ["medium"] * 5


def test_the_need_begins_exactly_at_enter() -> None:
    assert needs_action(signals(0.08), T)
    assert not needs_action(signals(0.081), T)


def test_with_swap_both_must_be_short() -> None:
    assert not needs_action(signals(0.01, swap_total_bytes=100 * MIB, swap_free_bytes=50 * MIB), T)
    assert needs_action(signals(0.01, swap_total_bytes=100 * MIB, swap_free_bytes=5 * MIB), T)


def test_without_swap_memory_alone_decides() -> None:
    assert needs_action(signals(0.01, swap_total_bytes=0, swap_free_bytes=0), T)


@given(st.sampled_from(list(Level)), st.floats(0, 1), st.floats(0, 1))
def test_less_memory_never_lowers_the_level(previous: Level, one: float, other: float) -> None:
    more, less = signals(max(one, other)), signals(min(one, other))
    assert next_level(previous, less, T) >= next_level(previous, more, T)


@given(st.sampled_from(list(Level)), st.floats(0, 1))
def test_a_need_is_always_at_least_medium(previous: Level, share: float) -> None:
    if needs_action(signals(share), T):
        assert next_level(previous, signals(share), T) >= Level.MEDIUM


@given(st.floats(0, 1), st.sampled_from(list(SENSITIVITY)))
def test_no_plausible_fill_reaches_enter_during_a_long_sleep(share: float, name: str) -> None:
    t = SENSITIVITY[name]
    state = signals(share, limit=64 << 30)
    sleep = sleep_s(state, t)
    assert t.floor_s <= sleep <= t.ceiling_s
    if sleep > t.floor_s:
        assert state.available_bytes - sleep * FILL_BYTES_PER_S >= state.limit_bytes * t.enter_ratio - 1


def test_a_trend_to_the_limit_shortens_the_sleep() -> None:
    state = signals(0.12, limit=1 << 30)
    assert sleep_s(state, T, falling_bytes_per_s=1 << 30) < sleep_s(state, T)


def test_far_from_the_limit_it_sleeps_as_long_as_it_may() -> None:
    assert sleep_s(signals(0.9, limit=4 << 40), T) == T.ceiling_s


def stalled(share: float, full: float | None, refaults_mib: int):
    return signals(share, stall=Stall(full, refaults_mib * MIB, 100 * MIB))


def test_thrashing_is_near_oom_although_the_figures_look_well() -> None:
    assert needs_action(stalled(0.25, 0.6, 50), T)
    assert next_level(Level.NONE, stalled(0.25, 0.6, 50), T) is Level.MEDIUM


def test_a_stall_counts_only_when_memory_is_short_and_pages_come_back() -> None:
    assert not thrashes(stalled(0.5, 0.9, 500), T), "another group's thrash, with memory free here"
    assert not thrashes(stalled(0.25, 0.9, 0), T), "the stall is not about pages"
    assert not thrashes(stalled(0.25, 0.1, 500), T)


def futile(share: float, *, grown_mib: float = 40, scan_mib: float = 60, taken_mib: float = 1, **more):
    """Everything waits; reclaim looks at much of a cache of 100 MiB each second and takes next to nothing."""
    stall = Stall(0.6, 0.0, 100 * MIB, scan_mib * MIB, taken_mib * MIB)
    return signals(share, stall=stall, grown_bytes=round(grown_mib * MIB), **more)


def test_who_grows_into_cache_in_use_is_near_oom_while_half_of_it_still_counts_as_available() -> None:
    assert needs_action(futile(0.5), T)
    assert for_growers_alone(futile(0.5), T)
    assert next_level(Level.NONE, futile(0.5), T) is Level.MEDIUM
    coming_back = signals(0.5, stall=Stall(0.6, 5.0 * MIB, 100 * MIB), grown_bytes=40 * MIB)
    assert overgrows(coming_back, T)


def test_who_reads_much_while_nobody_grows_is_no_near_oom() -> None:
    assert not needs_action(futile(0.5, grown_mib=0), T)
    assert not needs_action(futile(0.5, grown_mib=7), T), "what a program takes that starts"
    assert not needs_action(signals(0.5, stall=Stall(0.9, 50.0 * MIB, 100 * MIB)), T)


def test_where_growth_is_watched_a_stall_without_it_must_have_lasted() -> None:
    def seen(lasting: float | None):
        stall = Stall(0.9, 50.0 * MIB, 100 * MIB, lasting_ratio=lasting)
        return signals(0.25, stall=stall, grown_bytes=0)

    assert not needs_action(seen(None), T)
    assert not needs_action(seen(0.3), T), "one who reads more than there is room for"
    assert needs_action(seen(0.5), T)
    assert not for_growers_alone(seen(0.5), T)


def test_a_slow_leak_counts_when_the_stall_lasts() -> None:
    def seen(lasting: float, crept_mib: float):
        stall = Stall(0.1, 0.0, 100 * MIB, 60.0 * MIB, 0.0, lasting)
        return signals(0.45, stall=stall, grown_bytes=1 * MIB, crept_bytes=round(crept_mib * MIB))

    assert needs_action(seen(0.5, 12), T)
    assert for_growers_alone(seen(0.5, 12), T)
    assert not needs_action(seen(0.3, 12), T)
    assert not needs_action(seen(0.5, 2), T)


def test_growth_over_cache_that_reclaim_can_take_is_no_near_oom() -> None:
    assert not needs_action(futile(0.5, scan_mib=60, taken_mib=50), T)
    assert not needs_action(futile(0.5, scan_mib=5, taken_mib=0), T)
    assert not needs_action(futile(0.51), T)


def test_as_long_as_swap_takes_something_fruitless_reclaim_of_files_is_no_need() -> None:
    assert not needs_action(futile(0.5, swap_total_bytes=100 * MIB, swap_free_bytes=90 * MIB), T)
    assert needs_action(futile(0.5, swap_total_bytes=100 * MIB, swap_free_bytes=5 * MIB), T)


def test_a_need_that_is_there_without_the_growth_is_not_for_growers_alone() -> None:
    assert not for_growers_alone(futile(0.07), T)
    assert not for_growers_alone(futile(0.5, grown_mib=0), T)


def test_where_growth_is_not_watched_a_stall_is_for_everybody_in_the_scope() -> None:
    assert needs_action(stalled(0.25, 0.6, 50), T)
    assert not for_growers_alone(stalled(0.25, 0.6, 50), T)


def test_while_tasks_begin_to_wait_the_next_look_is_soon() -> None:
    calm, stirred = (signals(0.5, limit=64 << 30, stall=Stall(full, 0.0, 1 << 30)) for full in (0.0, 0.2))
    assert sleep_s(stirred, T) <= 0.1 < sleep_s(calm, T)


def test_without_pressure_figures_only_a_whole_cache_a_second_is_thrashing() -> None:
    assert thrashes(stalled(0.25, None, 120), T)
    assert not thrashes(stalled(0.25, None, 50), T)


def test_a_stall_that_cannot_be_read_is_no_need() -> None:
    assert not needs_action(signals(0.2, stall=Missing(Reason.UNSUPPORTED, "pressure")), T)


def test_thrashing_is_over_only_at_half_its_line() -> None:
    assert next_level(Level.MEDIUM, stalled(0.25, 0.3, 50), T) is Level.MEDIUM
    assert next_level(Level.MEDIUM, stalled(0.25, 0.1, 50), T) is Level.NONE
