"""The raw records the BPF programs write (sensors/bpf/hotspot.bpf.c has the same layout): a header, then the stacks.

A segment keeps them as they came out of the kernel's ring: 4 bytes of length (two high bits are flags), 4 unused, the
record, padding to 8 bytes. The daemon does not look inside more than it must. Little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

CPU_SAMPLE = 1
AWAY_STACK = 2  #: at switch-out: where the thread went to sleep
AWAY_END = 3  #: at switch-in: `since_ns` names the switch-out
OPENED = 4  #: a path, in the place of the stacks

#: at, since, start of the process, run delay, argument; tgid, tid, syscall, kind; kernel, user, python, flags; exec,
#: comm
HEADER = struct.Struct("<QQQQQIIiHBBBBH4x16s")
LENGTH = struct.Struct("<I4x")
_BUSY, _DISCARD = 1 << 31, 1 << 30
PYTHON_ERROR = 1  #: the walk over Python frames ended at a frame that could not be read
PYTHON_UNKNOWN = 2  #: a Python process, but this thread is not known yet
UNWOUND = 4  #: the user stack comes from unwind tables, not from frame pointers
USER_CUT = 8  #: the user stack did not reach its root
_PATH_BYTES = 256


class Raw(NamedTuple):
    """`at_ns` and `since_ns` are CLOCK_MONOTONIC; `syscall` is -1 outside of one. Stacks have the leaf first;
    `python` alternates code object and instruction."""

    at_ns: int
    since_ns: int
    start_ns: int
    run_delay_ns: int
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
    program: int = 0  #: counts what the process became (exec)


def split(data: bytes) -> Iterator[memoryview]:
    """Each record of a stream. ValueError when a length does not fit what is left."""
    view, at = memoryview(data), 0
    while at < len(view):
        if at + LENGTH.size > len(view):
            raise ValueError("truncated length")
        (length,) = LENGTH.unpack_from(view, at)
        at += LENGTH.size
        size = length & ~(_BUSY | _DISCARD)
        if at + size > len(view) or (size < HEADER.size and not length & _DISCARD):
            raise ValueError(f"record of {size} bytes does not fit")
        if not length & _DISCARD:
            yield view[at : at + size]
        at += (size + 7) & ~7


def parse(record: memoryview | bytes) -> Raw:
    """ValueError for a kind that is not known or stacks that do not fit."""
    if len(record) < HEADER.size:
        raise ValueError("shorter than its header")
    (
        at_ns,
        since_ns,
        start_ns,
        run_delay_ns,
        argument,
        tgid,
        tid,
        syscall,
        kind,
        n_kernel,
        n_user,
        n_python,
        flags,
        program,
        comm,
    ) = HEADER.unpack_from(record)
    body = bytes(record[HEADER.size :])
    words: tuple[int, ...] = ()
    path = ""
    if kind == OPENED:
        path = _text(body[:_PATH_BYTES])
    elif kind in (CPU_SAMPLE, AWAY_STACK, AWAY_END):
        count = n_kernel + n_user + 2 * n_python
        if len(body) < 8 * count:
            raise ValueError(f"{count} addresses do not fit {len(body)} bytes")
        words = struct.unpack_from(f"<{count}Q", body)
    else:
        raise ValueError(f"unknown kind {kind}")
    return Raw(
        at_ns,
        since_ns,
        start_ns,
        run_delay_ns,
        argument,
        tgid,
        tid,
        syscall,
        kind,
        flags,
        _text(comm),
        words[:n_kernel],
        words[n_kernel : n_kernel + n_user],
        words[n_kernel + n_user :],
        path,
        program,
    )


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def build(raw: Raw) -> bytes:
    """The bytes of a record without its length: for imports and tests."""
    header = HEADER.pack(
        raw.at_ns,
        raw.since_ns,
        raw.start_ns,
        raw.run_delay_ns,
        raw.argument,
        raw.tgid,
        raw.tid,
        raw.syscall,
        raw.kind,
        len(raw.kernel),
        len(raw.user),
        len(raw.python) // 2,
        raw.flags,
        raw.program,
        raw.comm.encode()[:15],
    )
    if raw.kind == OPENED:
        return header + raw.path.encode()[: _PATH_BYTES - 1] + b"\0"
    words = (*raw.kernel, *raw.user, *raw.python)
    return header + struct.pack(f"<{len(words)}Q", *words)


def join(records: Sequence[bytes]) -> bytes:
    """A stream of records, as the kernel's ring has them."""
    return b"".join(LENGTH.pack(len(each)) + each + bytes(-len(each) % 8) for each in records)
