"""`osremed panorama`: who holds the memory, now, and what grew."""

from __future__ import annotations

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode
from osremed.core.paths import host_name
from osremed.core.reading import Missing
from osremed.core.units import parse_duration_s
from osremed.panorama.collect import collect_panorama
from osremed.panorama.document import as_document
from osremed.panorama.heaps.collect import Wish
from osremed.panorama.page import page
from osremed.panorama.past import plotted, with_history
from osremed.panorama.render import render
from osremed.panorama.sources import HeapWish, kernel_sources

_MOST_ROWS = 10_000
_LONGEST_S = 600.0
_MOST_HEAPS = 16
_HEAP_GRACE_S = 5.0


def panorama(
    *,
    cgroup: str | None = None,
    files: int = 20,
    processes: int = 20,
    growth: str = "",
    heaps: int = 0,
    pid: str = "",
    consent: bool = False,
    timeout_s: float = 10.0,
) -> Answer:
    """The balance, findings, processes, control groups and files by page cache of the host or of one control group.

    Exit code UNAVAILABLE when there is no balance; other gaps are in the answer. BadInput for limits out of range."""
    for name, value in (("files", files), ("processes", processes)):
        if not 0 <= value <= _MOST_ROWS:
            raise BadInput(f"{name} {value} is out of range", hint=f"give 0 to {_MOST_ROWS}")
    growth_s = parse_duration_s(growth) if growth else 0.0
    for name, seconds in (("timeout", timeout_s), ("growth", growth_s or 1.0)):
        if not 0 < seconds <= _LONGEST_S:
            hint = f"give more than 0 and up to {_LONGEST_S:g} s"
            raise BadInput(f"{name} of {seconds:g} s is out of range", hint=hint)
    wish = _heap_wish(heaps, pid, growth_s, consent)
    found = collect_panorama(
        cgroup=cgroup, files=files, processes=processes, growth_s=growth_s, sources=kernel_sources(wish),
        timeout_s=timeout_s if wish is None else timeout_s + _heap_limit_s(wish),
    )  # fmt: skip
    found = with_history(found)
    document = as_document(found)
    missing = isinstance(found.balance, Missing)
    code = ExitCode.UNAVAILABLE if missing else ExitCode.OK
    return Answer(
        document, render(found), code, html=lambda: page({**document, "host": host_name(), "history": plotted()})
    )


def _heap_wish(heaps: int, pid: str, growth_s: float, consent: bool) -> HeapWish | None:
    """None when no heap is asked for. BadInput for a count or pid out of range."""
    if not 0 <= heaps <= _MOST_HEAPS:
        raise BadInput(f"heaps {heaps} is out of range", hint=f"give 0 to {_MOST_HEAPS}")
    if pid and not (pid.isascii() and pid.isdigit() and 0 < int(pid) < 1 << 31):
        raise BadInput(f"{pid!r} is not a process id", hint="give the number that ps prints")
    if not heaps and not pid:
        return None
    return HeapWish(heaps, (int(pid),) if pid else (), growth_s, consent)


def _heap_limit_s(wish: HeapWish) -> float:
    """Heaps are read two at a time, each look within its own limit."""
    looks = 2 if wish.growth_s else 1
    return (wish.count + len(wish.pids) + 1) // 2 * (looks * Wish().limit_s + wish.growth_s) + _HEAP_GRACE_S
