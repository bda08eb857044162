"""What the last look found, as the conditions every GitOps tool has: Ready, Reconciling, Stalled. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Reasons that pass by themselves, or that people wanted: nothing is stuck.
_PASSING = frozenset({"Applied", "FetchFailed", "Suspended"})

Condition = Mapping[str, str]


def conditions(
    status: Mapping[str, Any], *, looking: bool, now: str, before: Iterable[Condition] = ()
) -> tuple[Condition, ...]:
    """`status` is what a look found (`ready`, `reason`, `message`). `since` stays until a status turns.

    Ready: what Git wants is live. Reconciling: a look is under way. Stalled: somebody has to do something."""
    why = {"reason": str(status.get("reason", "")), "message": str(status.get("message", ""))}
    ready = bool(status.get("ready"))
    stalled = not ready and why["reason"] not in _PASSING
    busy = {"reason": "Looking" if looking else "Idle", "message": ""}
    earlier = {each["type"]: each for each in before}
    found = ("Ready", ready, why), ("Reconciling", looking, busy), ("Stalled", stalled, why if stalled else {})
    return tuple(_condition(kind, holds, reason, earlier, now) for kind, holds, reason in found)


def _condition(
    kind: str, holds: bool, why: Mapping[str, str], earlier: Mapping[str, Condition], now: str
) -> dict[str, str]:
    status = "True" if holds else "False"
    old = earlier.get(kind)
    since = old["since"] if old and old["status"] == status else now
    return {"type": kind, "status": status, "reason": "", "message": "", **why, "since": since}
