"""Quantities in text always carry a unit: `10m`, `512MiB`, `5%`. Names in code carry theirs: `window_s`."""

from __future__ import annotations

import re

from osremed.core.errors import BadInput

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s?([A-Za-z%]*)", re.ASCII)


def _split(text: str, table: dict[str, float] | dict[str, int], kind: str, example: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise BadInput(
            f"{text!r} is not a {kind}", hint=f"write a number with a unit, such as {example}", code="input.unit"
        )
    number, unit = match.groups()
    if unit not in table:
        units = ", ".join(table)
        what = f"{text!r} has no unit" if not unit else f"{text!r}: unknown unit {unit!r}"
        raise BadInput(
            f"{what}, a {kind} needs one", hint=f"units are {units}; for example {example}", code="input.unit"
        )
    return float(number), unit


def parse_duration_s(text: str) -> float:
    """Seconds (float) of `500ms`, `10s`, `5m`, `2h`, `1d`. BadInput without a unit."""
    number, unit = _split(text, _SECONDS, "duration", "10m")
    return number * _SECONDS[unit]


def parse_bytes(text: str) -> int:
    """Bytes of `512MiB`, `4 GB`. BadInput without a unit."""
    number, unit = _split(text, _BYTES, "size", "512MiB")
    return round(number * _BYTES[unit])


def parse_ratio(text: str) -> float:
    """A ratio 0..1 of `5%`. BadInput without the sign or above 100%."""
    number, _ = _split(text, {"%": 1.0}, "share", "5%")
    if number > 100:
        raise BadInput(f"{text!r} is more than 100%", code="input.unit")
    return number / 100


def format_bytes(count: float) -> str:
    """Three significant digits with a binary unit, for people: `37.4 MiB`."""
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """`4.2 ms`, `1.31 s`, `12 min`, `24 h`, `7 d`, for people."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s"
    for limit_s, unit_s, unit in ((10800, 60, "min"), (259200, 3600, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
