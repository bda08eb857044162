"""Signals -> level, need, sleep. Pure."""

from __future__ import annotations

import os
from dataclasses import replace

from osremed.core.reading import Missing
from osremed.fastoom.model import Level, Signals, Stall, Thresholds

#: The fastest fill worth planning for: every CPU writing fresh huge pages, up to what memory buses carry.
FILL_BYTES_PER_S = min(os.cpu_count() or 1, 16) * (8 << 30)
#: Refaults below this share of the file cache a second are no thrashing, whatever the stall; above the other one they
#: are, even where the kernel cannot tell stalls (lmkd's rule: the whole cache comes back once a second).
_REFAULT_RATIO, _REFAULT_ALONE_RATIO = 0.02, 1.0
_LEAST_CACHE_BYTES = 64 << 20  # a share of next to nothing means nothing
#: Reclaim that looks at this share of the file cache a second and can take no more than a tenth of what it looks at
#: has nothing left to take: what is called available is cache in use.
_FUTILE_SCAN_RATIO, _FUTILE_TAKEN_RATIO = 0.2, 0.1
#: While programs grow, stalls count from this multiple of the gate on, and at most this much available.
_GROWING_GATE, _WIDEST_GATE_RATIO = 2, 0.5
_GROWN_BYTES, _GROWN_RATIO = 8 << 20, 0.005  #: less growth than either is none
_LASTING_LEAST_RATIO = 0.4  #: one who reads a large file beside a big idle heap was seen to stall a host by 0.33
_STIR_RATIO = 0.1  #: of a moment lost: from here on the next look is soon


def needs_action(signals: Signals, thresholds: Thresholds) -> bool:
    """Near-OOM: the free share is at or below enter, or the scope thrashes."""
    return signals.headroom_ratio <= thresholds.enter_ratio or thrashes(signals, thresholds)


def need_word(signals: Signals, thresholds: Thresholds) -> str:
    """What makes the need: "short", "growth into cache in use" or "thrashing"; empty without one."""
    if signals.headroom_ratio <= thresholds.enter_ratio:
        return "short"
    if for_growers_alone(signals, thresholds):
        return "growth into cache in use"
    return "thrashing" if thrashes(signals, thresholds) else ""


def thrashes(signals: Signals, thresholds: Thresholds, *, share: float = 1.0) -> bool:
    """Whether everything waits for memory that goes out and comes back, while little is available: near-OOM although
    the figures still look well, since MemAvailable counts the very cache that everybody needs. Where growth is
    watched and nobody grows, it must have lasted: one who reads more than there is room for stalls the host for a
    moment, too. `share` of the stall line is asked for. False when it cannot be told."""
    stall = signals.stall
    if isinstance(stall, Missing):
        return False
    if overgrows(signals, thresholds, share=share):
        return True
    if signals.available_ratio > thresholds.stall_gate_ratio:
        return False
    refaults = stall.refault_bytes_per_s / _cache_bytes(stall)
    if stall.full_ratio is None:
        return refaults >= _REFAULT_ALONE_RATIO * share
    unwatched = signals.grown_bytes is None and stall.full_ratio >= thresholds.stall_ratio * share
    return (unwatched or _lasts(stall, thresholds, share)) and refaults >= _REFAULT_RATIO * share


def overgrows(signals: Signals, thresholds: Thresholds, *, share: float = 1.0) -> bool:
    """Whether programs grow into cache that others need: everything waits, anonymous memory grew, and pages come back
    or, once swap is full if there is any, reclaim finds none to take. That is the start of thrashing, when half of the
    memory may still count as available; without the growth it would be somebody who reads much. Growth within half a
    minute counts at once, slower growth when the stall lasts. The cure is for those who grew."""
    stall = signals.stall
    if isinstance(stall, Missing) or stall.full_ratio is None:
        return False
    least = max(_GROWN_BYTES, _GROWN_RATIO * signals.limit_bytes)
    line = thresholds.stall_ratio * share
    at_once = stall.full_ratio >= line and (signals.grown_bytes or 0) >= least
    creeping = _lasts(stall, thresholds, share) and signals.crept_bytes >= least
    gate_ratio = max(thresholds.stall_gate_ratio, min(_WIDEST_GATE_RATIO, _GROWING_GATE * thresholds.stall_gate_ratio))
    if signals.available_ratio > gate_ratio or not (at_once or creeping):
        return False
    refaults = stall.refault_bytes_per_s >= _REFAULT_RATIO * share * _cache_bytes(stall)
    swappable = signals.swap_free_bytes > thresholds.enter_ratio * signals.swap_total_bytes
    return refaults or (not swappable and _futile(stall, share))


def _lasts(stall: Stall, thresholds: Thresholds, share: float) -> bool:
    line = max(thresholds.stall_ratio, _LASTING_LEAST_RATIO)
    return stall.lasting_ratio is not None and stall.lasting_ratio >= line * share


def _futile(stall: Stall, share: float) -> bool:
    scanned = stall.scan_bytes_per_s
    much = scanned >= _FUTILE_SCAN_RATIO * share * _cache_bytes(stall)
    return much and stall.reclaim_bytes_per_s <= _FUTILE_TAKEN_RATIO * scanned


def for_growers_alone(signals: Signals, thresholds: Thresholds) -> bool:
    """Whether only the growth makes the need: then nobody who did not grow may pay for it."""
    if signals.grown_bytes is None:
        return False
    without = replace(signals, grown_bytes=0, crept_bytes=0)
    return needs_action(signals, thresholds) and not needs_action(without, thresholds)


def _cache_bytes(stall: Stall) -> int:
    return max(stall.file_lru_bytes, _LEAST_CACHE_BYTES)


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
    """At or below warn, or with memory so short that a stall would count and swap is in use, or while tasks wait."""
    swapping = signals.swap_free_bytes < signals.swap_total_bytes
    low = signals.available_ratio <= thresholds.stall_gate_ratio and swapping
    stall = signals.stall
    stirs = isinstance(stall, Stall) and (stall.full_ratio or 0.0) >= _STIR_RATIO
    return low or stirs or signals.headroom_ratio <= thresholds.warn_ratio
