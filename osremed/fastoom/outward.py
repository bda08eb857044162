"""What others read: metrics for Prometheus as a text file, fields for the system journal. No reader is waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.event import Event
from osremed.fastoom.selfcare import send_datagram

METRICS_FILE = "fastoom.prom"
JOURNAL_SOCKET = "/run/systemd/journal/socket"
_LEVELS = {"none": 0, "low": 1, "medium": 2, "high": 3}

#: metric -> (kind, help, key of the status document)
_HOST = (
    ("polls_total", "counter", "Looks at the scopes.", "polls"),
    ("interventions_total", "counter", "Batches that were ended.", "interventions"),
    ("killed_total", "counter", "Processes that were ended and are gone.", "killed"),
    ("events_pending", "gauge", "Events that are not on disk yet.", "events_pending"),
    ("events_lost_total", "counter", "Events dropped because the disk took none.", "events_lost"),
    ("resident_bytes", "gauge", "Resident memory of the guard.", "rss_bytes"),
    ("cpu_seconds_total", "counter", "CPU time of the guard.", "cpu_s"),
)
#: metric -> (help, key of a scope's document)
_SCOPE = (
    ("limit_bytes", "All that programs of the scope could have.", "limit_bytes"),
    ("available_bytes", "What they can still have.", "available_bytes"),
    ("swap_total_bytes", "Swap that counts for the scope.", "swap_total_bytes"),
    ("swap_free_bytes", "What of it is free.", "swap_free_bytes"),
)


def metrics(status: Mapping[str, Any]) -> bytes:
    """The status document in Prometheus's text format. What is unknown has no sample; `up` says so for scopes."""
    lines = []
    for name, kind, text, key in _HOST:
        if isinstance(status[key], (int, float)):
            lines += [*_head(name, kind, text), f"osremed_fastoom_{name} {status[key]}"]
    lines += _head("policy_good", "gauge", "1 when the policy file is what is obeyed.")
    lines.append(f"osremed_fastoom_policy_good {int(not status['policy_error'])}")
    lines += _head("scope_up", "gauge", "1 when the scope can be measured.")
    lines += [f"{_sample('scope_up', one)} {int('limit_bytes' in one)}" for one in status["scopes"]]
    lines += _head("scope_level", "gauge", "0 none, 1 low, 2 medium (the guard acts), 3 critical.")
    known = [one for one in status["scopes"] if one["level"] in _LEVELS]
    lines += [f"{_sample('scope_level', one)} {_LEVELS[one['level']]}" for one in known]
    lines += _head("scope_kernel_oom_kills_total", "counter", "Processes that the kernel's own OOM handling ended.")
    counted = [one for one in status["scopes"] if isinstance(one.get("kernel_oom_kills"), int)]
    lines += [f"{_sample('scope_kernel_oom_kills_total', one)} {one['kernel_oom_kills']}" for one in counted]
    for name, text, key in _SCOPE:
        lines += _head(f"scope_{name}", "gauge", text)
        lines += [f"{_sample(f'scope_{name}', one)} {one[key]}" for one in status["scopes"] if key in one]
    return ("\n".join(lines) + "\n").encode()


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP osremed_fastoom_{name} {text}", f"# TYPE osremed_fastoom_{name} {kind}"]


def _sample(name: str, scope: Mapping[str, Any]) -> str:
    label = scope["scope"].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'osremed_fastoom_{name}{{scope="{label}"}}'


def journal_entry(event: Event) -> bytes:
    """The event in the journal's native protocol: a line for people, and fields to select by."""
    facts = event.attributes
    victims = ", ".join(f"{one['name']}[{one['pid']}]" for one in facts.get("killed", ()))
    message = f"{facts['scope']}: {facts['action']} {victims}".rstrip() + f", level {facts['level']}"
    urgent = facts["action"] in ("killed", "nothing_to_kill", "held_back", "interrupted")
    fields = {
        "MESSAGE": message,
        "PRIORITY": "4" if urgent else "6",
        "SYSLOG_IDENTIFIER": "osremed-fastoom",
        "OSREMED_EVENT": event.name,
        "OSREMED_EVENT_ID": event.id,
        "OSREMED_SCOPE": facts["scope"],
        "OSREMED_ACTION": facts["action"],
        "OSREMED_LEVEL": facts["level"],
        "OSREMED_AVAILABLE_BYTES": str(facts["available_bytes"]),
        "OSREMED_LIMIT_BYTES": str(facts["limit_bytes"]),
        "OSREMED_POLICY_SHA256": facts["policy_sha256"],
        "OSREMED_KILLED": canonical_json([one["pid"] for one in facts.get("killed", ())]).decode(),
    }
    return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    """With its length in front: a value may hold newlines, and names are the victims' own choice."""
    data = value.encode("utf-8", "replace")
    return name.encode("ascii") + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def to_journal(event: Event, path: str) -> None:
    """Told if somebody listens; dropped if not, or if the journal is full. An empty path is nobody."""
    if path:
        send_datagram(path, journal_entry(event))
