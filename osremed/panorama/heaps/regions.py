"""The writable private memory of a process, cut into pieces that are read one after the other."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence

from osremed.core.record import record
from osremed.sensors.address_space import AddressSpace, Mapping, Residency

PIECE_BYTES = 1 << 20
_STRIDE = 16


@record
class Heap:
    """Pages to look at. `pieces` are (address, bytes) of at most 1 MiB, whole pages."""

    pieces: tuple[tuple[int, int], ...]
    residency: Residency

    @property
    def bytes(self) -> int:
        return self.residency.bytes


def resident_heap(space: AddressSpace, deadline_s: float) -> Heap:
    """Every resident page of a private writable mapping but stacks. ProcessLost when it ended."""
    chosen = [one for one in space.maps if one.private_writable and not _stack(one)]
    residency = space.resident(chosen, deadline_s)
    pieces: list[tuple[int, int]] = []
    for start, end in residency.runs:
        pieces.extend((at, min(PIECE_BYTES, end - at)) for at in range(start, end, PIECE_BYTES))
    return Heap(tuple(pieces), residency)


def _stack(mapping: Mapping) -> bool:
    return mapping.path.startswith("[stack")


def spread(pieces: Sequence[tuple[int, int]], deadline_s: float) -> Iterator[tuple[int, int]]:
    """The pieces in an order that is an even sample of the whole wherever the deadline cuts it off."""
    for first in range(_STRIDE):
        for piece in pieces[first::_STRIDE]:
            if time.monotonic() > deadline_s:
                return
            yield piece


def find_words(
    space: AddressSpace, pieces: Iterator[tuple[int, int]], words: Sequence[int], pool_bytes: int
) -> Iterator[tuple[int, int]]:
    """(word, address) of all aligned words that equal one of `words`, outside of CPython's pools of small objects."""
    needles = [(word, word.to_bytes(8, "little")) for word in words]
    for address, length in pieces:
        data = space.read_prefix(address, length)
        for first, last in _outside_pools(data, address, pool_bytes):
            for word, needle in needles:
                at = data.find(needle, first, last)
                while at >= 0:
                    if at % 8 == 0:
                        yield word, address + at
                    at = data.find(needle, at + 1, last)


def _outside_pools(data: bytes, address: int, pool_bytes: int) -> Iterator[tuple[int, int]]:
    """Spans of the piece that are no pool. A pool begins with a header whose size class (at 36) and last offset (at 44)
    fit each other: Objects/obmalloc.c. It holds objects of at most 512 bytes, so no type."""
    began = 0
    for at in range(-address % pool_bytes, len(data) - pool_bytes + 1, pool_bytes):
        size_class, _next, last = struct.unpack_from("<III", data, at + 36)
        if size_class < 32 and last == pool_bytes - 16 * (size_class + 1):
            if began < at:
                yield began, at
            began = at + pool_bytes
    if began < len(data):
        yield began, len(data)
