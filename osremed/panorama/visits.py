"""A walk over what processes have open or mapped, within a layer's time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from osremed.core.reading import Missing, Reason
from osremed.panorama.layers import Progress
from osremed.sensors import openfiles
from osremed.sensors.openfiles import FileLink


def visit_links(pids: Sequence[int], progress: Progress, root: str, take: Callable[[FileLink], None]) -> bool:
    """Gives every link to `take` until time is up; what cannot be read is a gap of `progress`. Descriptors of all
    processes first, mappings after: reading maps can wait for a process that is stuck. True if nothing was left out
    but what is denied to us."""
    whole = True
    for pid in pids:
        if progress.out_of_time:
            return False
        whole &= _visit(openfiles.open_descriptors(pid, root), f"{root}/{pid}/fd", progress, take)
    for pid in pids:
        at = f"{root}/{pid}/maps"
        if progress.expired(at):
            return False
        links = openfiles.mapped(pid, root)
        whole &= _visit([links] if isinstance(links, Missing) else links.value, at, progress, take)
    return whole and not progress.out_of_time


def _visit(links: Iterable[FileLink | Missing], at: str, progress: Progress, take: Callable[[FileLink], None]) -> bool:
    """False once time is up, or when a link could not be read though it is not denied to us."""
    whole = True
    for link in links:
        if progress.expired(at):
            return False
        if isinstance(link, FileLink):
            take(link)
        elif link.reason is not Reason.GONE:
            progress.gap(link)
            whole &= link.reason is Reason.DENIED
    return whole
