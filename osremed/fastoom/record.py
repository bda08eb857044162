"""Interventions -> events on disk. The evidence of a decision is durable before the next one is made."""

from __future__ import annotations

from typing import Any

from osremed.core.event import Event, new_event_id
from osremed.core.journal import Journal
from osremed.core.reading import Missing
from osremed.fastoom.model import Intervention, Killed, Process
from osremed.fastoom.policy import Policy

EVENT = "memory.near_oom"
_CMDLINE_SHOWN = 500
_MAX_PENDING = 64


def event_of(intervention: Intervention, policy: Policy, *, host: str, time_ns: int) -> Event:
    signals = intervention.signals
    gained = intervention.available_after_bytes - signals.available_bytes
    return Event(
        new_event_id(),
        EVENT,
        host,
        time_ns,
        {
            "level": intervention.level.word,
            "sensitivity": policy.sensitivity,
            "scope": intervention.scope.label,
            "limit_bytes": signals.limit_bytes,
            "available_bytes": signals.available_bytes,
            "available_ratio": round(signals.available_ratio, 4),
            "target_bytes": intervention.target_bytes,
            "deficit_bytes": intervention.deficit_bytes,
            "action": intervention.action,
            "killed": [_killed(one) for one in intervention.killed],
            "spared": [
                {"pid": one.pid, "name": one.name, "why": one.why, "heap_bytes": one.heap_bytes}
                for one in intervention.spared
            ],
            "freed_bytes": max(0, gained) if intervention.killed else 0,
            "available_after_bytes": intervention.available_after_bytes,
            "policy_sha256": policy.sha256,
            "crossed_ns": intervention.crossed_ns,
            "decided_ns": intervention.decided_ns,
            "signalled_ns": intervention.signalled_ns,
            "freed_ns": intervention.freed_ns,
            "missing": list(intervention.missing),
        },
    )


def command_line(process: Process) -> str:
    """For people and records: cut after 500 characters; the reason in parentheses when it could not be read."""
    if isinstance(process.argv, Missing):
        return f"({process.argv})"
    return " ".join(process.argv.value)[:_CMDLINE_SHOWN]


def _killed(one: Killed) -> dict[str, Any]:
    process = one.candidate.process
    return {
        "pid": process.pid,
        "start_time_ticks": process.start_time_ticks,
        "name": process.name,
        "cmdline": command_line(process),
        "oom_score_adj": process.oom_score_adj,
        "heap_bytes": process.heap_bytes,
        "why": one.candidate.why,
        "freed": one.freed,
    }


class Recorder:
    """The journal, and the events it would not take (disk full, read-only): kept in memory, in order, at most 64, and
    offered again with the next one. `failure` says why, empty while all is on disk; `lost` counts those dropped."""

    def __init__(self, directory: str) -> None:
        self.journal = Journal(directory, max_segments=16)
        self.pending: list[Event] = []
        self.failure = ""
        self.lost = 0

    def record(self, event: Event) -> None:
        """Returns once the event is on disk, or kept in memory because that failed."""
        self.pending.append(event)
        self.flush()

    def flush(self) -> None:
        try:
            while self.pending:
                self.journal.append(self.pending[0].as_json())
                del self.pending[0]
            self.failure = ""
        except OSError as error:
            self.failure = f"{self.journal.directory}: {error.strerror}"
            self.lost += max(0, len(self.pending) - _MAX_PENDING)
            del self.pending[:-_MAX_PENDING]

    def close(self) -> None:
        self.flush()
        self.journal.close()
