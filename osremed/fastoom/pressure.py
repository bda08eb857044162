"""Signals -> level. Pure."""

from __future__ import annotations

from osremed.fastoom.model import Level, Signals, Thresholds

_FILL_BYTES_PER_S = 6000 << 20  # the fastest fill worth planning for: a few cores writing fresh pages
MIN_SLEEP_S, MAX_SLEEP_S = 0.02, 1.0


def needs_action(signals: Signals, thresholds: Thresholds) -> bool:
    """Near-OOM: the free share is at or below enter."""
    return signals.headroom_ratio <= thresholds.enter_ratio


def next_level(previous: Level, signals: Signals, thresholds: Thresholds) -> Level:
    """The level the signals call for, or the previous one for as long as they are not clearly above its line.

    A level is entered at its own line and left above that line plus the distance from enter to leave."""
    hold = thresholds.leave_ratio - thresholds.enter_ratio
    lines = (
        (Level.HIGH, thresholds.high_ratio),
        (Level.MEDIUM, thresholds.enter_ratio),
        (Level.LOW, thresholds.warn_ratio),
    )
    for level, line in lines:
        margin = hold if previous >= level else 0.0
        if signals.headroom_ratio <= line + margin:
            return level
    return Level.NONE


def target_bytes(signals: Signals, thresholds: Thresholds) -> int:
    """What should be available after an intervention."""
    return round(signals.limit_bytes * thresholds.target_ratio)


def sleep_s(signals: Signals, thresholds: Thresholds) -> float:
    """How long nothing can happen: the way down to enter at the fastest plausible fill, from 20 ms to 1 s."""
    way = signals.available_bytes - signals.limit_bytes * thresholds.enter_ratio + signals.swap_free_bytes
    return min(MAX_SLEEP_S, max(MIN_SLEEP_S, way / _FILL_BYTES_PER_S))
