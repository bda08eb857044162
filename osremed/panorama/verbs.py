"""`osremed panorama`: who holds the memory, now, and what grew."""

from __future__ import annotations

from osremed.core.answer import Answer
from osremed.core.errors import ExitCode
from osremed.core.paths import host_name
from osremed.core.reading import Missing
from osremed.core.units import parse_duration_s
from osremed.panorama.ask import Ask, look, process_id
from osremed.panorama.document import as_document
from osremed.panorama.page import page
from osremed.panorama.past import plotted
from osremed.panorama.render import render


def ask_of(
    *, cgroup: str | None = None, files: int = 20, processes: int = 20, growth: str = "", heaps: int = 0, pid: str = "",
    consent: bool = False, trace: str | None = None, timeout_s: float = 10.0,
) -> Ask:  # fmt: skip
    """The arguments of the command line as an Ask. BadInput for a duration or pid that is none."""
    return Ask(
        cgroup=cgroup, files=files, processes=processes, growth_s=parse_duration_s(growth) if growth else 0.0,
        heaps=heaps, pid=process_id(pid), consent=consent, trace_s=parse_duration_s(trace) if trace else None,
        timeout_s=timeout_s,
    )  # fmt: skip


def panorama(
    *, cgroup: str | None = None, files: int = 20, processes: int = 20, growth: str = "", heaps: int = 0, pid: str = "",
    consent: bool = False, trace: str | None = None, timeout_s: float = 10.0,
) -> Answer:  # fmt: skip
    """The balance, findings, processes, control groups and files by page cache of the host or of one control group.

    Exit code UNAVAILABLE when there is no balance; other gaps are in the answer. BadInput for limits out of range."""
    found = look(
        ask_of(
            cgroup=cgroup, files=files, processes=processes, growth=growth, heaps=heaps, pid=pid, consent=consent,
            trace=trace, timeout_s=timeout_s,
        )
    )  # fmt: skip
    document = as_document(found)
    missing = isinstance(found.balance, Missing)
    code = ExitCode.UNAVAILABLE if missing else ExitCode.OK
    return Answer(
        document, render(found), code, html=lambda: page({**document, "host": host_name(), "history": plotted()})
    )
