"""The ring: a directory of segments, bounded by size and age. A segment that is torn or altered is skipped and said.

Segments appear under their name whole (written beside, then renamed). They are not fsynced: a crash of the host may
cost the last ones, which their checksums tell, and nothing else.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator

from osremed.core.files import read_bytes, write_all
from osremed.core.paths import HostPaths
from osremed.core.record import record
from osremed.hotspot.segment import Segment, decode, encode

_NAME = re.compile(r"([0-9]{19})-([0-9]{19})\.hot")


@record
class Entry:
    start_ns: int
    end_ns: int
    path: str
    bytes: int


@record
class Window:
    """The readable segments that touch a window, oldest first; `damaged` says what could not be read, and why."""

    segments: tuple[Segment, ...]
    damaged: tuple[str, ...]


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
            segments.append(decode(read_bytes(entry.path, limit_bytes=256 << 20)))
        except FileNotFoundError:  # retention was faster
            damaged.append(f"{os.path.basename(entry.path)}: dropped by retention meanwhile")
        except (ValueError, OSError) as error:
            damaged.append(f"{os.path.basename(entry.path)}: {error}")
    return Window(tuple(segments), tuple(damaged))


class RingWriter:
    """Appends segments and drops the oldest ones beyond `max_bytes` or `max_age_s`. One writer a directory: the daemon
    holds its lock. OSError when the disk is full: the segment is lost and nothing else."""

    def __init__(self, directory: str, *, max_bytes: int, max_age_s: float) -> None:
        self.directory, self._max_bytes, self._max_age_s = directory, max_bytes, max_age_s
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for name in self._leftovers():
            os.unlink(os.path.join(directory, name))
        self._entries = deque(entries(directory))
        self.bytes = sum(entry.bytes for entry in self._entries)

    def bound(self, max_bytes: int, max_age_s: float) -> None:
        """Other bounds, from the next segment on."""
        self._max_bytes, self._max_age_s = max_bytes, max_age_s

    def _leftovers(self) -> Iterator[str]:
        """Half-written segments of a writer that was killed."""
        return (name for name in os.listdir(self.directory) if name.endswith(".hot.tmp"))

    def append(self, segment: Segment) -> int:
        """Bytes written."""
        data = encode(segment)
        path = os.path.join(self.directory, f"{segment.start_ns:019d}-{segment.end_ns:019d}.hot")
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
        self._entries.append(Entry(segment.start_ns, segment.end_ns, path, len(data)))
        self.bytes += len(data)
        self._trim(segment.end_ns)
        return len(data)

    def _trim(self, now_ns: int) -> None:
        oldest_ns = now_ns - round(self._max_age_s * 1e9)
        while len(self._entries) > 1 and (self.bytes > self._max_bytes or self._entries[0].end_ns < oldest_ns):
            dropped = self._entries.popleft()
            self.bytes -= dropped.bytes
            try:
                os.unlink(dropped.path)
            except FileNotFoundError:
                continue
