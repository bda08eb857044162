"""The verbs of the history: how the balance went, and what grew."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.answer import Answer
from osremed.core.clock import rfc3339
from osremed.core.columns import at_right, padded
from osremed.core.errors import BadInput, Unavailable
from osremed.core.language import filled
from osremed.core.paths import host_paths
from osremed.core.reading import Missing, Reading
from osremed.core.units import format_bytes, format_duration, parse_duration_s
from osremed.panorama.detect import detect
from osremed.panorama.document import growth_document
from osremed.panorama.history import EVERY_S, Past, grew, history_directory, read_history, series
from osremed.panorama.model import NODE, Panorama
from osremed.panorama.render import render_growth

_LONGEST_S = 31 * 86400.0
_RECENT_S = 3600.0  #: growth is judged over the last hour where nobody asked for another span
_STALE_NS = 3 * EVERY_S * 1e9
_PLOTTED_S = 86400.0
_LEVELS = "▁▂▃▄▅▆▇█"
_CELLS = 30


def history(*, since: str = "24h") -> Answer:
    """How each line of the balance went since then. Unavailable without a history, BadInput for a span out of range."""
    past = _past(since)
    plotted = series(past)
    document = {**plotted, "damaged": list(past.damaged), "holes": past.holes, "moments": len(past.moments)}
    return Answer(document, _history_text(past, plotted))


def grown(*, since: str = "24h") -> Answer:
    """What grew since then, the most first."""
    past = _past(since)
    growth = grew(past)
    text = "\n\n".join(filter(None, (render_growth(growth), _said(past))))
    return Answer({**growth_document(growth), "damaged": list(past.damaged), "holes": past.holes}, text)


def with_history(panorama: Panorama) -> Panorama:
    """The panorama of the host with the growth of the last hour, and findings that rest on it. As it is when growth was
    measured already, or without a history that goes on until now."""
    if panorama.growth is not None or panorama.scope != NODE:
        return panorama
    past = _read(_RECENT_S)
    if isinstance(past, Missing) or time.time_ns() - past.value.moments[-1].at_ns > _STALE_NS:
        return panorama
    judged = dataclasses.replace(panorama, growth=grew(past.value))
    return dataclasses.replace(judged, findings=detect(judged))


def plotted() -> Mapping[str, Any] | None:
    """The last day for the page's trends; None without a history."""
    past = _read(_PLOTTED_S)
    return None if isinstance(past, Missing) else series(past.value)


def _read(since_s: float) -> Reading[Past]:
    return read_history(history_directory(host_paths()), since_s, time.time_ns())


def _past(since: str) -> Past:
    since_s = parse_duration_s(since)
    if not 0 < since_s <= _LONGEST_S:
        raise BadInput(f"a span of {since} is out of range", hint="more than 0 and up to 31d")
    past = _read(since_s)
    if isinstance(past, Missing):
        raise Unavailable(f"no history: {past}", hint="osremed agent run keeps one; its config may say history: false")
    return past.value


def _history_text(past: Past, plotted: Mapping[str, Any]) -> str:
    first, last = past.moments[0].at_ns, past.moments[-1].at_ns
    span = (str(len(past.moments)), rfc3339(first)[:19], rfc3339(last)[:19])
    heads = (padded(filled("LINE"), 24), at_right(filled("LOW"), 10), at_right(filled("HIGH"), 10))
    lines = [f"  {' '.join(heads)}  {filled('TREND')}"]
    for name, points in plotted["lines"].items():
        known = [point for point in points if point is not None]
        if any(known):
            low, high = format_bytes(min(known)), format_bytes(max(known))
            lines.append(f"  {padded(filled(name), 24)} {low:>10} {high:>10}  {_trend(points)}")
    return "\n".join(filter(None, (filled("{1} moments from {2} to {3} UTC", *span), *lines, _said(past))))


def _trend(points: Sequence[int | None]) -> str:
    """Blocks from the lowest to the highest; a space where nothing is known."""
    step = max(1, -(-len(points) // _CELLS))
    picked = points[::-1][::step][::-1]
    known = [point for point in picked if point is not None]
    low, span = min(known, default=0), max(known, default=0) - min(known, default=0)
    return "".join(
        " " if point is None else _LEVELS[(point - low) * (len(_LEVELS) - 1) // span if span else 0] for point in picked
    )


def _said(past: Past) -> str:
    """Damage and holes, in words."""
    said = []
    if past.holes:
        said.append(filled("{1} holes: the agent did not run, or could not write", str(past.holes)))
    if past.damaged:
        said.append(filled("{1} entries could not be read, the first: {2}", str(len(past.damaged)), past.damaged[0]))
    span = past.moments[-1].at_ns - past.moments[0].at_ns
    return "; ".join([*said, filled("the span is {1}", format_duration(span / 1e9))]) if said else ""
