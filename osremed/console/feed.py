"""What the pages show of all hosts, kept near: only what is new is read at each request."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any

from osremed.console.binding import Places
from osremed.core.errors import BadInput, NotFound, OsremedError, Unavailable
from osremed.core.event import Event, event_from_json
from osremed.core.journal import Entry, read_journal
from osremed.flows.fleet import LOOK_BACK, fleet, named_hosts
from osremed.flows.settings import ControlPaths
from osremed.flows.verbs import newest_first
from osremed.runbook.model import Run
from osremed.runbook.retention import retired
from osremed.runbook.stats import Ending
from osremed.runbook.store import RunStore

_HOSTS_FOR_S = 60.0


class Feed:
    """Safe from several threads."""

    def __init__(self, places: Places) -> None:
        self._places, self._paths = places, ControlPaths(os.path.abspath(places.state))
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=LOOK_BACK)
        self._hosts: frozenset[str] = frozenset()
        self._hosts_why, self._hosts_until = "", 0.0
        self._store: RunStore | None = None
        self._removed: tuple[Ending, ...] = ()
        self._removed_seq = -1

    def entries(self) -> list[Entry]:
        """The latest events, oldest first."""
        with self._lock:
            if os.path.isdir(self._paths.intake):
                after = self._entries[-1].seq if self._entries else -1
                self._entries.extend(read_journal(self._paths.intake, after_seq=after).entries)
            return list(self._entries)

    def events(self, *, host: str = "", name: str = "") -> list[Event]:
        """Newest first. What is no event (a damaged line) is left out."""
        found = []
        for entry in reversed(self.entries()):
            wanted = (not host or entry.record.get("host") == host) and (not name or entry.record.get("name") == name)
            if wanted:
                try:
                    found.append(event_from_json(entry.record))
                except BadInput:
                    continue
        return found

    def runs(self) -> tuple[list[Run], tuple[str, ...]]:
        """(runs, newest first; why each other one cannot be read)."""
        if not os.path.isdir(self._paths.runs):
            return [], ()
        with self._lock:
            self._store = self._store or RunStore(self._paths.runs)
            found, damaged = self._store.runs()
        return newest_first(found), damaged

    def removed(self) -> tuple[Ending, ...]:
        """What is counted of the runs that are not kept any more."""
        with self._lock:
            found, self._removed_seq = retired(self._paths.hands, after_seq=self._removed_seq)
            self._removed += found
            return self._removed

    def store(self) -> RunStore:
        if not os.path.isdir(self._paths.runs):
            raise NotFound("no runs here", where=self._paths.runs)
        return RunStore(self._paths.runs)

    def hosts(self) -> tuple[frozenset[str], str]:
        """(the hosts of the inventory as of a minute ago, why they are not known)."""
        with self._lock:
            if time.monotonic() >= self._hosts_until:
                places = self._places
                try:
                    self._hosts = named_hosts(places.inventory, places.collections, places.state)
                    self._hosts_why = ""
                except (BadInput, Unavailable, OSError) as error:
                    self._hosts_why = error.what if isinstance(error, OsremedError) else str(error)
                self._hosts_until = time.monotonic() + _HOSTS_FOR_S
            return self._hosts, self._hosts_why

    def fleet(self) -> tuple[list[dict[str, Any]], str]:
        """(one row a host, why the inventory is not known)."""
        named, why = self.hosts()
        return fleet(named, self.entries(), self.runs()[0]), why
