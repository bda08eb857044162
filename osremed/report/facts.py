"""Rows from documents that hosts sent. Nothing is trusted: what is absent or of the wrong type is a Missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.event import Event
from osremed.core.language import filled
from osremed.core.reading import Missing, Reason
from osremed.core.record import record
from osremed.report.model import Moment

#: Rows of one table; what is beyond is not listed.
LIMIT_ROWS = 100
#: No size, time or count of a real host is larger; a number above would overflow a division.
LIMIT_NUMBER = 2**63


@record
class Killed:
    pid: int | Missing
    name: str | Missing
    cmdline: str | Missing
    oom_score_adj: int | Missing
    heap_bytes: int | Missing
    why: str | Missing
    freed: str | Missing


@record
class Spared:
    pid: int | Missing
    name: str | Missing
    why: str | Missing


def missing_at(document: Any, key: str, source: str) -> Missing:
    """The Missing that stands at `key`, or the one that says why the value there is none."""
    if not isinstance(document, Mapping) or key not in document:
        return Missing(Reason.NO_DATA, source, f"no {key}")
    value = document[key]
    if isinstance(value, Mapping) and "missing" in value:
        try:
            return Missing(Reason(value["missing"]), str(value.get("source", source)), str(value.get("detail", "")))
        except ValueError:
            return Missing(Reason.MALFORMED, source, f"{key} has an unknown reason")
    return Missing(Reason.MALFORMED, source, f"{key} has the wrong type or is out of range")


def number_at(document: Any, key: str, source: str) -> float | Missing:
    """A number from 0 up to LIMIT_NUMBER."""
    value = document.get(key) if isinstance(document, Mapping) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < LIMIT_NUMBER:
        return value
    return missing_at(document, key, source)


def int_at(document: Any, key: str, source: str) -> int | Missing:
    """An integer of any sign, below LIMIT_NUMBER."""
    value = document.get(key) if isinstance(document, Mapping) else None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LIMIT_NUMBER:
        return value
    return missing_at(document, key, source)


def text_at(document: Any, key: str, source: str) -> str | Missing:
    """A string, or an argument list joined with spaces."""
    value = document.get(key) if isinstance(document, Mapping) else None
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return value if isinstance(value, str) else missing_at(document, key, source)


def rows_at(document: Any, key: str, source: str) -> tuple[Mapping[str, Any], ...] | Missing:
    """The objects of a list; entries that are no objects make the whole Missing(MALFORMED)."""
    value = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(value, list):
        return missing_at(document, key, source)
    if not all(isinstance(row, Mapping) for row in value):
        return Missing(Reason.MALFORMED, source, f"{key} holds something that is not an object")
    return tuple(value)


def _freed(row: Mapping[str, Any]) -> str | Missing:
    value = row.get("freed")
    if isinstance(value, bool):
        return filled("yes") if value else filled("not yet when reported")
    return text_at(row, "freed", "event")


def killed(event: Event) -> tuple[Killed, ...] | Missing:
    rows = rows_at(event.attributes, "killed", "event")
    if isinstance(rows, Missing):
        return rows
    return tuple(
        Killed(
            int_at(row, "pid", "event"),
            text_at(row, "name", "event"),
            text_at(row, "cmdline", "event"),
            int_at(row, "oom_score_adj", "event"),
            int_at(row, "heap_bytes", "event"),
            text_at(row, "why", "event"),
            _freed(row),
        )
        for row in rows[:LIMIT_ROWS]
    )


def spared(event: Event) -> tuple[Spared, ...] | Missing:
    rows = rows_at(event.attributes, "spared", "event")
    if isinstance(rows, Missing):
        return rows
    return tuple(
        Spared(int_at(row, "pid", "event"), text_at(row, "name", "event"), text_at(row, "why", "event"))
        for row in rows[:LIMIT_ROWS]
    )


def time_of(moment: Moment) -> int | Missing:
    """Wall clock nanoseconds that a calendar can hold."""
    at_ns = moment.at_ns
    if isinstance(at_ns, Missing) or 0 < at_ns < LIMIT_NUMBER:
        return at_ns
    return Missing(Reason.MALFORMED, moment.label, "not a time")


def elapsed_s(event: Event, start: str, end: str) -> float | Missing:
    """Seconds between two wall clock attributes of the event."""
    first, last = int_at(event.attributes, start, "event"), int_at(event.attributes, end, "event")
    if isinstance(first, Missing):
        return first
    if isinstance(last, Missing):
        return last
    if not 0 < first <= last:
        return Missing(Reason.MALFORMED, "event", f"{start} and {end} are not in order")
    return (last - first) / 1e9
