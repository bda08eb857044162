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
from osremed.hotspot.child import begin
from osremed.hotspot.kernelsymbols import VDSO, vdso_path
from osremed.sensors import ehframe, elf

MOST_ROWS = 500_000
MOST_OBJECTS = 250
_MAGIC = b"OSRROW2\n"  #: another is of an earlier release: made anew
_HEAD = struct.Struct("<8sII")
_SEGMENT = struct.Struct("<QQQ")
_ROW_BYTES = 8
_ROOT_RULE = 1 << 16  #: END with an offset
_OBJECT = struct.Struct("=QQQII")
_CHUNK_ROWS = 8192
_LEAST_SAMPLES = 10
_LOADS_A_STEP = 4
_NICE = 10
_PAUSE_STEPS = 10  #: no table is begun for so long after one that failed: a full disk, no memory
_AGAIN_STEPS = 600  #: and for so long not the same one for the same program
MADE, NO_ROWS, GONE, FAILED = range(4)  #: what came of a table


class Table(NamedTuple):
    """Rows of one file in the kernel's array, and where its segments lie: (offset, address, bytes) of each."""

    first: int
    rows: int
    segments: tuple[tuple[int, int, int], ...]


def pack_rows(rows: Sequence[ehframe.Row], segments: Sequence[tuple[int, int, int]]) -> bytes:
    """The file. A row that does not fit the kernel's form ends the stack there."""
    words = array("I")
    for row in rows:
        if 0 <= row.address < 1 << 32:
            words.append(row.address)
            words.append(_rule(row))
    head = _HEAD.pack(_MAGIC, len(segments), len(words) // 2)
    return head + b"".join(_SEGMENT.pack(*each) for each in segments) + words.tobytes()


def _rule(row: ehframe.Row) -> int:
    if row.kind in (ehframe.END, ehframe.ROOT):
        return ehframe.END if row.kind == ehframe.END else _ROOT_RULE
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
        self._child: tuple[int, Key, str] | None = None
        self._failed: dict[Key, Captured] = {}  #: those that lack a table for a reason that may pass
        self._pause = self._steps = 0
        self._refused = False  #: the kernel's map has no room for one that waits
        self._next_row = 0
        self.prepared_s = 0.0
        self.full = False
        self._usable = os.uname().machine == "x86_64"

    def forget(self, captured: Captured) -> None:
        self._waiting.pop(captured.key, None)
        self._failed.pop(captured.key, None)
        self._refused = self._refused and bool(self._waiting)
        pid = captured.key[0]
        if self._told.pop(captured.key, None) is not None and all(key[0] != pid for key in self._told):
            self._sensor.forget_unwind(pid)

    def step(self, processes: dict[Key, Captured]) -> None:
        """Small pieces of work: takes what the child has made, loads some tables, begins the next one, tells processes
        whose tables are all there; those that lack the fewest first."""
        if not self._usable:
            return
        self._steps += 1
        self._pause = max(0, self._pause - 1)
        if self._failed and self._steps % _AGAIN_STEPS == 0:
            for captured in self._failed.values():
                captured.changed = True
            self._failed = {}
        for captured in processes.values():
            if captured.changed and captured.samples >= _LEAST_SAMPLES:
                captured.changed = False
                if captured.row["language"] not in ("java", "node"):
                    files = {each[4]: each for each in captured.row["maps"] if each[4]}
                    self._waiting[captured.key] = captured, files
        if self._waiting:
            self._prepare(self._reap() and not self._pause, _LOADS_A_STEP)

    def _prepare(self, idle: bool, loads: int) -> None:
        self._refused = False
        for key, (captured, files) in sorted(self._waiting.items(), key=lambda each: len(each[1][1])):
            for build_id, mapping in list(files.items()):
                on_disk = _file_name(build_id) in self._on_disk
                if build_id not in self._tables and on_disk and loads:
                    table = self._load(build_id)
                    if _file_name(build_id) in self._on_disk:
                        self._tables[build_id] = table
                    loads -= 1
                if build_id in self._tables:
                    del files[build_id]
                elif idle and not on_disk:
                    self._begin(captured.key, mapping)
                    idle = False
            if not files and self._tell(captured):
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
        pid, key, build_id = self._child
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if not done:
            return False
        self._child = None
        self.prepared_s += usage.ru_utime + usage.ru_stime
        came = os.WEXITSTATUS(status) if os.WIFEXITED(status) else FAILED
        if came == MADE:
            self._on_disk.add(_file_name(build_id))
        elif came == NO_ROWS:
            self._tables[build_id] = None
        elif key in self._waiting:  # it goes without; another process may have better luck with the file
            captured, files = self._waiting[key]
            files.pop(build_id, None)
            if came != GONE:
                self._failed[key] = captured
        if came not in (MADE, NO_ROWS, GONE):
            self._pause = _PAUSE_STEPS
        return True

    def _path(self, build_id: str) -> str:
        return table_path(self._directory, build_id)

    def _begin(self, key: Key, mapping: Sequence[Any]) -> None:
        start, end, _offset, path, build_id = mapping
        places = [f"/proc/{key[0]}/map_files/{start:x}-{end:x}", f"/proc/{key[0]}/root{path}"]
        if path == VDSO:
            places = [vdso_path(self._directory, build_id)]
        try:
            child = begin(lambda: make_table(places, build_id, self._path(build_id)), _NICE)
        except OSError:  # no process or no memory for one: the file is still waited for
            self._pause = _PAUSE_STEPS
            return
        self._child = (child, key, build_id)

    def gaps(self) -> tuple[str, ...]:
        """Why some processes are not unwound now."""
        found = []
        if self.full:
            found.append("no room for more unwind tables: some native stacks go by frame pointers")
        if self._refused:
            found.append("no room for more processes with unwind tables: stacks of the others go by frame pointers")
        if self._failed or self._pause:
            found.append("some unwind tables could not be made: native stacks end there until they are tried again")
        return tuple(found)

    def _load(self, build_id: str) -> Table | None:
        """Rows from the file into the kernel's array, some thousand at a time. A file that is gone, or of an earlier
        release, is not on disk any more."""
        try:
            with open(self._path(build_id), "rb") as stream:
                head = stream.read(_HEAD.size)
                magic, segment_count, count = _HEAD.unpack(head)
                if magic != _MAGIC:
                    raise FileNotFoundError
                if segment_count > 64:
                    return None
                segments = tuple(_SEGMENT.unpack(stream.read(_SEGMENT.size)) for _ in range(segment_count))
                if self._next_row + count > MOST_ROWS:
                    self.full = True
                    return None
                first = self._next_row
                for at in range(0, count, _CHUNK_ROWS):
                    self._sensor.set_rows(first + at, stream.read(_ROW_BYTES * min(_CHUNK_ROWS, count - at)))
                self._next_row += count
        except FileNotFoundError:
            self._on_disk.discard(_file_name(build_id))
            return None
        except (OSError, struct.error, ValueError):
            return None
        return Table(first, count, segments)

    def _tell(self, captured: Captured) -> bool:
        """False when there is no room for it now."""
        if self._refused and captured.key not in self._told:
            return False
        main = next((each for each in captured.row["maps"] if each[3].startswith("/")), None)
        if main is None or self._tables.get(main[4]) is None:
            return True  # its own code has no rows (Go): frame pointers reach further than those of its libraries
        packed: list[bytes] = []
        for start, end, offset, _path, build_id in captured.row["maps"]:
            table = self._tables.get(build_id) if build_id else None
            bias = None if table is None else bias_of(table, start, offset)
            if table is not None and bias is not None and len(packed) < MOST_OBJECTS:
                packed.append(_OBJECT.pack(start, end, bias, table.first, table.rows))
        if not packed:
            return True
        value = struct.pack("=II", len(packed), captured.key[2]) + b"".join(packed).ljust(
            MOST_OBJECTS * _OBJECT.size, b"\0"
        )
        if self._told.get(captured.key) != value:
            if not self._sensor.set_unwind(captured.key[0], value):
                self._refused = True
                return False
            self._told[captured.key] = value
        return True


def bias_of(table: Table, start: int, offset: int) -> int | None:
    """What the addresses of a mapping lie above the linked ones; None when no segment explains it."""
    for segment_offset, address, size in table.segments:
        if segment_offset & -4096 <= offset < segment_offset + size:
            return start - (address + offset - segment_offset)
    return None


def make_table(places: Sequence[str], build_id: str, output: str) -> int:
    """Writes the rows of the first of these files that is the one with this build id. MADE; NO_ROWS: it has none that
    can be read; GONE: it is at none of these places, which tells nothing of another process that maps it."""
    for place in places:
        try:
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        with open(fd, "rb", buffering=0):
            parsed = elf.read_elf(fd, place)
            if isinstance(parsed, Missing) or elf.identity(fd, parsed.value) != build_id:
                continue
            rows = ehframe.read_rows(fd, parsed.value)
        if isinstance(rows, Missing):
            return NO_ROWS
        loads = [each for each in parsed.value.segments if each.kind == elf.PT_LOAD]
        segments = [(each.offset, each.address, each.file_bytes) for each in loads]
        write_atomic(output, pack_rows(rows.value, segments), mode=0o600)
        return MADE
    return GONE
