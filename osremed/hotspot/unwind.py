"""Unwind rows for code without frame pointers: made in a child process, kept on disk by build id, told to the kernel.

A table of libc takes 0.2 s to make and some megabytes of memory, once: neither belongs into the recorder. A process is
unwound once all its code has been looked at, so that no stack ends at a library that is only not ready yet.
"""

from __future__ import annotations

import os
import signal
import struct
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from osremed.core.files import write_atomic
from osremed.core.reading import Missing
from osremed.hotspot.capture import Captured, Key
from osremed.hotspot.kernelsymbols import VDSO, vdso_path
from osremed.sensors import ehframe, elf

MOST_ROWS = 500_000
MOST_OBJECTS = 250
_MAGIC = b"OSRROW1\n"
_HEAD = struct.Struct("<8sII")
_SEGMENT = struct.Struct("<QQQ")
_ROW_BYTES = 8
_OBJECT = struct.Struct("=QQQII")
_CHUNK_ROWS = 8192
_LEAST_SAMPLES = 10
_LOADS_A_STEP = 4
_NICE = 10
_MOST_FDS = 1024


class Table(NamedTuple):
    """Rows of one file in the kernel's array, and where its segments lie: (offset, address, bytes) of each."""

    first: int
    rows: int
    segments: tuple[tuple[int, int, int], ...]


def pack_rows(rows: Sequence[ehframe.Row], segments: Sequence[tuple[int, int, int]]) -> bytes:
    """The file. A row that does not fit the kernel's form ends the stack there."""
    words = array("I")
    for row in rows:
        if row.address < 1 << 32:
            words.append(row.address)
            words.append(_rule(row))
    head = _HEAD.pack(_MAGIC, len(segments), len(words) // 2)
    return head + b"".join(_SEGMENT.pack(*each) for each in segments) + words.tobytes()


def _rule(row: ehframe.Row) -> int:
    offset, saved = row.offset // 8, row.saved // 8
    if row.offset % 8 or row.saved % 8 or not -(1 << 15) <= offset < 1 << 15 or not -(1 << 13) <= saved < 1 << 13:
        return ehframe.END
    return row.kind | (saved & 0x3FFF) << 2 | (offset & 0xFFFF) << 16


def table_path(directory: str, build_id: str) -> str:
    return os.path.join(directory, _file_name(build_id))


def _file_name(build_id: str) -> str:
    return f"unwind-{build_id}.rows"


class Unwinder:
    """The tables, and which process has them. `sensor` takes rows and processes."""

    def __init__(self, sensor: Any, directory: str) -> None:
        self._sensor, self._directory = sensor, directory
        self._tables: dict[str, Table | None] = {}
        self._told: dict[Key, bytes] = {}
        self._waiting: dict[Key, tuple[Captured, dict[str, Sequence[Any]]]] = {}  #: and the files without a table
        self._on_disk = {name for name in os.listdir(directory) if name.startswith("unwind-")}
        self._child: tuple[int, str] | None = None
        self._next_row = 0
        self.prepared_s = 0.0
        self.full = False
        self._usable = os.uname().machine == "x86_64"

    def forget(self, captured: Captured) -> None:
        self._waiting.pop(captured.key, None)
        if self._told.pop(captured.key, None) is not None and not captured.replaced:
            self._sensor.forget_unwind(captured.key[0])

    def step(self, processes: dict[Key, Captured]) -> None:
        """Small pieces of work: takes what the child has made, loads some tables, begins the next one, tells processes
        whose tables are all there; those that lack the fewest first."""
        if not self._usable:
            return
        for captured in processes.values():
            if captured.changed and captured.samples >= _LEAST_SAMPLES:
                captured.changed = False
                if captured.row["language"] not in ("java", "node"):
                    files = {each[4]: each for each in captured.row["maps"] if each[4]}
                    self._waiting[captured.key] = captured, files
        if self._waiting:
            self._prepare(self._reap(), _LOADS_A_STEP)

    def _prepare(self, idle: bool, loads: int) -> None:
        for key, (captured, files) in sorted(self._waiting.items(), key=lambda each: len(each[1][1])):
            for build_id, mapping in list(files.items()):
                on_disk = _file_name(build_id) in self._on_disk
                if build_id not in self._tables and on_disk and loads:
                    self._tables[build_id] = self._load(build_id)
                    loads -= 1
                if build_id in self._tables:
                    del files[build_id]
                elif idle and not on_disk:
                    self._begin(captured.key[0], mapping)
                    idle = False
            if not files:
                self._tell(captured)
                del self._waiting[key]
            if not idle and not loads:
                return

    def dropped(self, names: set[str]) -> None:
        """These files went from the directory: they are made again when they are needed."""
        self._on_disk -= names

    def close(self) -> None:
        """Ends a child that is still at work: what it makes is there whole or not at all."""
        if self._child is not None:
            os.kill(self._child[0], signal.SIGKILL)
            os.waitpid(self._child[0], 0)
            self._child = None

    def _reap(self) -> bool:
        """True when no child is at work."""
        if self._child is None:
            return True
        pid, build_id = self._child
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if not done:
            return False
        self._child = None
        self.prepared_s += usage.ru_utime + usage.ru_stime
        if status:
            self._tables[build_id] = None  # no rows, or not readable: its stacks end there
        else:
            self._on_disk.add(_file_name(build_id))
        return True

    def _path(self, build_id: str) -> str:
        return table_path(self._directory, build_id)

    def _begin(self, pid: int, mapping: Sequence[Any]) -> None:
        build_id = mapping[4]
        child = os.fork()
        if child == 0:
            os.closerange(3, _MOST_FDS)  # the recorder's lock and programs must not outlive it here
            os.nice(_NICE)
            start, end, _offset, path, _ = mapping
            places = [f"/proc/{pid}/map_files/{start:x}-{end:x}", f"/proc/{pid}/root{path}", path]
            if path == VDSO:
                places = [vdso_path(self._directory, build_id)]
            os._exit(make_table(places, self._path(build_id)))
        self._child = (child, build_id)

    def _load(self, build_id: str) -> Table | None:
        """Rows from the file into the kernel's array, some thousand at a time."""
        try:
            with open(self._path(build_id), "rb") as stream:
                head = stream.read(_HEAD.size)
                magic, segment_count, count = _HEAD.unpack(head)
                if magic != _MAGIC or segment_count > 64:
                    return None
                segments = tuple(_SEGMENT.unpack(stream.read(_SEGMENT.size)) for _ in range(segment_count))
                if self._next_row + count > MOST_ROWS:
                    self.full = True
                    return None
                first = self._next_row
                for at in range(0, count, _CHUNK_ROWS):
                    self._sensor.set_rows(first + at, stream.read(_ROW_BYTES * min(_CHUNK_ROWS, count - at)))
                self._next_row += count
        except (OSError, struct.error, ValueError):
            return None
        return Table(first, count, segments)

    def _tell(self, captured: Captured) -> None:
        packed: list[bytes] = []
        for start, end, offset, _path, build_id in captured.row["maps"]:
            table = self._tables.get(build_id) if build_id else None
            bias = None if table is None else bias_of(table, start, offset)
            if table is not None and bias is not None and len(packed) < MOST_OBJECTS:
                packed.append(_OBJECT.pack(start, end, bias, table.first, table.rows))
        if not packed:
            return
        value = struct.pack("=II", len(packed), captured.key[2]) + b"".join(packed).ljust(
            MOST_OBJECTS * _OBJECT.size, b"\0"
        )
        if self._told.get(captured.key) != value:
            self._sensor.set_unwind(captured.key[0], value)
            self._told[captured.key] = value


def bias_of(table: Table, start: int, offset: int) -> int | None:
    """What the addresses of a mapping lie above the linked ones; None when no segment explains it."""
    for segment_offset, address, size in table.segments:
        if segment_offset & -4096 <= offset < segment_offset + size:
            return start - (address + offset - segment_offset)
    return None


def make_table(places: Sequence[str], output: str) -> int:
    """Writes the rows of the first of these files that opens. Exit code: 0 when they are there."""
    for place in places:
        try:
            with open(place, "rb", buffering=0) as stream:
                parsed = elf.read_elf(stream.fileno(), place)
                if isinstance(parsed, Missing):
                    return 1
                rows = ehframe.read_rows(stream.fileno(), parsed.value)
        except OSError:
            continue
        if isinstance(rows, Missing):
            return 1
        loads = [each for each in parsed.value.segments if each.kind == elf.PT_LOAD]
        segments = [(each.offset, each.address, each.file_bytes) for each in loads]
        write_atomic(output, pack_rows(rows.value, segments), mode=0o600)
        return 0
    return 1
