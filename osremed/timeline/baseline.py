"""What the GPUs were like when this boot's driver was first seen, and when they were last: so that a watch that starts
anew still tells a lost link, and errors that came while nobody watched."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.files import read_bytes, write_atomic
from osremed.core.record import field, record
from osremed.sensors.nvml import Snapshot
from osremed.timeline.model import snapshot_as_json, snapshot_from_json

_LIMIT_BYTES = 16 << 20


@record
class Baseline:
    """By UUID. `gpus` is the most there ever were. All of it is of one boot and one driver: counters begin anew with
    either."""

    gpus: int = 0
    first: Mapping[str, Snapshot] = field(default_factory=dict)
    last: Mapping[str, Snapshot] = field(default_factory=dict)


def load(path: str, boot_id: str, driver: str) -> Baseline:
    """What was kept; an empty one for another boot or driver, and for what cannot be read."""
    try:
        document = json.loads(read_bytes(path, limit_bytes=_LIMIT_BYTES))
        if (document["boot_id"], document["driver"]) != (boot_id, driver):
            return Baseline()
        parts = [{uuid: snapshot_from_json(each) for uuid, each in document[key].items()} for key in ("first", "last")]
        return Baseline(int(document["gpus"]), *parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Baseline()


def save(path: str, boot_id: str, driver: str, kept: Baseline) -> None:
    """OSError when it cannot be written."""
    document: dict[str, Any] = {"boot_id": boot_id, "driver": driver, "gpus": kept.gpus}
    for key, snapshots in (("first", kept.first), ("last", kept.last)):
        document[key] = {uuid: snapshot_as_json(each) for uuid, each in snapshots.items()}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_atomic(path, canonical_json(document) + b"\n")
