"""Event: an instant worth telling. Spooled until acknowledged, delivered at least once, dropped twice by its id."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput
from osremed.core.record import field, record

_NAME = re.compile(r"(?=.{3,128}\Z)[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_CHECKS = (("id", _ID), ("name", _NAME), ("host", _HOST))
RESERVED = frozenset({"id", "name", "host", "time_ns"})
_KEYS = RESERVED | {"attributes"}


@record
class Event:
    """`name` is dotted lower case (`memory.near_oom`); `time_ns` is nanoseconds since the epoch on `host`;
    `attributes` are JSON values whose numbers carry their unit in the key (`available_bytes`)."""

    id: str
    name: str
    host: str
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "host": self.host,
            "time_ns": self.time_ns,
            "attributes": dict(self.attributes),
        }


def new_event_id() -> str:
    return os.urandom(16).hex()


def event_from_json(document: Any, *, where: str = "event") -> Event:
    """The Event, every field checked; BadInput names the field. Hosts are untrusted: nothing else gets past here."""
    if not isinstance(document, dict):
        raise BadInput("an event must be a JSON object", where=where)
    if not document.keys() <= _KEYS:
        unknown = sorted(set(document) - _KEYS)
        raise BadInput(f"unknown key {unknown[0]!r}", where=where, hint="keys: id, name, host, time_ns, attributes")
    for key, pattern in _CHECKS:
        value = document.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise BadInput(f"{key} {value!r} does not match {pattern.pattern}", where=where)
    time_ns, attributes = document.get("time_ns"), document.get("attributes", {})
    if not isinstance(time_ns, int) or isinstance(time_ns, bool) or not 0 < time_ns < 1 << 63:
        raise BadInput(f"time_ns {time_ns!r} is not a positive 64-bit integer", where=where)
    if not isinstance(attributes, dict):
        raise BadInput("attributes must be an object", where=where)
    if not RESERVED.isdisjoint(attributes):
        shadowed = min(RESERVED & set(attributes))
        raise BadInput(f"attribute {shadowed!r} is a field of the event itself", where=where)
    try:
        canonical_json(attributes)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"attributes are not JSON: {error}", where=where) from error
    return Event(document["id"], document["name"], document["host"], time_ns, attributes)
