"""Append-only, fsynced records: what FastOOM did, what a run is about to do, which events are not yet acknowledged.

A journal is a directory of segments named by the sequence number of their first entry. One line is one entry:
`{"crc":"<crc32>","rec":{...},"seq":n}`. An entry exists once `append` has returned. A line torn by a crash is cut off
when the journal is next opened for writing; a damaged line elsewhere is reported by `read`, never skipped silently.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.files import fsync_directory, read_bytes, write_all, write_atomic
from osremed.core.record import record

_SUFFIX = ".jsonl"


@record
class Entry:
    seq: int
    record: dict[str, Any]


@record
class Contents:
    """What a journal holds. `damaged` names each unreadable line as `file:line: why`; `first_seq` > 0 tells that older
    segments were dropped by retention."""

    entries: tuple[Entry, ...]
    damaged: tuple[str, ...]
    first_seq: int


def _encode(seq: int, rec: Mapping[str, Any]) -> bytes:
    body = canonical_json(rec)
    return b'{"crc":"%08x","rec":%b,"seq":%d}\n' % (zlib.crc32(body), body, seq)


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
    if crc != f"{zlib.crc32(body):08x}":
        return "checksum differs"
    return Entry(seq, rec)


def _segments(directory: str) -> list[tuple[int, str]]:
    found = []
    for name in os.listdir(directory):
        stem = name[: -len(_SUFFIX)]
        if name.endswith(_SUFFIX) and stem.isdigit():
            found.append((int(stem), os.path.join(directory, name)))
    return sorted(found)


def _scan(path: str) -> Iterator[tuple[int, bytes, Entry | str]]:
    """(offset, line, entry or why not) for each line of one segment."""
    offset = 0
    for line in read_bytes(path).splitlines(keepends=True):
        whole = line.endswith(b"\n")
        yield offset, line, _decode(line) if whole else "torn line"
        offset += len(line)


def read_journal(directory: str, *, after_seq: int = -1) -> Contents:
    """Every entry with seq > `after_seq`. A torn last line is not an entry and not damage. FileNotFoundError if the
    directory does not exist."""
    entries: list[Entry] = []
    damaged: list[str] = []
    segments = _segments(directory)
    for index, (_first, path) in enumerate(segments):
        if index + 1 < len(segments) and segments[index + 1][0] <= after_seq + 1:
            continue
        try:
            lines = list(_scan(path))
        except FileNotFoundError:  # dropped by retention while we read
            continue
        for number, (_offset, _line, entry) in enumerate(lines, start=1):
            if isinstance(entry, Entry):
                if entry.seq > after_seq:
                    entries.append(entry)
            elif number < len(lines) or entry != "torn line":
                damaged.append(f"{path}:{number}: {entry}")
    return Contents(tuple(entries), tuple(damaged), segments[0][0] if segments else 0)


class Journal:
    """One writer's handle. `append` returns after fsync; an OSError (disk full, read-only) leaves it as before."""

    def __init__(self, directory: str, *, segment_bytes: int = 1 << 20, max_segments: int = 0) -> None:
        self.directory = directory
        self._segment_bytes, self._max_segments = segment_bytes, max_segments
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.next_seq = 0
        self.torn_bytes = 0
        segments = _segments(directory)
        if segments:
            first, path = segments[-1]
            self._open(path)
            self.next_seq = self._recover(first, path)
        else:
            self._start_segment()

    def _open(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _recover(self, first: int, path: str) -> int:
        """Cuts a torn tail; the next sequence number."""
        seq, end = first, 0
        for offset, line, entry in _scan(path):
            if isinstance(entry, Entry):
                seq = entry.seq + 1
            if not line.endswith(b"\n"):
                break
            end = offset + len(line)
        if end < self._size:
            self.torn_bytes = self._size - end
            os.ftruncate(self._fd, end)
            os.fsync(self._fd)
            self._size = end
        return seq

    def _start_segment(self) -> None:
        self._open(os.path.join(self.directory, f"{self.next_seq:020d}{_SUFFIX}"))
        fsync_directory(self.directory)
        if self._max_segments:
            for _, path in _segments(self.directory)[: -self._max_segments]:
                os.unlink(path)

    def append(self, rec: Mapping[str, Any]) -> int:
        """The entry's sequence number, once it is on disk."""
        if self._size >= self._segment_bytes:
            os.close(self._fd)
            self._start_segment()
        line = _encode(self.next_seq, rec)
        try:
            write_all(self._fd, line)
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)
        self.next_seq += 1
        return self.next_seq - 1

    def close(self) -> None:
        os.close(self._fd)


class Cursor:
    """How far one reader of a journal has come; kept in a file beside the segments, moved only after the fact."""

    def __init__(self, path: str) -> None:
        self.path = path

    def load(self) -> int:
        """Sequence number of the last acknowledged entry; -1 if none. A damaged cursor counts as none: entries are then
        delivered again, and the receiver drops them by id."""
        try:
            return int(read_bytes(self.path, limit_bytes=64))
        except (FileNotFoundError, ValueError):
            return -1

    def store(self, seq: int) -> None:
        write_atomic(self.path, b"%d\n" % seq, mode=0o600)
