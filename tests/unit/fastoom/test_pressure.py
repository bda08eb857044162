"""Levels: entered at their line, left clearly above it; both memory and swap must be short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from osremed.fastoom.model import Level
from osremed.fastoom.policy import SENSITIVITY
from osremed.fastoom.pressure import MAX_SLEEP_S, MIN_SLEEP_S, needs_action, next_level, sleep_s
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


@given(st.floats(0, 1))
def test_no_fill_at_6000_mib_a_second_reaches_enter_during_a_long_sleep(share: float) -> None:
    state = signals(share, limit=64 << 30)
    sleep = sleep_s(state, T)
    assert MIN_SLEEP_S <= sleep <= MAX_SLEEP_S
    if sleep > MIN_SLEEP_S:
        assert state.available_bytes - sleep * 6000 * MIB >= state.limit_bytes * T.enter_ratio - 1
