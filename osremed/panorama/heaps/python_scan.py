"""Every object of a CPython heap, counted by type, by one pass over its memory.

An object is an address of 16-byte alignment whose first word is a reference count and whose second is a known type.
Freed objects fail: their reference count is 0 or a free-list pointer. The work is done on whole pieces of memory by
the interpreter's C loops (itertools over lists of words), which costs about 0.1 us a word.
"""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import compress, islice
from typing import NamedTuple

from osremed.core.record import record
from osremed.panorama.heaps.python_sizes import Sizer
from osremed.panorama.heaps.python_types import TypeTable
from osremed.panorama.heaps.regions import Heap, spread
from osremed.sensors.address_space import AddressSpace
from osremed.sensors.cpython import MOST_REFERENCES, Runtime

_TAIL_BYTES = 48
_SAMPLES, _LEAST_SAMPLES_PER_PIECE = 30_000, 32
LARGE_ITEMS = 1000
#: A container with more items than this, and a text longer than LARGE_ITEMS, is measured by itself.
_BIG_ITEMS = 64
_MOST_LARGE = 2000


@record
class Large:
    """A container of more than LARGE_ITEMS items."""

    items: int
    address: int
    type_address: int


@record
class Scan:
    """`counts` and `bytes` (of all, of large objects) by type address, of the share `coverage` (0..1) of the resident
    heap that was read; `modules` are the addresses of module objects."""

    counts: dict[int, int]
    bytes: dict[int, tuple[int, int]]
    large: tuple[Large, ...]
    modules: tuple[int, ...]
    coverage: float
    lost_bytes: int


def scan_heap(space: AddressSpace, runtime: Runtime, types: TypeTable, heap: Heap, deadline_s: float) -> Scan:
    """One pass. Objects that come and go meanwhile are counted or not; no other error than that."""
    sizer = Sizer(space, runtime, types)
    known = frozenset(types.by_address)
    variable = frozenset(sizer.variable)
    tuple_type, module_type = types.named("tuple"), types.named("module")
    modules: list[int] = []
    counts: Counter[int] = Counter()
    large: list[tuple[int, int, int]] = []
    samples = max(_LEAST_SAMPLES_PER_PIECE, _SAMPLES // max(1, len(heap.pieces)))
    read = lost = 0
    for address, length in spread(heap.pieces, deadline_s):
        data = space.read_prefix(address, length)
        read, lost = read + len(data), lost + length - len(data)
        piece = _piece(space, address, data)
        hits = _objects(piece, known, tuple_type, runtime.layout.version >= (3, 13))
        kinds = list(map(piece.odd.__getitem__, hits))
        modules_before = counts[module_type]
        counts.update(kinds)
        if counts[module_type] > modules_before:
            modules.extend(piece.base + 16 * i for i, kind in zip(hits, kinds) if kind == module_type)
        mixed = list(compress(hits, map(variable.__contains__, kinds)))
        large.extend(_measure(sizer, piece, mixed, samples))
        if len(large) > 2 * _MOST_LARGE:
            large = heapq.nlargest(_MOST_LARGE, large)
    covered = read / heap.bytes if heap.bytes else 1.0
    ranked = tuple(Large(*one) for one in heapq.nlargest(_MOST_LARGE, large))
    return Scan(
        {at: count for at, count in counts.items() if count},
        sizer.totals(counts),
        ranked,
        tuple(modules),
        covered,
        lost,
    )


class _Piece(NamedTuple):
    """Words at 8 and at 0 modulo 16 from `base` on: 16 bytes before a piece of memory to 48 behind it, which is what an
    object at its edge needs."""

    base: int
    odd: list[int]
    even: memoryview[int]


def _piece(space: AddressSpace, address: int, data: bytes) -> _Piece:
    lead, tail = space.read_many([(address - 16, 16), (address + len(data), _TAIL_BYTES)])
    whole = (lead or bytes(16)) + data + (tail or bytes(_TAIL_BYTES))
    words = memoryview(whole).cast("Q")
    return _Piece(address - 16, words[1::2].tolist(), words[0::2])


def _objects(piece: _Piece, known: frozenset[int], tuple_type: int, inline_values: bool) -> list[int]:
    """Indexes (in pairs of words) of objects that begin in the piece.

    A tuple of one class looks like an object of that class 16 bytes into it, its size being the reference count; and
    since 3.13 so do the values behind an object whose first attribute is a class (their header is 0x0101 above bit
    16)."""
    _base, odd, even = piece
    last = len(odd) - _TAIL_BYTES // 16
    hits = compress(range(1, last), map(known.__contains__, islice(odd, 1, last)))
    found = [i for i in hits if 0 < even[i] < MOST_REFERENCES and odd[i - 1] != tuple_type]
    return [i for i in found if even[i] >> 16 != 0x0101] if inline_values else found


def _measure(sizer: Sizer, piece: _Piece, mixed: list[int], samples: int) -> list[tuple[int, int, int]]:
    """Large objects each by itself, of the others an even sample; (items, address, type) of large containers."""
    base, odd, even = piece
    big = [
        i
        for i in mixed
        if _BIG_ITEMS < even[i + 1] < 1 << 40 and (even[i + 1] > LARGE_ITEMS or odd[i] in sizer.containers)
    ]
    sizer.exactly([(odd[i], even[i + 1], odd[i + 1], even[i + 2], odd[i + 2]) for i in big])
    step = max(1, len(mixed) // samples)
    exact = frozenset(big)
    small = [i for i in mixed[::step] if i not in exact]
    sizer.sample([(odd[i], even[i + 1], odd[i + 1], even[i + 2], odd[i + 2]) for i in small], step)
    return [
        (even[i + 1], base + 16 * i, odd[i]) for i in big if even[i + 1] > LARGE_ITEMS and odd[i] in sizer.containers
    ]
