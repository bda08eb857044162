"""Append-only, fsynced records: what FastOOM did, what a run is about to do, which events are not yet acknowledged.

A journal is a directory of segments named by the sequence number of their first entry. One line is one entry:
`{"crc":"<crc32 of seq and rec>","rec":{...},"seq":n}`. An entry exists once `append` has returned. A line torn by a
crash is cut off when the journal is next opened for writing; a damaged line elsewhere is reported by `read_journal`,
never skipped silently.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.files import fsync_directory, read_bytes, write_all, write_atomic
from osremed.core.record import record

_SUFFIX = ".jsonl"
_TORN = "torn line"


@record
class Entry:
    """One record of a journal with its sequence number."""

    seq: int
    record: dict[str, Any]


@record
class Contents:
    """What a journal holds. `damaged` names each unreadable line as `file:line: why`; `first_seq` > 0 tells that older
    segments were dropped by retention; `next_seq` is the number the next entry gets."""

    entries: tuple[Entry, ...]
    damaged: tuple[str, ...]
    first_seq: int
    next_seq: int


def _encode(seq: int, rec: Mapping[str, Any]) -> bytes:
    body = canonical_json(rec)
    return b'{"crc":"%08x","rec":%b,"seq":%d}\n' % (_checksum(seq, body), body, seq)


def _checksum(seq: int, body: bytes) -> int:
    return zlib.crc32(b"%d:%b" % (seq, body))


def _decode(line: bytes) -> Entry | str:
    try:
        document = json.loads(line)
        seq, crc, rec = document["seq"], document["crc"], document["rec"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "not a journal line"
    if not isinstance(seq, int) or not isinstance(rec, dict):
        return "not a journal line"
    try:
        body = canonical_json(rec)
    except (ValueError, RecursionError):
        return "record is not canonical"
    if crc != f"{_checksum(seq, body):08x}":
        return "checksum differs"
    return Entry(seq, rec)


def _segments(directory: str) -> list[tuple[int, str]]:
    found = []
    for name in os.listdir(directory):
        stem = name[: -len(_SUFFIX)]
        if name.endswith(_SUFFIX) and stem.isdigit():
            found.append((int(stem), os.path.join(directory, name)))
    return sorted(found)


def segment_starts(directory: str) -> list[int]:
    """Number of the first entry of each segment, ascending. FileNotFoundError if the directory does not exist."""
    return [first for first, _path in _segments(directory)]


def _split(path: str) -> tuple[list[bytes], bytes]:
    """The whole lines of a segment and its torn tail. Only a newline ends a line: a byte damaged into a carriage return
    must not look like a tail. Nothing if retention has dropped the segment."""
    try:
        *lines, tail = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return [], b""
    return lines, tail


def _scan(segments: list[tuple[int, str]], after_seq: int) -> Iterator[tuple[str, Entry | str]]:
    """(file:line, entry or why there is none) for each line of the segments that reach beyond `after_seq`."""
    for index, (first, path) in enumerate(segments):
        last = index + 1 == len(segments)
        if not last and segments[index + 1][0] <= after_seq + 1:
            continue
        lines, tail = _split(path)
        for number, line in enumerate(lines):
            if first + number > after_seq or _seq_at_end(line) > after_seq:
                yield f"{path}:{number + 1}", _decode(line)
        if tail and not last:
            yield f"{path}:{len(lines) + 1}", "torn line"


def _seq_at_end(line: bytes) -> int:
    """What the line says its number is, without decoding it: following a long segment must not decode all of it for
    each new entry. A line that does not say must be decoded."""
    try:
        return int(line[line.rindex(b'"seq":') + 6 : -1])
    except ValueError:
        return sys.maxsize


def _next_seq(segments: list[tuple[int, str]]) -> int:
    """Counted from the last good entry. A damaged line after it keeps its number: a reader whose cursor has passed it
    would never see an entry that got the number again."""
    if not segments:
        return 0
    first, path = segments[-1]
    lines, _tail = _split(path)
    for behind, line in enumerate(reversed(lines)):
        entry = _decode(line)
        if isinstance(entry, Entry):
            return entry.seq + 1 + behind
    return first + len(lines)


def read_journal(directory: str, *, after_seq: int = -1, max_entries: int = 0) -> Contents:
    """Every entry with seq > `after_seq` and the damage among them, or the first `max_entries` of them (0: all; a long
    spool then costs one segment of memory). A torn last line is not an entry and not damage. FileNotFoundError if the
    directory does not exist."""
    entries: list[Entry] = []
    damaged: list[str] = []
    segments = _segments(directory)
    next_seq = _next_seq(segments)  # before the entries, and first_seq after: what a writer does meanwhile is not lost
    for where, entry in _scan(segments, after_seq):
        if isinstance(entry, str):
            damaged.append(f"{where}: {entry}")
        elif entry.seq > after_seq:
            entries.append(entry)
            if len(entries) == max_entries:
                break
    remaining = _segments(directory)
    return Contents(tuple(entries), tuple(damaged), remaining[0][0] if remaining else 0, next_seq)


def written_lines(directory: str) -> list[bytes]:
    """The whole lines as they lie on disk, damaged ones too, without their newlines. FileNotFoundError if the directory
    does not exist."""
    return [line for _first, path in _segments(directory) for line in _split(path)[0]]


def _only_writer(directory: str) -> int:
    """A descriptor that holds the writer's lock. BlockingIOError if another writer has it."""
    fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


class Journal:
    """One writer's handle; BlockingIOError while another has it.

    `append` returns after fsync; an OSError (disk full, read-only) leaves the journal as before."""

    def __init__(self, directory: str, *, segment_bytes: int = 1 << 20, max_segments: int = 0) -> None:
        self.directory = directory
        self._segment_bytes, self._max_segments = segment_bytes, max_segments
        if not os.path.isdir(directory):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            fsync_directory(os.path.dirname(os.path.abspath(directory)))
        self.next_seq = 0
        self.torn_bytes = 0
        self._fd = -1
        self._lock = _only_writer(directory)
        try:
            self._begin()
        except BaseException:  # whoever asks again, of this process, too, must find no lock without a writer
            self.close()
            raise

    def _begin(self) -> None:
        segments = _segments(self.directory)
        if segments:
            self._open(segments[-1][1])
            self._cut_torn_tail(segments[-1][1])
            self.next_seq = _next_seq(segments)
        else:
            self._start_segment()

    def _open(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _cut_torn_tail(self, path: str) -> None:
        _lines, tail = _split(path)
        if tail:
            self.torn_bytes = len(tail)
            self._size -= len(tail)
            os.ftruncate(self._fd, self._size)
            os.fsync(self._fd)

    def _start_segment(self) -> None:
        self._open(os.path.join(self.directory, f"{self.next_seq:020d}{_SUFFIX}"))
        fsync_directory(self.directory)
        if self._max_segments:
            for _, path in _segments(self.directory)[: -self._max_segments]:
                os.unlink(path)

    def append(self, rec: Mapping[str, Any]) -> int:
        """The entry's sequence number, once it is on disk."""
        return self.append_all([rec])

    def append_all(self, records: Sequence[Mapping[str, Any]]) -> int:
        """The first one's sequence number, once all are on disk; after an OSError none of them is."""
        if self._size >= self._segment_bytes:
            full = self._fd
            try:
                self._start_segment()  # may raise: until the new segment is open the full one stays ours
            finally:
                if self._fd != full:
                    os.close(full)
        lines = b"".join(_encode(self.next_seq + number, rec) for number, rec in enumerate(records))
        try:
            write_all(self._fd, lines)
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(lines)
        self.next_seq += len(records)
        return self.next_seq - len(records)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        os.close(self._lock)


class Cursor:
    """How far one reader of a journal has come; kept in a file beside the segments, moved only after the fact."""

    def __init__(self, path: str) -> None:
        self.path = path

    def load(self) -> int:
        """Sequence number of the last acknowledged entry; -1 if none. A damaged cursor counts as none: entries are then
        delivered again, and the receiver drops them by id."""
        try:
            return max(-1, int(read_bytes(self.path, limit_bytes=64)))
        except (FileNotFoundError, ValueError):
            return -1
        except OSError as error:
            if error.errno == errno.EFBIG:
                return -1
            raise

    def store(self, seq: int) -> None:
        write_atomic(self.path, b"%d\n" % seq, mode=0o600)
