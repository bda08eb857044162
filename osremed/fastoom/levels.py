"""How a scope's level moved: told before anything is ended, so that runbooks can act gently first."""

from __future__ import annotations

from typing import Any

from osremed.core.event import Event, new_event_id
from osremed.core.reading import Missing, Value
from osremed.core.record import record
from osremed.fastoom.guard import Watch
from osremed.fastoom.model import Level, Scope, Signals, Stall
from osremed.fastoom.policy import Policy

EVENT = "memory.level"
WORDS = {Level.NONE: "none", Level.LOW: "low", Level.MEDIUM: "medium", Level.HIGH: "critical"}
_HOLD_NS = 5_000_000_000


@record
class Change:
    """`before`: the level told last."""

    scope: Scope
    before: Level
    level: Level
    signals: Signals


class Announcer:
    """What was told of each scope. A higher level is told at once, a lower one after it held for 5 s: a level that
    swings tells its peak once."""

    def __init__(self) -> None:
        self._told: dict[str, Level] = {}
        self._lower_since_ns: dict[str, int] = {}

    def note(self, watch: Watch, now_ns: int) -> Change | None:
        """The change to tell now, if there is one. A scope that cannot be measured keeps what was told."""
        if not isinstance(watch.reading, Value):
            return None
        label, level = watch.scope.label, watch.level
        told = self._told.get(label, Level.NONE)
        if level >= told:
            self._lower_since_ns.pop(label, None)
        if level == told:
            return None
        if level < told and now_ns - self._lower_since_ns.setdefault(label, now_ns) < _HOLD_NS:
            return None
        self._told[label] = level
        self._lower_since_ns.pop(label, None)
        return Change(watch.scope, told, level, watch.reading.value)


def event_of(change: Change, policy: Policy, *, host: str, time_ns: int) -> Event:
    signals = change.signals
    return Event(
        new_event_id(),
        EVENT,
        host,
        time_ns,
        {
            "action": "level",
            "level": WORDS[change.level],
            "previous": WORDS[change.before],
            "rising": change.level > change.before,
            "sensitivity": policy.of(change.scope).sensitivity,
            "scope": change.scope.label,
            "limit_bytes": signals.limit_bytes,
            "available_bytes": signals.available_bytes,
            "available_ratio": round(signals.available_ratio, 4),
            "swap_total_bytes": signals.swap_total_bytes,
            "swap_free_bytes": signals.swap_free_bytes,
            "stall": stall_document(signals.stall),
            "policy_sha256": policy.sha256,
            "missing": list(signals.missing),
        },
    )


def stall_document(stall: Stall | Missing) -> dict[str, Any]:
    """`full_ratio` is null where the kernel has no PSI."""
    if isinstance(stall, Missing):
        return stall.as_json()
    return {
        "full_ratio": None if stall.full_ratio is None else round(stall.full_ratio, 3),
        "lasting_ratio": None if stall.lasting_ratio is None else round(stall.lasting_ratio, 3),
        "refault_bytes_per_s": round(stall.refault_bytes_per_s),
        "scan_bytes_per_s": round(stall.scan_bytes_per_s),
        "reclaim_bytes_per_s": round(stall.reclaim_bytes_per_s),
    }
