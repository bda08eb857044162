"""Keeps Panorama's history: a light balance every ten seconds, in a ring of segments, in a thread of its own; and tells
what the wide looks among them show to come."""

from __future__ import annotations

import os
import threading
import traceback

from osremed.core.clock import Clock
from osremed.core.event import Event, new_event_id
from osremed.core.journal import Journal
from osremed.core.log import Log
from osremed.core.outbox import Outbox
from osremed.core.paths import host_name
from osremed.core.reading import Missing
from osremed.panorama.alarms import Alarms
from osremed.panorama.history import EVERY_S, SEGMENT_BYTES, SEGMENTS, WIDE_EVERY, encode, moment_of
from osremed.panorama.model import Balance
from osremed.panorama.moment import Wide, light_balance, look_of, wide_look, widest
from osremed.sensors.procfs import PROC

_MOMENT, _LOOK = "no history kept", "the memory was not judged"


class HistoryKeeper:
    """Appends until told to stop. What goes wrong is said once and in `last_error`; it never ends the agent, nor the
    history: what nobody foresaw costs one moment or one look, and the next one is tried."""

    def __init__(self, directory: str, clock: Clock, log: Log, proc_root: str = PROC, events: str = "") -> None:
        """`events`: the directory of the journal that alarms go to; without one none are told."""
        self._directory, self._clock, self._log, self._root = directory, clock, log, proc_root
        self._events, self._alarms = events, Alarms()
        self._count = 0
        self._journal: Journal | None = None
        self._outbox = Outbox(events)
        self._why = {_MOMENT: "", _LOOK: ""}

    @property
    def last_error(self) -> str:
        """What went wrong with the last moment, or with the last wide look; empty when both were whole."""
        return self._why[_MOMENT] or self._why[_LOOK]

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; a disk that hangs holds up this thread alone."""
        try:
            while not stop.is_set():
                try:
                    self.step()
                except Exception as error:  # a thread that ended would keep and tell nothing while the agent runs
                    self._note(_MOMENT, _unforeseen(error))
                stop.wait(EVERY_S)
        finally:
            if self._journal is not None:
                self._journal.close()
            self._outbox.close()

    def step(self) -> None:
        """One moment. A balance that cannot be read or written is an error, not a moment of zeros."""
        self._outbox.flush()
        balance = light_balance(self._root)
        if isinstance(balance, Missing):
            self._note(_MOMENT, str(balance))
            return
        wide = self._looked(balance.value) if self._count % WIDE_EVERY == 0 else None
        self._count += 1  # whether it is kept or not: alarms are judged at their pace
        entry = encode(moment_of(balance.value, {} if wide is None else widest(wide), self._clock.wall_ns()))
        try:
            self._opened().append(entry)
        except OSError as error:
            self._note(_MOMENT, f"{self._directory}: {error.strerror or error}")
            return
        self._note(_MOMENT, "")

    def _looked(self, balance: Balance) -> Wide | None:
        """A wide look, judged; None when it broke off. What it failed on stands until the next one."""
        wide, why = None, ""
        try:
            wide = wide_look(self._root)
            why = self._judge(wide, balance) if self._events else ""
        except Exception as error:  # the moment is kept nevertheless
            why = _unforeseen(error)
        self._note(_LOOK, why)
        return wide

    def _judge(self, wide: Wide, balance: Balance) -> str:
        """Why it could not be judged; empty when it was."""
        look = look_of(wide, balance, self._clock.monotonic_ns(), self._root)
        if isinstance(look, Missing):
            return str(look)
        now_ns, told = self._clock.wall_ns(), self._alarms.note(look.value)
        events = [Event(new_event_id(), each.name, host_name(), now_ns, each.attributes) for each in told]
        for event in events:
            self._log.warning(event.name, **event.attributes)
        self._outbox.tell(events)
        if self._outbox.failure:
            self._log.error("events wait in memory", why=self._outbox.failure, waiting=len(self._outbox.pending))
        return ""

    def _opened(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self._directory, segment_bytes=SEGMENT_BYTES, max_segments=SEGMENTS)
            if self._journal.torn_bytes:
                self._log.warning("torn end of the history cut off", bytes=self._journal.torn_bytes)
        return self._journal

    def _note(self, what: str, why: str) -> None:
        if why and why != self._why[what]:
            self._log.warning(what, why=why)
        self._why[what] = why


def _unforeseen(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"unforeseen {error!r:.300} in {frame.name} ({os.path.basename(frame.filename)}:{frame.lineno})"
