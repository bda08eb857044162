"""Canaries that nobody drives any more, found by the dispatcher and driven on, whether Prefect answers or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from osremed.core.errors import OsremedError
from osremed.core.journal import Journal
from osremed.core.log import Log
from osremed.runbook.fanout import canary_ids, driving, event_id_of, go_on, load
from osremed.runbook.model import Run
from osremed.runbook.operate import Operator

_LOG = Log("dispatcher")


class CanaryWatch:
    """`look` begins to drive what nobody does; `tasks` are under way, and leave a canary to the next when cancelled."""

    def __init__(self, operator: Operator, canaries: str, publish: Callable[[Run], object]) -> None:
        self._operator, self._canaries, self._publish = operator, canaries, publish
        self._driven: dict[str, asyncio.Task[None]] = {}
        self._done: set[str] = set()  #: ended, or in need of a human, and said so

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._driven.values())

    @property
    def events(self) -> frozenset[str]:
        """Those of the canaries driven here: their runs are finished by them."""
        return frozenset(event_id_of(canary_id) for canary_id in self._driven)

    def look(self) -> None:
        names = canary_ids(self._canaries)
        self._done.intersection_update(names)
        for canary_id in names:
            if canary_id not in self._driven and canary_id not in self._done:
                self._take(canary_id)

    def _take(self, canary_id: str) -> None:
        """Its journal is ours from here on, or it is left to who has it."""
        with ExitStack() as held:
            try:
                if load(self._canaries, canary_id).ended:
                    self._done.add(canary_id)
                    return
                journal = held.enter_context(driving(self._canaries, canary_id))
            except BlockingIOError:
                return
            except (OsremedError, OSError) as error:
                self._broken(canary_id, error)
                return
            _LOG.warning("a canary that nobody drives is driven on", canary=canary_id)
            kept = held.pop_all()
        task = self._driven[canary_id] = asyncio.create_task(self._drive(canary_id, journal))
        task.add_done_callback(lambda _task: self._let_go(canary_id, kept))

    def _let_go(self, canary_id: str, kept: ExitStack) -> None:
        """Also of a task that was cancelled before it began."""
        del self._driven[canary_id]
        kept.close()

    def _broken(self, canary_id: str, error: Exception) -> None:
        """A disk that takes nothing may do so later; what cannot be read stays so until somebody has looked."""
        if isinstance(error, OsremedError):
            self._done.add(canary_id)
            _LOG.error("the canary stopped and needs a human", canary=canary_id, error=str(error))
        else:
            _LOG.error("the canary cannot go on now", canary=canary_id, error=str(error))

    async def _drive(self, canary_id: str, journal: Journal) -> None:
        try:
            canary = await go_on(self._operator, self._canaries, canary_id, journal)
            _LOG.info("the canary ended", canary=canary_id, stopped=canary.stopped)
            for ended in canary.outcomes.values():
                self._publish(self._operator.store.load(ended.run_id)[0])
                await asyncio.sleep(0)  # runs go on meanwhile
        except (OsremedError, OSError) as error:
            self._broken(canary_id, error)
