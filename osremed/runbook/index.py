"""Ended runs in one file, so that who starts need not read ten thousand journals. It is a copy and never the truth: a
line counts while the journal it was made from is the same file, and what is wrong with it costs a reading, no more.

First line: what made it (the version of osremed and the shape of a run). Then a line a run, the last one of a run
counts: `<crc32 of the rest> <run_id> <stamp of its journal> <the run as JSON>`. One process writes, any may read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from typing import Final

from pydantic import TypeAdapter, ValidationError

from osremed import __version__
from osremed.core.canonical import digest
from osremed.core.files import write_all, write_atomic
from osremed.runbook.model import Run

_FIRST_SEGMENT = f"{0:020d}.jsonl"
#: Lines of removed and changed runs, above which the file is written anew.
_DEAD_LINES = 1000


def stamp_of(journal: str) -> str:
    """Names the content of a journal of one segment, which all but the longest are: a file that was written to, mended
    or put back has another. "" for any other: it is always read."""
    try:
        if any(name not in (_FIRST_SEGMENT, "lock") for name in os.listdir(journal)):
            return ""
        seen = os.stat(os.path.join(journal, _FIRST_SEGMENT))
    except OSError:
        return ""
    return f"{seen.st_ino}:{seen.st_size}:{seen.st_mtime_ns}:{seen.st_ctime_ns}"


class Index:
    """Read at the first `take`; each run is taken once."""

    def __init__(self, path: str, kind: TypeAdapter[Run]) -> None:
        self._path, self._kind = path, kind
        self._lines: dict[str, tuple[str, bytes]] | None = None
        self._kept: dict[str, str] = {}  #: run id -> stamp, of what is in the file
        self._count = 0  #: of its lines
        self._sound = False  #: it may be added to

    def _head(self) -> bytes:
        return f"osremed runs {__version__} {digest(self._kind.json_schema())}".encode()

    def _read(self) -> dict[str, tuple[str, bytes]]:
        try:
            with open(self._path, "rb") as stream:
                head, *lines = stream.read().split(b"\n")
        except OSError:
            return {}
        self._sound, self._count = head == self._head(), len(lines)
        return dict(found for line in lines if self._sound and (found := _parsed(line)))

    def take(self, run_id: str, stamp: str) -> Run | None:
        """The run as it was when its journal had this stamp; None if that is not told."""
        if self._lines is None:
            self._lines = self._read()
        then, text = self._lines.pop(run_id, ("", b""))
        if not stamp or then != stamp:
            return None
        try:
            run = self._kind.validate_json(text)
        except ValidationError:
            return None
        self._kept[run_id] = stamp
        return run

    def keep(self, ended: Mapping[str, tuple[str, Run]], most: int) -> bool:
        """Adds at most so many of those that it does not have, False when that were all. OSError if the disk will not
        take it: what is there still counts."""
        if self._lines is None:
            self._lines = self._read()
        missing = [run_id for run_id, (stamp, _run) in ended.items() if stamp and self._kept.get(run_id) != stamp]
        if self._sound and self._count > _DEAD_LINES + 2 * len(ended):
            self._sound, missing = False, [run_id for run_id, (stamp, _run) in ended.items() if stamp]
        chosen = missing[:most]
        if not chosen:
            return False
        if not self._sound:
            self._kept, self._count = {}, 0
        self._write([line for run_id in chosen if (line := self._line(run_id, *ended[run_id]))])
        self._kept.update((run_id, ended[run_id][0]) for run_id in chosen)
        self._count += len(chosen)
        return len(missing) > most

    def _line(self, run_id: str, stamp: str, run: Run) -> bytes:
        """b"" for a run that would not come back as it was."""
        text = self._kind.dump_json(run)
        if self._kind.validate_json(text) != run:
            return b""
        rest = b"%b %b %b" % (run_id.encode(), stamp.encode(), text)
        return b"%08x %b" % (zlib.crc32(rest), rest)

    def _write(self, lines: list[bytes]) -> None:
        if not self._sound:
            write_atomic(self._path, b"\n".join([self._head(), *lines, b""]), mode=0o600)
            self._sound = True
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:  # the first newline ends what a crash may have torn
            write_all(fd, b"\n".join([b"", *lines, b""]))
        finally:
            os.close(fd)


_FIELDS: Final = 4


def _parsed(line: bytes) -> tuple[str, tuple[str, bytes]] | None:
    """(run id, (stamp, the run as JSON)); None for a line that is torn or damaged."""
    crc, _, rest = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(rest) or rest.count(b" ") < _FIELDS - 2:
        return None
    run_id, stamp, text = rest.split(b" ", 2)
    return run_id.decode("ascii", "replace"), (stamp.decode("ascii", "replace"), text)
