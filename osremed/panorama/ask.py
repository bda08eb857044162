"""What somebody wants to know, checked, and the panorama that answers it: the same for the verb and the collector."""

from __future__ import annotations

from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.panorama.collect import collect_panorama
from osremed.panorama.heaps.collect import Wish
from osremed.panorama.heaps.collect import longest_s as longest_heap_s
from osremed.panorama.model import Panorama
from osremed.panorama.past import with_history
from osremed.panorama.sources import HeapWish, kernel_sources

_MOST_ROWS = 10_000
_LONGEST_S = 600.0
_LONGEST_TRACE_S = 60.0
_MOST_HEAPS = 16
_HEAP_GRACE_S = 5.0
_TRACE_S = 2.0


@record
class Ask:
    """`growth_s` > 0 looks twice, so far apart. `heaps`: so many of the largest; `pid`: this one's, 0 for none.
    `trace_s`: page allocations are traced for so long; None: for 2 s when too much is unaccounted for."""

    cgroup: str | None = None
    files: int = 20
    processes: int = 20
    growth_s: float = 0.0
    heaps: int = 0
    pid: int = 0
    consent: bool = False
    trace_s: float | None = None
    timeout_s: float = 10.0


def look(ask: Ask) -> Panorama:
    """The panorama, with the growth of the last hour out of the history where none was measured. BadInput, before
    anything is read, for what is out of range."""
    check(ask)
    heaps = HeapWish(ask.heaps, (ask.pid,) if ask.pid else (), ask.growth_s, ask.consent)
    found = collect_panorama(
        cgroup=ask.cgroup, files=ask.files, processes=max(ask.processes, ask.heaps), growth_s=ask.growth_s,
        sources=kernel_sources(
            heaps if _heaps_of(ask) else None, files=ask.files, trace_s=ask.trace_s, trace_if_large_s=_TRACE_S
        ),
        timeout_s=ask.timeout_s + _heaps_s(ask),
    )  # fmt: skip
    return with_history(found)


def longest_s(ask: Ask) -> float:
    """No look takes longer: two scans and the time between them, heaps, the trace."""
    scans = 2 if ask.growth_s else 1
    trace_s = _TRACE_S if ask.trace_s is None else ask.trace_s
    return scans * (ask.timeout_s + _heaps_s(ask)) + ask.growth_s + trace_s + _HEAP_GRACE_S


def process_id(text: str) -> int:
    """The number in `text`, 0 for none. BadInput for what is no process id."""
    if text and not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise BadInput(f"{text!r} is not a process id", hint="give the number that ps prints")
    return int(text or 0)


def check(ask: Ask) -> None:
    """BadInput for what is out of range."""
    for name, value, most in (
        ("files", ask.files, _MOST_ROWS), ("processes", ask.processes, _MOST_ROWS), ("heaps", ask.heaps, _MOST_HEAPS),
    ):  # fmt: skip
        if not 0 <= value <= most:
            raise BadInput(f"{name} {value} is out of range", hint=f"give 0 to {most}")
    for name, seconds, longest_s in (
        ("timeout", ask.timeout_s, _LONGEST_S), ("growth", ask.growth_s or 1.0, _LONGEST_S),
        ("trace", ask.trace_s or 1.0, _LONGEST_TRACE_S),
    ):  # fmt: skip
        if not 0 < seconds <= longest_s:
            raise BadInput(
                f"{name} of {seconds:g} s is out of range", hint=f"give more than 0 and up to {longest_s:g} s"
            )


def _heaps_of(ask: Ask) -> int:
    return ask.heaps + (1 if ask.pid else 0)


def _heaps_s(ask: Ask) -> float:
    """Heaps are read two at a time, each within its own limit: who leaves before would leave recordings behind."""
    pairs = (_heaps_of(ask) + 1) // 2
    wish = Wish(growth_s=ask.growth_s or None, consent=ask.consent)
    return pairs * longest_heap_s(wish) + _HEAP_GRACE_S if pairs else 0.0
