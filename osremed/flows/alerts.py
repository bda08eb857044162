"""Alerts of Prometheus' Alertmanager (webhook, version 4) as events: an alert that fires begins runbooks as an event of
a host does. Pure.

`HighMemory` of `web-1:9100` is the event `alert.high_memory` of `web-1`; its end is `alert_resolved.high_memory`. An
alert is one event for as long as it fires, however often Alertmanager repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput
from osremed.core.event import Event, event_from_json

#: Labels that name the host, the most particular first.
_HOSTS = ("host", "hostname", "nodename", "node", "instance")
_PREFIX = {"firing": "alert", "resolved": "alert_resolved"}
_PORT = re.compile(r":[0-9]{1,5}\Z")
_MAX_PAIRS, _MAX_CHARS = 64, 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _name(alertname: str) -> str:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", alertname)
    return re.sub(r"[^a-z0-9]+", "_", apart.lower()).strip("_")


def _pairs(document: Any, where: str) -> dict[str, str]:
    if not isinstance(document, Mapping) or len(document) > _MAX_PAIRS:
        raise BadInput(f"not an object of at most {_MAX_PAIRS} texts", where=where)
    if not all(isinstance(value, str) for value in document.values()):
        raise BadInput("not every value is a text", where=where)
    return {str(key)[:_MAX_CHARS]: value[:_MAX_CHARS] for key, value in document.items()}


def _time_ns(text: Any, where: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        return (moment - _EPOCH) // (moment.resolution) * 1000
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{text!r} is not an instant", where=where) from error


def _host(labels: Mapping[str, str], where: str) -> str:
    found = next((labels[each] for each in _HOSTS if labels.get(each)), "")
    if not found:
        raise BadInput("no label says which host", where=where, hint=f"one of {', '.join(_HOSTS)}")
    return _PORT.sub("", found)


def event_of(alert: Any, *, where: str = "alert") -> Event:
    """BadInput for what is no alert of a host, or an alert that osremed itself has raised: it would answer itself."""
    if not isinstance(alert, Mapping) or alert.get("status") not in _PREFIX:
        raise BadInput("not an alert that is firing or resolved", where=where)
    labels = _pairs(alert.get("labels"), f"{where}.labels")
    if labels.get("source") == "osremed":
        raise BadInput("osremed has raised it", where=where, hint="do not route source=osremed here")
    status, name = str(alert["status"]), _name(labels.get("alertname", ""))
    began_ns = _time_ns(alert.get("startsAt"), f"{where}.startsAt")
    moment_ns = began_ns if status == "firing" else _time_ns(alert.get("endsAt"), f"{where}.endsAt")
    same = "|".join(f"{key}={labels[key]}" for key in sorted(labels))
    attributes = {
        "labels": labels,
        "annotations": _pairs(alert.get("annotations", {}), f"{where}.annotations"),
        "severity": labels.get("severity", ""),
    }
    document = {
        "id": f"alert-{sha256_hex(f'{status}|{began_ns}|{same}'.encode())[:32]}",
        "name": f"{_PREFIX[status]}.{name}",
        "host": _host(labels, where),
        "time_ns": moment_ns,
        "attributes": attributes,
    }
    return event_from_json(document, where=where)
