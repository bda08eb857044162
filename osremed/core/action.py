"""Call -> Executor -> Outcome: how a plan touches a host. The executor decides nothing and raises nothing."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Protocol

from osremed.core.record import field, record


@record
class Call:
    """One module on one host. `check` asks for the plan and its diff and changes nothing."""

    module: str
    args: Mapping[str, Any]
    host: str
    timeout_s: float
    check: bool = False


class Status(str, Enum):
    OK = "ok"
    FAILED = "failed"  #: the module ran and said no
    UNREACHABLE = "unreachable"  #: the host was not reached
    TIMED_OUT = "timed_out"  #: ended by us; what it did on the host is not known
    CANCELLED = "cancelled"  #: ended by us; what it did on the host is not known
    REFUSED = "refused"  #: never started: the call is wrong (no such module, host not in the inventory), or frozen


@record
class Outcome:
    """`result` is the module's return value; `diff` its before/after as unified text; `detail` says why
    it is not OK."""

    status: Status
    changed: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)
    diff: str = ""
    detail: str = ""
    started_ns: int = 0
    ended_ns: int = 0

    @property
    def ambiguous(self) -> bool:
        """True when the host may or may not have changed: probe or undo, never retry."""
        return self.status in (Status.TIMED_OUT, Status.CANCELLED, Status.UNREACHABLE)

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.status.value,
            "changed": self.changed,
            "result": dict(self.result),
            "diff": self.diff,
            "detail": self.detail,
            "started_ns": self.started_ns,
            "ended_ns": self.ended_ns,
        }


def outcome_from_json(document: Mapping[str, Any]) -> Outcome:
    return Outcome(**{**document, "status": Status(document["status"])})


class Executor(Protocol):
    def run(self, call: Call) -> Outcome:
        """Blocks for at most `call.timeout_s` plus a bounded clean-up. Never raises for what happens on the host."""
        ...
