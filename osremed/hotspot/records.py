"""The raw records the BPF programs write (sensors/bpf/hotspot.bpf.c has the same layouts): events, and the stacks they
name by number.

A segment keeps them as they came out of the kernel's ring: 4 bytes of length (two high bits are flags), 4 unused, the
record, padding to 8 bytes. The daemon does not look inside more than it must. A stack is sent once a segment, before
the first event that has it; an event may differ from it in the leaf, its first address. Little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

CPU_SAMPLE = 1
AWAY = 2  #: a wait that has ended, `since_ns` to `at_ns`
OPENED = 3  #: a path
STACK = 4

#: kind, kernel, user, python, flags, program, number, start of the process, tgid, samples of the program so far
STACK_HEAD = struct.Struct("<HBBBBHQQII")
#: kind, program, syscall, at, since, stack, leaf, argument, tid, tgid, comm
EVENT = struct.Struct("<HHiQQQQQII16s")
_START = struct.Struct("<Q")
LENGTH = struct.Struct("<I4x")
_BUSY, _DISCARD = 1 << 31, 1 << 30
PYTHON_ERROR = 1  #: the walk over Python frames ended at a frame that could not be read
PYTHON_UNKNOWN = 2  #: a Python process, but the state of this thread was not found
UNWOUND = 4  #: the user stack comes from unwind tables, not from frame pointers
USER_CUT = 8  #: the user stack did not reach its root
_PATH_BYTES = 256


class Stack(NamedTuple):
    """Leaf first; `python` alternates code object and instruction."""

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


def split(data: bytes) -> Iterator[memoryview]:
    """Each record of a stream. ValueError when a length does not fit what is left."""
    view, at = memoryview(data), 0
    while at < len(view):
        if at + LENGTH.size > len(view):
            raise ValueError("truncated length")
        (length,) = LENGTH.unpack_from(view, at)
        at += LENGTH.size
        size = length & ~(_BUSY | _DISCARD)
        if at + size > len(view) or (size < STACK_HEAD.size and not length & _DISCARD):
            raise ValueError(f"record of {size} bytes does not fit")
        if not length & _DISCARD:
            yield view[at : at + size]
        at += (size + 7) & ~7


def stacks_of(data: bytes) -> dict[int, Stack]:
    """The stacks of a stream, by number. ValueError for one that does not fit its record."""
    return dict(_stack(record) for record in split(data) if record[0] == STACK)


def _stack(record: memoryview) -> tuple[int, Stack]:
    _kind, n_kernel, n_user, n_python, flags, program, number, start_ns, tgid, _ = STACK_HEAD.unpack_from(record)
    count = n_kernel + n_user + 2 * n_python
    if len(record) < STACK_HEAD.size + 8 * count:
        raise ValueError(f"{count} addresses do not fit {len(record)} bytes")
    words = struct.unpack_from(f"<{count}Q", record, STACK_HEAD.size)
    user_end = n_kernel + n_user
    return number, Stack(start_ns, tgid, program, flags, words[:n_kernel], words[n_kernel:user_end], words[user_end:])


def read(data: bytes, stacks: Mapping[int, Stack]) -> Iterator[Raw | None]:
    """The events of a stream; None for one whose stack is not among `stacks`. ValueError for a kind that is not known
    or a record that is too short."""
    for record in split(data):
        if record[0] == STACK:
            continue
        if len(record) < EVENT.size:
            raise ValueError("shorter than an event")
        if record[0] == OPENED:
            yield _opened(record)
        elif record[0] in (CPU_SAMPLE, AWAY):
            yield _joined(record, stacks)
        else:
            raise ValueError(f"unknown kind {record[0]}")


def _joined(record: memoryview, stacks: Mapping[int, Stack]) -> Raw | None:
    kind, program, syscall, at_ns, since_ns, number, leaf, argument, tid, tgid, comm = EVENT.unpack_from(record)
    stack = stacks.get(number)
    if stack is None:
        return None
    kernel, user = stack.kernel, stack.user
    if kernel:
        kernel = (leaf, *kernel[1:])
    elif user:
        user = (leaf, *user[1:])
    return Raw(
        at_ns, since_ns, stack.start_ns, argument, tgid, tid, syscall, kind, stack.flags, _text(comm), kernel, user,
        stack.python, "", program,
    )  # fmt: skip


def _opened(record: memoryview) -> Raw:
    _kind, program, syscall, at_ns, _since, _number, _leaf, argument, tid, tgid, comm = EVENT.unpack_from(record)
    if len(record) < EVENT.size + _START.size:
        raise ValueError("an opened path without its process")
    (start_ns,) = _START.unpack_from(record, EVENT.size)
    path = _text(bytes(record[EVENT.size + _START.size :][:_PATH_BYTES]))
    return Raw(
        at_ns, 0, start_ns, argument, tgid, tid, syscall, OPENED, 0, _text(comm), (), (), (), path, program
    )  # fmt: skip


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def build(raw: Raw) -> list[bytes]:
    """The records of an event, its stack first: for tests."""
    words = (*raw.kernel, *raw.user, *raw.python)
    comm, leaf = raw.comm.encode()[:15], words[0] if words else 0
    stack = STACK_HEAD.pack(
        STACK, len(raw.kernel), len(raw.user), len(raw.python) // 2, raw.flags, raw.program, hash(raw) & (1 << 64) - 1,
        raw.start_ns, raw.tgid, 1,
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
