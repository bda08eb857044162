"""Events that were refused because another run worked on their host: asked again once none does. A detector tells once
that memory is short, so what is refused for a moment would else be lost for as long as the condition stands.

Nothing is kept for it: the refused runs are on disk, and the run that is made for the same event later is named after
the refused one, so that no event is asked again twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from osremed.core.event import Event
from osremed.runbook.model import Run, RunState
from osremed.runbook.store import run_id_for

#: The guard that means "not now".
_NOT_NOW = "target-busy"
_AGAIN = ":again-"


def original_id(event_id: str) -> str:
    """The id under which its host told it."""
    return event_id.partition(_AGAIN)[0]


def again(refused: Run) -> Event:
    """The event of a refused run as it is asked again: it has the same time, so that it can be too old by now."""
    return replace(refused.event, id=f"{original_id(refused.event.id)}{_AGAIN}{refused.run_id}")


def waits(run: Run) -> bool:
    """Whether the event of this run is to be asked again: a host told it, and a run that has ended was in the way."""
    last = run.guards[-1] if run.guards else None
    told = not (run.requested_by or run.undoes)
    return run.state is RunState.REFUSED and told and last is not None and not last.passed and last.guard == _NOT_NOW


class Waiting:
    """The newest refused run of each runbook and host. Not for several threads at once."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str], Run] = {}

    def __len__(self) -> int:
        return len(self._refused)

    def note(self, run: Run) -> None:
        """A run that has ended; nothing to remember of most."""
        if waits(run):
            self._refused[run.runbook, run.host] = run

    def rebuild(self, runs: Iterable[Run]) -> None:
        """From what is on disk, oldest first: the newest each, if it was not asked again yet. An older one was replaced
        by it, and is not asked in its place."""
        known = list(runs)
        begun = {run.run_id for run in known}
        for run in known:
            self.note(run)
        for key, run in list(self._refused.items()):
            if run_id_for(again(run), run.runbook) in begun:
                del self._refused[key]

    def take_ready(self, runs: Iterable[Run]) -> list[Run]:
        """Those on whose host no run changes anything now; they wait no more."""
        if not self._refused:
            return []
        busy = {run.host for run in runs if not run.ended and not run.looks_only}
        return [self._refused.pop(key) for key in list(self._refused) if key[1] not in busy]
