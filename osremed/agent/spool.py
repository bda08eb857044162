"""Journals of events and how far each has been told."""

from __future__ import annotations

import os
from collections.abc import Iterable
from urllib.parse import quote

from osremed.core.journal import Contents, Cursor, Entry, read_journal
from osremed.core.log import Log

BATCH_EVENTS = 100


class Follower:
    """One journal read behind its writer. `told_seq` is the last entry that needs no more telling."""

    def __init__(self, name: str, directory: str, cursor_path: str, log: Log) -> None:
        self.name, self.directory, self._log = name, directory, log
        self._cursor = Cursor(cursor_path)
        self.told_seq = self._cursor.load()
        self.next_seq = 0
        self.lost = 0
        self.damaged: set[str] = set()
        self._seen: tuple[str, int] = ("", -1)

    @property
    def pending(self) -> int:
        return max(0, self.next_seq - 1 - self.told_seq)

    def look(self) -> bool:
        """True when there is something to tell. Costs one directory listing and one stat while nothing changes."""
        newest = max((name for name in os.listdir(self.directory) if name.endswith(".jsonl")), default="")
        if not newest:
            return False
        seen = (newest, os.stat(os.path.join(self.directory, newest)).st_size)
        if seen != self._seen:
            self.read(max_entries=1)
            self._seen = seen
        return self.pending > 0

    def read(self, *, max_entries: int = BATCH_EVENTS) -> tuple[Entry, ...]:
        """The next entries to tell. Damage and loss are said once and counted; neither stops what follows."""
        contents = self._read(max_entries)
        if self.told_seq >= contents.next_seq:
            self._log.warning("journal was replaced, telling all of it", journal=self.name, cursor=self.told_seq)
            self.told_seq = -1
            contents = self._read(max_entries)
        self._count_lost(contents)
        for line in contents.damaged:
            if line not in self.damaged:
                self._log.error("damaged journal line skipped", journal=self.name, line=line)
        self.damaged.update(contents.damaged)
        self.next_seq = contents.next_seq
        if not contents.entries and self.pending:  # nothing but damaged lines is left
            self.tell_through(contents.next_seq - 1)
        return contents.entries

    def _count_lost(self, contents: Contents) -> None:
        first = contents.first_seq
        if contents.entries:  # read just before retention dropped them
            first = min(first, contents.entries[0].seq)
        lost = first - self.told_seq - 1
        if lost > 0:
            self._log.error("events were dropped by retention before they were told", journal=self.name, lost=lost)
            self.tell_through(first - 1)
            self.lost += lost

    def _read(self, max_entries: int) -> Contents:
        return read_journal(self.directory, after_seq=self.told_seq, max_entries=max_entries)

    def tell_through(self, seq: int) -> None:
        """Moves the cursor, on disk first."""
        self._cursor.store(seq)
        self.told_seq = seq


class Spool:
    """All journals below the given directories; new ones are found when they appear."""

    def __init__(self, roots: Iterable[str], home: str, cursors: str, log: Log) -> None:
        """`home` is the host's own events directory: its journals keep their bare names as cursor names."""
        self._roots, self._home, self._cursors, self._log = tuple(roots), home, cursors, log
        self.followers: dict[str, Follower] = {}
        os.makedirs(cursors, mode=0o700, exist_ok=True)

    def waiting(self) -> list[Follower]:
        """The journals that have something to tell."""
        for root in self._roots:
            self._find(root)
        return [follower for follower in list(self.followers.values()) if self._look(follower)]

    def _find(self, root: str) -> None:
        try:
            names = os.listdir(root)
        except FileNotFoundError:  # nothing was ever written here
            return
        for name in sorted(names):
            directory = os.path.join(root, name)
            if directory not in self.followers and not name.startswith(".") and os.path.isdir(directory):
                key = name if root == self._home else quote(directory, safe="")
                cursor_path = os.path.join(self._cursors, key)
                self.followers[directory] = Follower(name, directory, cursor_path, self._log)

    def _look(self, follower: Follower) -> bool:
        try:
            return follower.look()
        except FileNotFoundError:  # the journal was removed; if it comes back it is found again
            del self.followers[follower.directory]
            return False

    @property
    def spooled(self) -> int:
        return sum(follower.pending for follower in list(self.followers.values()))

    @property
    def lost(self) -> int:
        return sum(follower.lost for follower in list(self.followers.values()))

    @property
    def damaged(self) -> int:
        return sum(len(follower.damaged) for follower in list(self.followers.values()))
