"""The ring: a directory of segments, the books that name what is in them, and what lies beside them (beside.py),
bounded by size and age. A segment that is torn or altered is skipped and said.

Segments appear under their name whole (written beside, then renamed). They are not fsynced: a crash of the host may
cost the last ones, which their checksums tell, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osremed.core.files import read_bytes, write_all
from osremed.core.paths import HostPaths
from osremed.core.record import record
from osremed.hotspot import book
from osremed.hotspot.beside import Beside
from osremed.hotspot.segment import Segment, decode, encode

_NAME = re.compile(r"([0-9]{19})-([0-9]{19})\.hot")
_BOOK_NAME = re.compile(r"([0-9]{19})\.book")
_LEFTOVER = re.compile(r".+\.hot\.tmp|\..+\.tmp")
_LIMIT_BYTES = 256 << 20


@record
class Entry:
    start_ns: int
    end_ns: int
    path: str
    bytes: int


@record
class Window:
    """The readable segments that touch a window, oldest first, and the books they name, by run of the recorder;
    `damaged` says what could not be read, and why."""

    segments: tuple[Segment, ...]
    damaged: tuple[str, ...]
    books: Mapping[int, Sequence[book.Book]]

    def processes(self) -> Iterator[dict[str, Any]]:
        """Rows of all programs in the books."""
        return (row for books in self.books.values() for each in books for row in each.processes)


def ring_directory(paths: HostPaths) -> str:
    return os.path.join(os.path.dirname(paths.events), "hotspot")


def entries(directory: str) -> tuple[Entry, ...]:
    """All segments by time. OSError when the directory cannot be read."""
    found = []
    with os.scandir(directory) as listing:
        for each in listing:
            match = _NAME.fullmatch(each.name)
            if match is None:
                continue
            try:
                size = each.stat().st_size
            except FileNotFoundError:  # retention was faster
                continue
            found.append(Entry(int(match[1]), int(match[2]), each.path, size))
    return tuple(sorted(found, key=lambda entry: (entry.start_ns, entry.end_ns)))


def read_window(directory: str, start_ns: int, end_ns: int) -> Window:
    """What the ring holds of start_ns <= t < end_ns. OSError when the directory cannot be read."""
    segments: list[Segment] = []
    damaged: list[str] = []
    for entry in entries(directory):
        if entry.end_ns <= start_ns or entry.start_ns >= end_ns:
            continue
        try:
            segments.append(decode(read_bytes(entry.path, limit_bytes=_LIMIT_BYTES)))
        except FileNotFoundError:  # retention was faster
            damaged.append(f"{os.path.basename(entry.path)}: dropped by retention meanwhile")
        except (ValueError, OSError) as error:
            damaged.append(f"{os.path.basename(entry.path)}: {error}")
    books = _read_books(directory, segments, damaged)
    return Window(tuple(segments), tuple(damaged), books)


def run_of(segment: Segment) -> int:
    """Which run of the recorder wrote it: numbers of stacks and texts mean something within one."""
    return int(segment.tables.get("run", 0))


def _read_books(directory: str, segments: list[Segment], damaged: list[str]) -> dict[int, list[book.Book]]:
    found: dict[int, list[book.Book]] = {}
    wanted = {(run_of(segment), int(start_ns)) for segment in segments for start_ns in segment.tables.get("books", [])}
    for run, start_ns in sorted(wanted):
        path = book_path(directory, start_ns)
        try:
            read = book.read_book(read_bytes(path, limit_bytes=_LIMIT_BYTES))
        except OSError as error:
            damaged.append(f"{os.path.basename(path)}: {error.strerror}: some names are missing")
            continue
        if read.damage:
            damaged.append(f"{os.path.basename(path)}: {read.damage}: some names are missing")
        found.setdefault(run, []).append(read)
    return found


def book_path(directory: str, start_ns: int) -> str:
    return os.path.join(directory, f"{start_ns:019d}.book")


class RingWriter:
    """Appends segments and drops the oldest ones beyond `max_bytes` or `max_age_s`. One writer a directory: the daemon
    holds its lock. OSError when the disk is full: the segment is lost and nothing else. What lies beside counts; what
    the newest books name of it takes half of the room at most."""

    def __init__(self, directory: str, *, max_bytes: int, max_age_s: float) -> None:
        self.directory, self._max_bytes, self._max_age_s = directory, max_bytes, max_age_s
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for name in self._leftovers():
            os.unlink(os.path.join(directory, name))
        self._entries = deque(entries(directory))
        self._books: deque[tuple[int, int]] = deque(sorted(self._books_there()))
        self._bytes = sum(entry.bytes for entry in self._entries) + sum(size for _, size in self._books)
        self._beside = Beside(directory)
        self._dropped: set[str] = set()

    @property
    def total_bytes(self) -> int:
        return self._bytes + self._beside.bytes_since()

    def take_dropped(self) -> set[str]:
        """Names of the files beside that went since the last call."""
        dropped, self._dropped = self._dropped, set()
        return dropped

    def bound(self, max_bytes: int, max_age_s: float) -> None:
        """Other bounds, from the next segment on."""
        self._max_bytes, self._max_age_s = max_bytes, max_age_s

    def _leftovers(self) -> Iterator[str]:
        """Half-written files of a writer that was killed, or of its children."""
        return (name for name in os.listdir(self.directory) if _LEFTOVER.fullmatch(name))

    def _books_there(self) -> Iterator[tuple[int, int]]:
        with os.scandir(self.directory) as listing:
            for each in listing:
                match = _BOOK_NAME.fullmatch(each.name)
                if match is not None:
                    yield int(match[1]), each.stat().st_size

    def add_names(self, start_ns: int, rows: Sequence[dict[str, Any]], texts: bytes) -> int:
        """One page more in the book that began then; bytes written. Begin another one after an OSError."""
        data = book.page(rows, texts)
        if not self._books or self._books[-1][0] != start_ns:
            self._books.append((start_ns, 0))
            data = book.MAGIC + data
            self._beside.look()
        self._beside.name_builds(start_ns, rows)
        fd = os.open(
            book_path(self.directory, start_ns),
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        self._books[-1] = start_ns, self._books[-1][1] + len(data)
        self._bytes += len(data)
        return len(data)

    def append(self, start_ns: int, end_ns: int, tables: dict[str, Any], parts: Sequence[bytes]) -> int:
        """Bytes written."""
        data = encode(start_ns, end_ns, tables, parts)
        path = os.path.join(self.directory, f"{start_ns:019d}-{end_ns:019d}.hot")
        temporary = path + ".tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            write_all(fd, data)
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        os.rename(temporary, path)
        self._entries.append(Entry(start_ns, end_ns, path, len(data)))
        self._bytes += len(data)
        self._beside.name_kernel(end_ns, str(tables.get("boot_id", "")), str(tables.get("modules", "")))
        self.trim(end_ns)
        return len(data)

    def trim(self, now_ns: int) -> None:
        """Drops what is beyond the bounds."""
        oldest_ns = now_ns - round(self._max_age_s * 1e9)
        self._drop_unnamed()
        while len(self._entries) > 1 and (self._too_large() or self._entries[0].end_ns < oldest_ns):
            dropped = self._entries.popleft()
            self._bytes -= dropped.bytes
            _unlink(dropped.path)
            self._drop_unnamed()

    def _too_large(self) -> bool:
        """Dropping segments does not free what the newest books name."""
        stays = self._beside.bytes_since(self._books[-min(2, len(self._books))][0] if self._books else 0)
        return self.total_bytes - stays > max(self._max_bytes - stays, self._max_bytes // 2)

    def _drop_unnamed(self) -> None:
        """Books that no segment names, and what lies beside that no book does."""
        # A segment names its own book and the one before.
        while self._entries and len(self._books) > 2 and self._books[2][0] <= self._entries[0].start_ns:
            start_ns, size = self._books.popleft()
            self._bytes -= size
            _unlink(book_path(self.directory, start_ns))
        if self._books:
            self._dropped.update(self._beside.drop_before(self._books[0][0]))


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
