"""The raw records the BPF programs write (sensors/bpf/hotspot.bpf.c has the same layouts): events, and the stacks they
name by number.

A segment keeps them as they came out of the kernel's ring: 4 bytes of length (two high bits are flags), 4 unused, the
record, padding to 8 bytes. The daemon does not look inside more than it must. A stack is sent once a segment, before
the first event that has it; an event may differ from it in the leaf, its first address. Frames of Python name what they
are called by number: texts, which are in a book (book.py). Counts by system call are kept as the maps held them.
Little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from osremed.hotspot.model import Frame
from osremed.sensors.pyframes import CodeName, index_of, line_of, text_of

CPU_SAMPLE = 1
AWAY = 2  #: a wait that has ended, `since_ns` to `at_ns`
OPENED = 3  #: a path
STACK = 4
TEXT = 5  #: what a code object of CPython is called
MET = 6  #: a program was met by the sampler
COUNTS = 7  #: what a map counted by process and system call

#: kind, kernel, user, python, flags, program, number, start of the process, tgid
STACK_HEAD = struct.Struct("<HBBBBHQQI4x")
#: kind, program, syscall, at, since, stack, leaf, argument, tid, tgid, comm
EVENT = struct.Struct("<HHiQQQQQII16s")
_START = struct.Struct("<Q")
#: kind, version, bytes a character of name and file, number, first line, bytes of name, file and table
TEXT_HEAD = struct.Struct("<HHBB2xQIIII")
#: kind, program, tgid, start of the process, samples of the program so far, number in its own namespace, comm
MEETING = struct.Struct("<HHIQII16s")
#: kind, which, bytes of a key, of a value, how many
_COUNTS_HEAD = struct.Struct("<HHIII")
_CALL = struct.Struct("<Ii")
_BUCKETS = 20
_WAITS = struct.Struct(f"<3Q{_BUCKETS}I16s")
_MADE = struct.Struct("<2Q16s")
WAITS, CALLS = 1, 2  #: which counts
NAMED = 1 << 63  #: a word with it is the number of a text; one without, an address that has no name
LENGTH = struct.Struct("<I4x")
_BUSY, _DISCARD = 1 << 31, 1 << 30
PYTHON_ERROR = 1  #: the walk over Python frames ended at a frame that could not be read
PYTHON_UNKNOWN = 2  #: a Python process, but the state of this thread was not found
UNWOUND = 4  #: the user stack comes from unwind tables, not from frame pointers
USER_CUT = 8  #: the user stack did not reach its root
PYTHON_CUT = 16  #: there are more Python frames than the sampler takes: the root is missing
_PATH_BYTES = 256


class Stack(NamedTuple):
    """Leaf first; `python` alternates the code object (NAMED and the number of its text, or its address) and how far
    behind its first instruction it is."""

    start_ns: int
    tgid: int
    program: int
    flags: int
    kernel: tuple[int, ...]
    user: tuple[int, ...]
    python: tuple[int, ...]


class Raw(NamedTuple):
    """An event with its stack. `at_ns` and `since_ns` are CLOCK_MONOTONIC; `syscall` is -1 outside of one; `program`
    counts what the process became (exec)."""

    at_ns: int
    since_ns: int
    start_ns: int
    argument: int
    tgid: int
    tid: int
    syscall: int
    kind: int
    flags: int
    comm: str
    kernel: tuple[int, ...]
    user: tuple[int, ...]
    python: tuple[int, ...]
    path: str
    program: int = 0
    number: int = 0  #: of the stack, in its run; with the leaf and the program it tells the whole of it


def split(data: bytes) -> Iterator[memoryview]:
    """Each record of a stream. ValueError when a length does not fit what is left."""
    view, at = memoryview(data), 0
    while at < len(view):
        if at + LENGTH.size > len(view):
            raise ValueError("truncated length")
        (length,) = LENGTH.unpack_from(view, at)
        at += LENGTH.size
        size = length & ~(_BUSY | _DISCARD)
        if at + size > len(view) or (size < _COUNTS_HEAD.size and not length & _DISCARD):
            raise ValueError(f"record of {size} bytes does not fit")
        if not length & _DISCARD:
            yield view[at : at + size]
        at += (size + 7) & ~7


def stacks_of(data: bytes) -> dict[int, Stack]:
    """The stacks of a stream, by number. ValueError for one that does not fit its record."""
    return dict(_stack(record) for record in split(data) if record[0] == STACK)


def _stack(record: memoryview) -> tuple[int, Stack]:
    if len(record) < STACK_HEAD.size:
        raise ValueError("shorter than the head of a stack")
    _kind, n_kernel, n_user, n_python, flags, program, number, start_ns, tgid = STACK_HEAD.unpack_from(record)
    count = n_kernel + n_user + 2 * n_python
    if len(record) < STACK_HEAD.size + 8 * count:
        raise ValueError(f"{count} addresses do not fit {len(record)} bytes")
    words = struct.unpack_from(f"<{count}Q", record, STACK_HEAD.size)
    user_end = n_kernel + n_user
    return number, Stack(start_ns, tgid, program, flags, words[:n_kernel], words[n_kernel:user_end], words[user_end:])


def read(data: bytes, stacks: Mapping[int, Stack]) -> Iterator[Raw | None]:
    """The events of a stream; None for one whose stack is not among `stacks`. ValueError for a kind that is not known
    or a record that is too short."""
    joined: dict[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]] = {}
    names: dict[bytes, str] = {}
    for record in split(data):
        if record[0] in (STACK, COUNTS):
            continue
        if len(record) < EVENT.size:
            raise ValueError("shorter than an event")
        if record[0] == OPENED:
            yield _opened(record)
        elif record[0] in (CPU_SAMPLE, AWAY):
            yield _joined(record, stacks, joined, names)
        else:
            raise ValueError(f"unknown kind {record[0]}")


def _joined(
    record: memoryview,
    stacks: Mapping[int, Stack],
    joined: dict[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]],
    names: dict[bytes, str],
) -> Raw | None:
    """Events are many, stacks and names few: what they have in common is there once."""
    kind, program, syscall, at_ns, since_ns, number, leaf, argument, tid, _tgid, comm = EVENT.unpack_from(record)
    stack = stacks.get(number)
    if stack is None:
        return None
    addresses = joined.get((number, leaf))
    if addresses is None:
        kernel, user = stack.kernel, stack.user
        if kernel:
            kernel = (leaf, *kernel[1:])
        elif user:
            user = (leaf, *user[1:])
        addresses = joined[number, leaf] = kernel, user
    name = names.get(comm)
    if name is None:
        name = names[comm] = comm_text(comm)
    return Raw(
        at_ns, since_ns, stack.start_ns, argument, stack.tgid, tid, syscall, kind, stack.flags, name, *addresses,
        stack.python, "", program, number,
    )  # fmt: skip


def _opened(record: memoryview) -> Raw:
    _kind, program, syscall, at_ns, _since, _number, _leaf, argument, tid, tgid, comm = EVENT.unpack_from(record)
    if len(record) < EVENT.size + _START.size:
        raise ValueError("an opened path without its process")
    (start_ns,) = _START.unpack_from(record, EVENT.size)
    path = comm_text(bytes(record[EVENT.size + _START.size :][:_PATH_BYTES]))
    return Raw(
        at_ns, 0, start_ns, argument, tgid, tid, syscall, OPENED, 0, comm_text(comm), (), (), (), path, program
    )  # fmt: skip


class Text:
    """What a code object of CPython is called. `frames` keeps what was made of its instructions: stacks repeat."""

    __slots__ = ("_code", "_version", "file", "frames", "name")

    def __init__(self, code: CodeName, version: tuple[int, int]) -> None:
        self.name, self.file = code.name, code.file
        self._code, self._version = code, version
        self.frames: dict[int, Frame] = {}

    def line(self, instruction: int) -> int:
        """Of the word a stack has beside the number; 0: it has none."""
        index = index_of(self._version, instruction)
        return line_of(self._version, self._code.table, self._code.first_line, index)


def texts_of(data: bytes) -> Iterator[tuple[int, Text]]:
    """The texts of a stream, by number. ValueError for one that does not fit its record."""
    return (_text_of(record) for record in split(data) if len(record) and record[0] == TEXT)


def _text_of(record: memoryview) -> tuple[int, Text]:
    if len(record) < TEXT_HEAD.size:
        raise ValueError("shorter than the head of a text")
    _kind, version, name_width, file_width, number, line, *sizes = TEXT_HEAD.unpack_from(record)
    if len(record) < TEXT_HEAD.size + sum(sizes):
        raise ValueError(f"{sum(sizes)} bytes of text do not fit {len(record)} bytes")
    if name_width not in (1, 2, 4) or file_width not in (1, 2, 4):
        raise ValueError(f"characters of {name_width} and {file_width} bytes")
    name_end, file_end = TEXT_HEAD.size + sizes[0], TEXT_HEAD.size + sizes[0] + sizes[1]
    code = CodeName(
        text_of(bytes(record[TEXT_HEAD.size : name_end]), name_width),
        text_of(bytes(record[name_end:file_end]), file_width),
        line if line < 1 << 31 else 0,
        bytes(record[file_end : file_end + sizes[2]]),
    )
    return number, Text(code, (version >> 8, version & 0xFF))


def counts(which: int, keys: bytes, values: bytes, value_bytes: int) -> bytes:
    """A record of what a map held."""
    return _COUNTS_HEAD.pack(COUNTS, which, _CALL.size, value_bytes, len(keys) // _CALL.size) + keys + values


def counts_of(data: bytes, which: int) -> Iterator[dict[str, Any]]:
    """Rows of the counts in a stream: exact waits, or system calls in the windows. ValueError for what does not fit."""
    for record in split(data):
        if record[0] != COUNTS or len(record) < _COUNTS_HEAD.size:
            continue
        _kind, found, key_bytes, value_bytes, count = _COUNTS_HEAD.unpack_from(record)
        if found != which:
            continue
        layout = _WAITS if which == WAITS else _MADE
        if key_bytes != _CALL.size or value_bytes < layout.size or value_bytes % layout.size:
            raise ValueError(f"counts with keys of {key_bytes} and values of {value_bytes} bytes")
        if len(record) < _COUNTS_HEAD.size + count * (key_bytes + value_bytes):
            raise ValueError(f"{count} counts do not fit {len(record)} bytes")
        values_at = _COUNTS_HEAD.size + count * key_bytes
        for at in range(count):
            pid, syscall = _CALL.unpack_from(record, _COUNTS_HEAD.size + at * key_bytes)
            value = record[values_at + at * value_bytes : values_at + (at + 1) * value_bytes]
            yield {"pid": pid, "syscall": syscall, **_row(which, list(layout.iter_unpack(value)))}


def _row(which: int, parts: list[Any]) -> dict[str, Any]:
    """One value, or that of each CPU."""
    name = next((comm_text(part[-1]) for part in parts if part[-1][0]), "?")
    count, total = sum(part[0] for part in parts), sum(part[1] for part in parts)
    if which == CALLS:
        return {"name": name, "count": count, "bytes": total}
    buckets = [sum(part[3 + at] for part in parts) for at in range(_BUCKETS)]
    return {"name": name, "count": count, "total_ns": total, "longest_ns": max(part[2] for part in parts),
            "buckets": buckets}  # fmt: skip


def comm_text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def build(raw: Raw) -> list[bytes]:
    """The records of an event, its stack first: for tests."""
    words = (*raw.kernel, *raw.user, *raw.python)
    comm, leaf = raw.comm.encode()[:15], words[0] if words else 0
    stack = STACK_HEAD.pack(
        STACK, len(raw.kernel), len(raw.user), len(raw.python) // 2, raw.flags, raw.program, hash(raw) & (1 << 64) - 1,
        raw.start_ns, raw.tgid,
    )  # fmt: skip
    event = EVENT.pack(
        raw.kind, raw.program, raw.syscall, raw.at_ns, raw.since_ns, hash(raw) & (1 << 64) - 1, leaf, raw.argument,
        raw.tid, raw.tgid, comm,
    )  # fmt: skip
    if raw.kind == OPENED:
        return [event + _START.pack(raw.start_ns) + raw.path.encode()[: _PATH_BYTES - 1] + b"\0"]
    return [stack + struct.pack(f"<{len(words)}Q", *words), event]


def join(records: Sequence[bytes]) -> bytes:
    """A stream of records, as the kernel's ring has them."""
    return b"".join(LENGTH.pack(len(each)) + each + bytes(-len(each) % 8) for each in records)
