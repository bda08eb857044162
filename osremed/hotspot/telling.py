"""What the recorder tells besides what it records: seconds that were worse than usual, services that answered late,
traps that stay."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from osremed.core.event import Event, new_event_id
from osremed.core.log import Log
from osremed.core.outbox import Outbox
from osremed.core.reading import Reading
from osremed.hotspot.hostseconds import HostSeconds, second_of
from osremed.hotspot.jitter import AnswerJitter, JitterDetector
from osremed.hotspot.probes import Probe, Prober
from osremed.hotspot.trapwatch import EVENT as TRAP_EVENT
from osremed.hotspot.trapwatch import TrapWatch

_JITTER_EVENT = "latency.jitter"


class Telling:
    """Events go to the journal `events` of this host."""

    def __init__(self, host: str, events: str, cpus: int, traps: TrapWatch, log: Log) -> None:
        self._host, self._outbox, self._log = host, Outbox(events), log
        self._host_seconds = HostSeconds()
        self._jitter, self._answers, self._prober = JitterDetector(cpus), AnswerJitter(), Prober()
        self._probes: Mapping[str, Probe] = {}
        self._traps = traps

    @property
    def error(self) -> str:
        """Why events are not on disk yet; "" when all are."""
        return f"events wait in memory: {self._outbox.failure}" if self._outbox.failure else ""

    def ask(self, probes: tuple[Probe, ...]) -> None:
        """These services from now on; what was learnt of others is forgotten."""
        self._probes = {each.name: each for each in probes}
        if self._prober.ask(probes):
            self._answers = AnswerJitter()

    def second(self, delay: Reading[float], throttled: Reading[Mapping[str, float]]) -> dict[str, Any]:
        """The row of the second that has passed, for the segment; told of if it was bad."""
        row = self._host_seconds.second(time.time_ns(), delay, throttled)
        jitter = self._jitter.second(second_of(row))
        if jitter is not None:
            self._tell(_JITTER_EVENT, jitter)
        for answer in self._prober.answers():
            slow = self._answers.answer(answer, self._probes[answer.name])
            if slow is not None:
                self._tell(_JITTER_EVENT, slow)
        self._outbox.flush()
        return row

    def look_for_traps(self) -> None:
        news = self._traps.news()
        for attributes in news:
            self._tell(TRAP_EVENT, attributes)
        if news:
            self._traps.keep()

    def services(self) -> dict[str, Any]:
        return self._answers.document()

    def close(self) -> None:
        self._traps.close()
        self._prober.close()
        self._outbox.close()

    def _tell(self, name: str, attributes: dict[str, Any]) -> None:
        event = Event(new_event_id(), name, self._host, time.time_ns(), attributes)
        self._outbox.tell([event])
        self._log.warning(name, **attributes)
