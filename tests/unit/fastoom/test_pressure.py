"""Levels: entered at their line, left clearly above it; both memory and swap must be short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason
from osremed.fastoom.model import Level, Stall
from osremed.fastoom.policy import SENSITIVITY
from osremed.fastoom.pressure import FILL_BYTES_PER_S, needs_action, next_level, sleep_s, thrashes
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


def test_without_pressure_figures_only_a_whole_cache_a_second_is_thrashing() -> None:
    assert thrashes(stalled(0.25, None, 120), T)
    assert not thrashes(stalled(0.25, None, 50), T)


def test_a_stall_that_cannot_be_read_is_no_need() -> None:
    assert not needs_action(signals(0.2, stall=Missing(Reason.UNSUPPORTED, "pressure")), T)


def test_thrashing_is_over_only_at_half_its_line() -> None:
    assert next_level(Level.MEDIUM, stalled(0.25, 0.3, 50), T) is Level.MEDIUM
    assert next_level(Level.MEDIUM, stalled(0.25, 0.1, 50), T) is Level.NONE
