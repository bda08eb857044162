"""Interventions -> events on disk. The evidence of a decision is durable before the next one is made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput
from osremed.core.event import Event, event_from_json, new_event_id
from osremed.core.files import read_bytes, write_atomic
from osremed.core.outbox import Outbox
from osremed.core.reading import Missing
from osremed.fastoom import pressure
from osremed.fastoom.levels import stall_document
from osremed.fastoom.model import Intervention, Killed, Process
from osremed.fastoom.policy import Policy

EVENT = "memory.near_oom"
_CMDLINE_SHOWN = 500
_MAX_PENDING = 64


def event_of(intervention: Intervention, policy: Policy, *, host: str, time_ns: int, event_id: str = "") -> Event:
    signals = intervention.signals
    after = intervention.available_after_bytes
    freed: Any = 0
    if intervention.killed:
        freed = after.as_json() if isinstance(after, Missing) else max(0, after - signals.available_bytes)
    return Event(
        event_id or new_event_id(),
        EVENT,
        host,
        time_ns,
        {
            "level": intervention.level.word,
            "sensitivity": policy.of(intervention.scope).sensitivity,
            "scope": intervention.scope.label,
            "limit_bytes": signals.limit_bytes,
            "available_bytes": signals.available_bytes,
            "available_ratio": round(signals.available_ratio, 4),
            "swap_total_bytes": signals.swap_total_bytes,
            "swap_free_bytes": signals.swap_free_bytes,
            "need": pressure.need_word(signals, policy.of(intervention.scope).thresholds),
            "stall": stall_document(signals.stall),
            "grown_bytes": signals.grown_bytes,
            "crept_bytes": signals.crept_bytes,
            "target_bytes": intervention.target_bytes,
            "deficit_bytes": intervention.deficit_bytes,
            "action": intervention.action,
            "killed": [_killed(one) for one in intervention.killed],
            "spared": [
                {"pid": one.pid, "name": one.name, "why": one.why, "heap_bytes": one.heap_bytes}
                for one in intervention.spared
            ],
            "freed_bytes": freed,
            "available_after_bytes": after.as_json() if isinstance(after, Missing) else after,
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


class Recorder(Outbox):
    """The journal of interventions. It is opened at once, so that a guard says when it starts that it cannot record.

    What was signalled and is not yet recorded stands in the in-flight file, on tmpfs so that no disk delays a kill: a
    guard that dies in between still tells."""

    def __init__(self, directory: str, in_flight_path: str) -> None:
        super().__init__(directory, most=_MAX_PENDING)
        self._in_flight_path = in_flight_path
        self.open()

    def in_flight(self, events: Mapping[str, Event]) -> None:
        """Scope -> the event that its batch will become. Nothing in flight removes the file."""
        try:
            if events:
                document = {scope: event.as_json() for scope, event in events.items()}
                os.makedirs(os.path.dirname(self._in_flight_path), mode=0o700, exist_ok=True)
                write_atomic(self._in_flight_path, canonical_json(document), mode=0o600)
            elif os.path.exists(self._in_flight_path):
                os.unlink(self._in_flight_path)
        except OSError as error:
            self.failure = f"{self._in_flight_path}: {error.strerror}"

    def recover(self) -> int:
        """Records what a guard that died left in flight, as `interrupted`; how many."""
        try:
            found = [event_from_json(each) for each in json.loads(read_bytes(self._in_flight_path)).values()]
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, AttributeError, BadInput) as error:
            self.failure = f"{self._in_flight_path}: {error}"
            return 0
        for event in found:
            self.tell([replace(event, attributes={**event.attributes, "action": "interrupted"})])
        if not self.pending:
            self.in_flight({})
        return len(found)
