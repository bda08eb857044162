"""The status file: what the running guard sees, obeys and costs. Always whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.errors import Unavailable
from osremed.core.files import read_bytes, write_atomic
from osremed.core.reading import Missing, Reading, Value
from osremed.core.record import record
from osremed.fastoom import levels
from osremed.fastoom.guard import Watch
from osremed.fastoom.model import Level
from osremed.fastoom.policy import Policy
from osremed.sensors import procfs

FILE = "fastoom.json"


@record
class PolicyState:
    """What is obeyed, and what was last refused (`error` empty when the file is what is obeyed)."""

    policy: Policy
    error: str = ""
    rejected_sha256: str = ""


def level_word(watches: Sequence[Watch]) -> str:
    """The highest level of the scopes; `unknown` when none is above none and one could not be measured."""
    known = [watch.level for watch in watches if isinstance(watch.reading, Value)]
    highest = max(known, default=Level.NONE)
    if highest is Level.NONE and len(known) < len(watches):
        return "unknown"
    return highest.word


def scope_document(watch: Watch, kernel_kills: Reading[int]) -> dict[str, Any]:
    """`kernel_kills`: by the kernel's own OOM handling, which means that the guard came too late or held back."""
    if isinstance(watch.reading, Missing):
        return {"scope": watch.scope.label, "level": "unknown", "missing": [str(watch.reading)]}
    signals = watch.reading.value
    return {
        "scope": watch.scope.label,
        "level": watch.level.word,
        "limit_bytes": signals.limit_bytes,
        "available_bytes": signals.available_bytes,
        "available_ratio": round(signals.available_ratio, 4),
        "swap_total_bytes": signals.swap_total_bytes,
        "swap_free_bytes": signals.swap_free_bytes,
        "kernel_oom_kills": kernel_kills.value if isinstance(kernel_kills, Value) else kernel_kills.as_json(),
        "stall": levels.stall_document(signals.stall),
        "missing": list(signals.missing),
    }


def cost_document() -> dict[str, Any]:
    """This process's resident memory and CPU time since its start."""
    size = procfs.statm(os.getpid())
    resident = size.as_json() if isinstance(size, Missing) else size.value.resident_pages * procfs.PAGE_BYTES
    return {"rss_bytes": resident, "cpu_s": round(time.process_time(), 3)}


def write(path: str, document: dict[str, Any]) -> None:
    """OSError when it cannot be written; the old file is then whole."""
    write_atomic(path, canonical_json(document) + b"\n")


def read_running(path: str) -> dict[str, Any]:
    """The status of a daemon that runs now, known by pid and start time. Unavailable when there is none."""
    hint = "start it with `osremed fastoom run`"
    try:
        document = json.loads(read_bytes(path, limit_bytes=1 << 20))
        pid, start = int(document["pid"]), int(document["start_time_ticks"])
    except OSError as error:
        raise Unavailable(f"no status file: {error.strerror}", where=path, hint=hint) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"not a status file: {error!r}", where=path, hint=hint) from error
    reading = procfs.stat(pid)
    if isinstance(reading, Missing) or reading.value.start_time_ticks != start or reading.value.state == "Z":
        raise Unavailable(f"fastoom does not run: the daemon of pid {pid} ended", where=path, hint=hint)
    return dict(document)
