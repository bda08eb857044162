"""A walk over what processes have open or mapped, within a layer's time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from osremed.core.reading import Missing, Reason
from osremed.panorama.layers import Progress
from osremed.sensors import openfiles
from osremed.sensors.openfiles import FileLink


def visit_links(pids: Sequence[int], progress: Progress, root: str, take: Callable[[FileLink], None]) -> None:
    """Gives every link to `take` until time is up; what cannot be read is a gap of `progress`. Descriptors of all
    processes first, mappings after: reading maps can wait for a process that is stuck."""
    for pid in pids:
        if not _visit(openfiles.open_descriptors(pid, root), f"{root}/{pid}/fd", progress, take):
            return
    for pid in pids:
        at = f"{root}/{pid}/maps"
        if progress.expired(at):
            return
        links = openfiles.mapped(pid, root)
        if not _visit([links] if isinstance(links, Missing) else links.value, at, progress, take):
            return


def _visit(links: Iterable[FileLink | Missing], at: str, progress: Progress, take: Callable[[FileLink], None]) -> bool:
    """False once time is up."""
    for link in links:
        if progress.expired(at):
            return False
        if isinstance(link, FileLink):
            take(link)
        elif link.reason is not Reason.GONE:
            progress.gap(link)
    return True
