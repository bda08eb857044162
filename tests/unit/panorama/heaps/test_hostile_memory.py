"""Readers of foreign structures against memory that holds anything at all: bounded, and no exception of theirs."""

from __future__ import annotations

import random
import struct
import time

import pytest

from osremed.panorama.heaps.native_malloc import arenas
from osremed.panorama.heaps.python_graph import Graph
from osremed.panorama.heaps.python_holders import find_holders
from osremed.panorama.heaps.python_scan import scan_heap
from osremed.panorama.heaps.python_sizes import Sizer
from osremed.panorama.heaps.python_types import TypeTable, find_types
from osremed.panorama.heaps.regions import Heap
from osremed.sensors import cpython
from osremed.sensors.address_space import Mapping, Residency
from osremed.sensors.cpython import LAYOUTS, Runtime, TypeInfo

BASE, SIZE = 0x7F0000000000, 1 << 18
TYPE_AT, CLASS_AT, TUPLE_AT = BASE + 0x1000, BASE + 0x2000, BASE + 0x3000


class Memory:
    """An AddressSpace whose memory is these bytes at BASE."""

    def __init__(self, data: bytes) -> None:
        self.data, self.faults, self.bytes_read, self.pid, self.root = data, 0, 0, 1, "/proc"
        self.maps = (Mapping(BASE, BASE + len(data), "rw-p", 0, "00:00", 0, "[heap]"),)

    def read(self, address: int, length: int) -> bytes | None:
        at = address - BASE
        assert length < 1 << 26, "a read of what no structure can be"
        if length <= 0 or not 0 <= at <= len(self.data) - length:
            self.faults += 1
            return None
        return self.data[at : at + length]

    def read_prefix(self, address: int, length: int) -> bytes:
        at = address - BASE
        return self.data[at : at + length] if 0 <= at < len(self.data) else b""

    def read_many(self, spans):
        return [self.read(*span) for span in spans]

    def check_same(self) -> None:
        return


def words_that_point_inside(seed: int) -> bytearray:
    """Random words: small numbers, pointers into this memory, flags, garbage."""
    chance = random.Random(seed)
    words = []
    for _ in range(SIZE // 8):
        kind = chance.random()
        if kind < 0.35:
            words.append(BASE + chance.randrange(SIZE) & ~7)
        elif kind < 0.7:
            words.append(chance.randrange(64))
        elif kind < 0.8:
            words.append(chance.choice((TYPE_AT, CLASS_AT, TUPLE_AT)))
        else:
            words.append(chance.getrandbits(64))
    return bytearray(struct.pack(f"<{len(words)}Q", *words))


def hostile(seed: int, flags: int, version: tuple[int, int]):
    space = Memory(bytes(words_that_point_inside(seed)))
    types = {
        TYPE_AT: TypeInfo(TYPE_AT, TYPE_AT, "type", 880, 40, cpython.TYPE | cpython.HAVE_GC, BASE, 264, 0, 0),
        CLASS_AT: TypeInfo(CLASS_AT, TYPE_AT, "Session", 16, 8, flags, BASE + 0x4000, 16, CLASS_AT, 0),
        TUPLE_AT: TypeInfo(TUPLE_AT, TYPE_AT, "tuple", 24, 8, cpython.TUPLE, BASE + 0x5000, 0, CLASS_AT, 0),
    }
    runtime = Runtime("3.x", LAYOUTS[version], TYPE_AT, "python")
    heap = Heap(((BASE, SIZE),), Residency(((BASE, BASE + SIZE),), 0, 0))
    return space, runtime, TypeTable(types), heap


FLAGS = (
    cpython.HEAP_TYPE | cpython.HAVE_GC | cpython.MANAGED_DICT | cpython.INLINE_VALUES,
    cpython.HEAP_TYPE,
    cpython.DICT,
    cpython.LIST,
    cpython.UNICODE,
    cpython.LONG,
    cpython.TYPE,
)


@pytest.mark.parametrize("version", LAYOUTS)
@pytest.mark.parametrize("flags", FLAGS)
def test_objects_of_garbage_are_counted_and_followed_within_bounds(version, flags):
    space, runtime, types, heap = hostile(hash((version, flags)) % 1000, flags, version)
    ends_s = time.monotonic() + 5
    scan = scan_heap(space, runtime, types, heap, ends_s)
    graph, sizer = Graph(space, runtime, types), Sizer(space, runtime, types)
    holders = find_holders(graph, sizer, scan, ends_s)
    assert time.monotonic() < ends_s + 20
    assert scan.coverage == 1.0
    assert all(one.items >= 0 for one in holders)
    assert all(all_bytes >= 0 for all_bytes, _large in scan.bytes.values())


def test_types_of_garbage_end_the_search():
    space, runtime, _types, heap = hostile(7, cpython.DICT, (3, 11))
    found = find_types(space, runtime, heap, time.monotonic() + 5)
    assert len(found.by_address) < SIZE // 8


@pytest.mark.parametrize("seed", range(20))
def test_chunks_of_garbage_end_the_walk(seed):
    space = Memory(bytes(words_that_point_inside(seed)))
    found, walks = arenas(space, frozenset((CLASS_AT,)), time.monotonic() + 5)
    assert len(found) == len(walks)
    for one in found:
        assert one.bytes <= SIZE
        assert not one.whole or one.in_use_bytes + one.free_bytes + one.top_bytes == one.bytes


def test_a_damaged_chunk_in_the_middle_is_told_and_what_lies_before_it_counts():
    data = bytearray(SIZE)
    for at in range(0, SIZE - 4096, 64):
        struct.pack_into("<QQ", data, at + 8, 64 | 1, CLASS_AT)
    struct.pack_into("<Q", data, SIZE - 4096 + 8, 4096 | 1)
    (whole,), (walk,) = arenas(Memory(bytes(data)), frozenset((CLASS_AT,)), time.monotonic() + 5)
    assert whole.whole
    assert whole.top_bytes == 4096
    assert walk.used.objects[CLASS_AT] == (SIZE - 4096) // 64
    struct.pack_into("<Q", data, SIZE // 2 + 8, 1)
    (torn,), (walk,) = arenas(Memory(bytes(data)), frozenset((CLASS_AT,)), time.monotonic() + 5)
    assert not torn.whole
    assert 0 < walk.used.objects[CLASS_AT] <= SIZE // 2 // 64
