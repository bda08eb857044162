"""`osremed heap PID`: what is on the heap of one process, and what grows there."""

from __future__ import annotations

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode
from osremed.core.reading import Reason
from osremed.core.units import parse_duration_s
from osremed.panorama.heaps.collect import Wish, collect_heaps
from osremed.panorama.heaps.model import NoHeap
from osremed.panorama.heaps.render import render_heaps

_LONGEST_S = 3600.0
_MOST_ROWS = 1000


def heap(*, pid: str, growth: str | None = None, limit: str = "10s", rows: int = 20, consent: bool = False) -> Answer:
    """Types, holders and growth of the heap of process `pid`.

    Exit code NOT_FOUND when it does not exist or ended, UNAVAILABLE when its heap cannot be read. BadInput for a pid
    that is no number and for durations out of range."""
    if not (pid.isascii() and pid.isdigit() and 0 < int(pid) < 1 << 31):
        raise BadInput(f"{pid!r} is not a process id", hint="give the number that ps prints")
    wish = Wish(
        growth_s=None if growth is None else _duration_s("growth", growth),
        limit_s=_duration_s("limit", limit),
        consent=consent,
        rows=rows,
    )
    if not 1 <= rows <= _MOST_ROWS:
        raise BadInput(f"rows {rows} is out of range", hint=f"give 1 to {_MOST_ROWS}")
    heaps = collect_heaps([int(pid)], wish)
    return Answer({"heaps": [one.as_json() for one in heaps]}, render_heaps(heaps), _exit_code(heaps[0]))


def _duration_s(name: str, text: str) -> float:
    seconds = parse_duration_s(text)
    if not 0 < seconds <= _LONGEST_S:
        raise BadInput(f"{name} of {text} is out of range", hint=f"give more than 0s and up to {_LONGEST_S:.0f}s")
    return seconds


def _exit_code(one: object) -> int:
    if not isinstance(one, NoHeap):
        return ExitCode.OK
    return ExitCode.NOT_FOUND if one.missing.reason is Reason.GONE else ExitCode.UNAVAILABLE
