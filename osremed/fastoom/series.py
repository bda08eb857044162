"""A recorded series of looks at a host: one JSON object a line, for replaying policies on it.

    {"series": "osremed/fastoom-v1", "host": ..., "started_ns": ...}
    {"at_s": 0.0, "scopes": {"node": {signals}}, "members": {"node": null}, "processes": [{...}, ...]}

`members` of the node is null: everybody. A scope that could not be measured is {"missing": reason, ...}. Processes are
those of at least 1 MiB of heap. Numbers are bytes unless the key says otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.fastoom.model import NOT_ASKED, UNREAD, Process, Scope, Signals, Stall

FORMAT = "osremed/fastoom-v1"


@record
class Look:
    """What was seen of the scopes at one time. `members`: pids of each group."""

    at_s: float
    signals: dict[str, Reading[Signals]]
    members: dict[str, frozenset[int]]
    processes: tuple[Process, ...]


def look_as_json(look: Look) -> dict[str, Any]:
    return {
        "at_s": round(look.at_s, 3),
        "scopes": {label: _signals_as_json(reading) for label, reading in look.signals.items()},
        "members": {label: sorted(pids) for label, pids in look.members.items()},
        "processes": [_process_as_json(one) for one in look.processes],
    }


def _signals_as_json(reading: Reading[Signals]) -> dict[str, Any]:
    if isinstance(reading, Missing):
        return reading.as_json()
    seen, stall = reading.value, reading.value.stall
    document = {key: getattr(seen, key) for key in _SIGNALS}
    if seen.grown_bytes is not None:
        document |= {"grown_bytes": seen.grown_bytes, "crept_bytes": seen.crept_bytes}
    if isinstance(stall, Stall):
        document["stall"] = {key: getattr(stall, key) for key in _STALL}
    return document


_SIGNALS = ("limit_bytes", "available_bytes", "swap_total_bytes", "swap_free_bytes", "anon_bytes")
_STALL = (
    "full_ratio",
    "refault_bytes_per_s",
    "file_lru_bytes",
    "scan_bytes_per_s",
    "reclaim_bytes_per_s",
    "lasting_ratio",
)


def _process_as_json(one: Process) -> dict[str, Any]:
    document: dict[str, Any] = {
        "pid": one.pid,
        "start_time_ticks": one.start_time_ticks,
        "name": one.name,
        "argv": one.argv.as_json() if isinstance(one.argv, Missing) else list(one.argv.value),
        "oom_score_adj": one.oom_score_adj,
        "heap_bytes": one.heap_bytes,
        "uid": one.uid,
    }
    for key in ("exe", "cgroup"):
        reading = getattr(one, key)
        if isinstance(reading, Value):
            document[key] = reading.value
    return document


def read_series(lines: Iterable[bytes], where: str) -> Iterator[Look]:
    """Every look, in order. BadInput with file:line for what is not a series; times must not run backwards."""
    before = -math.inf
    for number, line in enumerate(lines, 1):
        place = f"{where}:{number}"
        try:
            document = json.loads(line)
            if number == 1:
                _check_head(document, place)
                continue
            look = _look(document)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            hint = "record one with: osremed fastoom record"
            raise BadInput(f"not a look of a series: {error!r}", where=place, hint=hint) from None
        if not look.at_s >= before:
            raise BadInput(f"at_s {look.at_s} is before the line above", where=place)
        before = look.at_s
        yield look


def _check_head(document: Any, place: str) -> None:
    if not isinstance(document, dict) or document.get("series") != FORMAT:
        raise BadInput("not a series", where=place, hint=f'the first line is {{"series": "{FORMAT}"}}')


def _look(document: dict[str, Any]) -> Look:
    return Look(
        at_s=float(document["at_s"]),
        signals={str(label): _signals(one) for label, one in document["scopes"].items()},
        members={str(label): frozenset(map(_count, pids)) for label, pids in document["members"].items()},
        processes=tuple(_process(one) for one in document["processes"]),
    )


def _signals(document: dict[str, Any]) -> Reading[Signals]:
    if "missing" in document:
        return Missing(Reason(document["missing"]), str(document["source"]), str(document.get("detail", "")))
    figures = {key: _count(document.get(key, 0)) for key in _SIGNALS}
    if not 0 <= figures["available_bytes"] <= figures["limit_bytes"] or not figures["limit_bytes"]:
        raise ValueError("available_bytes is not between 0 and limit_bytes")
    stall = document.get("stall")
    lost: Stall | Missing = NOT_ASKED
    if stall is not None:
        lost = Stall(
            _share(stall["full_ratio"]),
            float(stall["refault_bytes_per_s"]),
            _count(stall["file_lru_bytes"]),
            float(stall.get("scan_bytes_per_s", 0.0)),  # this and the following are not in series of older guards
            float(stall.get("reclaim_bytes_per_s", 0.0)),
            _share(stall.get("lasting_ratio")),
        )
    return Value(
        Signals(
            figures["limit_bytes"],
            figures["available_bytes"],
            figures["swap_total_bytes"],
            figures["swap_free_bytes"],
            stall=lost,
            anon_bytes=figures["anon_bytes"],
            grown_bytes=_count(document["grown_bytes"]) if "grown_bytes" in document else None,
            crept_bytes=_count(document.get("crept_bytes", 0)),
        )
    )


def _share(value: Any) -> float | None:
    return None if value is None else float(value)


def _process(document: dict[str, Any]) -> Process:
    argv = document["argv"]
    unread = isinstance(argv, dict)
    return Process(
        pid=_count(document["pid"]),
        start_time_ticks=_count(document["start_time_ticks"]),
        name=str(document["name"]),
        argv=Missing(Reason(argv["missing"]), str(argv["source"])) if unread else Value(tuple(map(str, argv))),
        oom_score_adj=int(document["oom_score_adj"]),
        heap_bytes=_count(document["heap_bytes"]),
        uid=_count(document.get("uid", 0)),
        exe=Value(str(document["exe"])) if "exe" in document else UNREAD,
        cgroup=Value(str(document["cgroup"])) if "cgroup" in document else UNREAD,
    )


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f"not a count: {value!r}")
    return value


def scope_of(label: str) -> Scope:
    return Scope("" if label == "node" else label)
