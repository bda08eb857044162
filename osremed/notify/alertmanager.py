"""Messages as alerts for `POST /api/v2/alerts` of Prometheus' Alertmanager. Pure."""

from __future__ import annotations

from typing import Any

from osremed.core.clock import rfc3339
from osremed.notify.message import Kind, Message

#: States of a run that stand until somebody does something; the others are over when they are told.
_STANDING = frozenset({"AWAITING_APPROVAL", "AWAITING_PERSON", "UNDO_INCOMPLETE"})


def _name(state: str) -> str:
    return "Osremed" + "".join(word.capitalize() for word in state.split("_"))


def _alert(message: Message, name: str, ends_ns: int, link: str) -> dict[str, Any]:
    labels = {"alertname": name, "host": message.host, "severity": message.severity, "source": "osremed"}
    labels |= {key: value for key, value in (("runbook", message.runbook), ("run_id", message.run_id)) if value}
    alert = {
        "labels": labels,
        "annotations": {"summary": message.title, "description": "\n".join(message.lines)},
        "endsAt": rfc3339(ends_ns),
    }
    return {**alert, "generatorURL": link} if link else alert


def alerts_of(message: Message, hold_s: float, link: str) -> list[dict[str, Any]]:
    """The alert of the message, and the end of the one of the state before. An alert that nobody ends is over after
    `hold_s`; the labels are those it began with, or Alertmanager would take it for another."""
    alerts = []
    if message.ends in _STANDING:
        ended = _alert(message, _name(message.ends), message.time_ns, link)
        ended["labels"]["severity"] = "critical" if message.ends == "UNDO_INCOMPLETE" else "warning"
        alerts.append(ended)
    if message.kind is not Kind.RUN or message.severity != "info":
        name = _name(message.state) if message.state else f"Osremed{message.kind.value.capitalize()}"
        alert = _alert(message, name, message.time_ns + round(hold_s * 1e9), link)
        alerts.append({**alert, "startsAt": rfc3339(message.time_ns)})
    return alerts
