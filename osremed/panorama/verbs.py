"""`osremed panorama`: who holds the memory, now, and what grew."""

from __future__ import annotations

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode
from osremed.core.paths import host_name
from osremed.core.reading import Missing
from osremed.core.units import parse_duration_s
from osremed.panorama.collect import collect_panorama
from osremed.panorama.document import as_document
from osremed.panorama.page import page
from osremed.panorama.past import plotted, with_history
from osremed.panorama.render import render
from osremed.panorama.sources import kernel_sources

_MOST_ROWS = 10_000
_LONGEST_S = 600.0


def panorama(
    *, cgroup: str | None = None, files: int = 20, processes: int = 20, growth: str = "", timeout_s: float = 10.0
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
    found = collect_panorama(
        cgroup=cgroup, files=files, processes=processes, growth_s=growth_s, timeout_s=timeout_s,
        sources=kernel_sources(),
    )  # fmt: skip
    found = with_history(found)
    document = as_document(found)
    missing = isinstance(found.balance, Missing)
    code = ExitCode.UNAVAILABLE if missing else ExitCode.OK
    return Answer(
        document, render(found), code, html=lambda: page({**document, "host": host_name(), "history": plotted()})
    )
