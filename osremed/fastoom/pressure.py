"""Signals -> level, need, sleep. Pure."""

from __future__ import annotations

import os

from osremed.core.reading import Missing
from osremed.fastoom.model import Level, Signals, Stall, Thresholds

#: The fastest fill worth planning for: every CPU writing fresh huge pages, up to what memory buses carry.
FILL_BYTES_PER_S = min(os.cpu_count() or 1, 16) * (8 << 30)
#: Refaults below this share of the file cache a second are no thrashing, whatever the stall; above the other one they
#: are, even where the kernel cannot tell stalls (lmkd's rule: the whole cache comes back once a second).
_REFAULT_RATIO, _REFAULT_ALONE_RATIO = 0.02, 1.0
_LEAST_CACHE_BYTES = 64 << 20  # a share of next to nothing means nothing


def needs_action(signals: Signals, thresholds: Thresholds) -> bool:
    """Near-OOM: the free share is at or below enter, or the scope thrashes."""
    return signals.headroom_ratio <= thresholds.enter_ratio or thrashes(signals, thresholds)


def thrashes(signals: Signals, thresholds: Thresholds, *, share: float = 1.0) -> bool:
    """Whether everything waits for memory that goes out and comes back, while little is available: near-OOM although
    the figures still look well, since MemAvailable counts the very cache that everybody needs. `share` of the stall
    line is asked for. False when it cannot be told."""
    stall = signals.stall
    if isinstance(stall, Missing) or signals.available_ratio > thresholds.stall_gate_ratio:
        return False
    refaults = _refault_ratio(stall)
    if stall.full_ratio is None:
        return refaults >= _REFAULT_ALONE_RATIO * share
    return stall.full_ratio >= thresholds.stall_ratio * share and refaults >= _REFAULT_RATIO * share


def _refault_ratio(stall: Stall) -> float:
    return stall.refault_bytes_per_s / max(stall.file_lru_bytes, _LEAST_CACHE_BYTES)


def next_level(previous: Level, signals: Signals, thresholds: Thresholds) -> Level:
    """The level the signals call for, or the previous one for as long as they are not clearly above its line.

    A level is entered at its own line and left above that line plus the distance from enter to leave. Thrashing is
    medium; it is over at half of its line."""
    hold = thresholds.leave_ratio - thresholds.enter_ratio
    lines = (
        (Level.HIGH, thresholds.high_ratio),
        (Level.MEDIUM, thresholds.enter_ratio),
        (Level.LOW, thresholds.warn_ratio),
    )
    called = Level.NONE
    for level, line in lines:
        margin = hold if previous >= level else 0.0
        if signals.headroom_ratio <= line + margin:
            called = level
            break
    if thrashes(signals, thresholds, share=0.5 if previous >= Level.MEDIUM else 1.0):
        return max(called, Level.MEDIUM)
    return called


def target_bytes(signals: Signals, thresholds: Thresholds) -> int:
    """What should be available after an intervention."""
    return round(signals.limit_bytes * thresholds.target_ratio)


def deficit_bytes(signals: Signals, thresholds: Thresholds) -> int:
    """What an intervention should free: up to the target; while it thrashes at least the way from enter to target,
    since what is called available is not."""
    deficit = target_bytes(signals, thresholds) - signals.available_bytes
    if thrashes(signals, thresholds):
        return max(deficit, round(signals.limit_bytes * (thresholds.target_ratio - thresholds.enter_ratio)))
    return deficit


def room_bytes(signals: Signals, thresholds: Thresholds) -> int:
    """What can still be taken before enter, swap included."""
    way = signals.available_bytes - signals.limit_bytes * thresholds.enter_ratio + signals.swap_free_bytes
    return max(0, int(way))


def sleep_s(signals: Signals, thresholds: Thresholds, falling_bytes_per_s: float = 0.0) -> float:
    """How long nothing can happen unseen: the fastest fill, or the trend if that is faster, is looked at `looks` times
    on its way through the room; from floor to ceiling. Half the floor while a trend leads to the limit within it."""
    room = room_bytes(signals, thresholds)
    rate = max(FILL_BYTES_PER_S, falling_bytes_per_s)
    floor_s = thresholds.floor_s
    if falling_bytes_per_s * floor_s * 10 > room:
        floor_s /= 2
    ceiling_s = max(thresholds.floor_s, 0.1) if near(signals, thresholds) else thresholds.ceiling_s
    return min(ceiling_s, max(floor_s, room / rate / thresholds.looks))


def near(signals: Signals, thresholds: Thresholds) -> bool:
    """At or below warn, or with memory so short that a stall would count and swap is in use."""
    swapping = signals.swap_free_bytes < signals.swap_total_bytes
    low = signals.available_ratio <= thresholds.stall_gate_ratio and swapping
    return low or signals.headroom_ratio <= thresholds.warn_ratio
