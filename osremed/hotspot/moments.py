"""`14:03:07`, `2026-11-22T14:03:07Z`, `90s ago`, `now` -> nanoseconds since the epoch."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone

from osremed.core.errors import BadInput
from osremed.core.units import parse_duration_s

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]{1,9}))?)?")
_HINT = 'write "14:03:07", "2026-11-22T14:03:07Z", "90s ago" or "now"'


def parse_moment(text: str, now_ns: int) -> int:
    """A time of day is the latest one that is past, in this host's time zone. BadInput for anything else."""
    words = text.strip()
    if words == "now":
        return now_ns
    if words.endswith(" ago"):
        return now_ns - round(parse_duration_s(words[:-4]) * 1e9)
    match = _CLOCK.fullmatch(words)
    if match:
        return _time_of_day(match, now_ns)
    if words.isascii() and words.isdigit() and 10 <= len(words) <= 19:
        return int(words.ljust(19, "0"))
    try:
        found = datetime.fromisoformat(words[:-1] + "+00:00" if words.endswith("Z") else words)
    except ValueError:
        raise BadInput(f"{text!r} is not a moment", hint=_HINT) from None
    seconds = found.replace(tzinfo=found.tzinfo or None).astimezone(timezone.utc).timestamp()
    return round(seconds * 1e6) * 1000


def _time_of_day(match: re.Match[str], now_ns: int) -> int:
    today = time.localtime(now_ns // 10**9)
    wanted = (int(match[1]), int(match[2]), int(match[3] or 0))
    for back in (0, 1):
        parts = (today.tm_year, today.tm_mon, today.tm_mday - back, *wanted, 0, 0, -1)
        found_ns = round(time.mktime(parts)) * 10**9 + int((match[4] or "0").ljust(9, "0"))
        if found_ns <= now_ns:
            return found_ns
    return found_ns
