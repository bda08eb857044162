"""`osremed panorama`: who holds the memory, now."""

from __future__ import annotations

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode
from osremed.core.reading import Missing
from osremed.panorama.collect import collect_panorama
from osremed.panorama.document import as_document
from osremed.panorama.render import render

_MOST_ROWS = 10_000
_LONGEST_S = 600.0


def panorama(*, cgroup: str | None = None, files: int = 20, processes: int = 20, timeout_s: float = 10.0) -> Answer:
    """The balance, processes by heap and files by page cache of the host or of one control group.

    Exit code UNAVAILABLE when there is no balance; other gaps are in the answer. BadInput for limits out of range."""
    for name, value in (("files", files), ("processes", processes)):
        if not 0 <= value <= _MOST_ROWS:
            raise BadInput(f"{name} {value} is out of range", hint=f"give 0 to {_MOST_ROWS}")
    if not 0 < timeout_s <= _LONGEST_S:
        raise BadInput(
            f"timeout of {timeout_s:g} s is out of range", hint=f"give more than 0 and up to {_LONGEST_S:g} s"
        )
    found = collect_panorama(cgroup=cgroup, files=files, processes=processes, timeout_s=timeout_s)
    missing = isinstance(found.balance, Missing)
    return Answer(as_document(found), render(found), ExitCode.UNAVAILABLE if missing else ExitCode.OK)
