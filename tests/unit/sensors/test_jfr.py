"""Flight Recorder files: a chunk made by hand is read, and no bytes do more than be refused."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from osremed.panorama.heaps.java_recording import paths_of
from osremed.sensors import jfr

HEADER = struct.Struct(">4sHHqqqqqqqI")


def number(value):
    """LEB128 as HotSpot writes it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def text(words):
    return b"\x03" + number(len(words)) + words.encode()


def sized(payload):
    """The size of an event counts itself; made of five bytes, as HotSpot does."""
    size = len(payload) + 4
    return bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80, size >> 21]) + payload


def metadata(types):
    """types: id -> (name, [(field, type id, pooled, many)])."""
    strings, table = [], {}

    def word(one):
        if one not in table:
            table[one] = len(strings)
            strings.append(one)
        return number(table[one])

    def element(name, attributes, children):
        said = b"".join(word(key) + word(value) for key, value in attributes.items())
        return word(name) + number(len(attributes)) + said + number(len(children)) + b"".join(children)

    def field(name, kind, pooled, many):
        flags = {"constantPool": "true"} if pooled else {}
        return element("field", {"name": name, "class": str(kind), **flags, **({"dimension": "1"} if many else {})}, [])

    classes = [
        element("class", {"id": str(kind), "name": name}, [field(*each) for each in fields])
        for kind, (name, fields) in types.items()
    ]
    tree = element("root", {}, [element("metadata", {}, classes)])
    head = number(0) + number(1) + number(0) + number(1)  # type, start, duration, number
    return sized(head + number(len(strings)) + b"".join(map(text, strings)) + tree)


def chunk(types, pools, events):
    """pools: type id -> {key: payload}; events: (type id, payload)."""
    body = b"".join(sized(number(kind) + payload) for kind, payload in events)
    constants = b"".join(
        number(kind) + number(len(pool)) + b"".join(number(key) + value for key, value in pool.items())
        for kind, pool in pools.items()
    )
    checkpoint_at = HEADER.size + len(body)
    checkpoint = sized(number(1) + number(1) + number(0) + number(0) + b"\0" + number(len(pools)) + constants)
    told = metadata(types)
    size = checkpoint_at + len(checkpoint) + len(told)
    head = HEADER.pack(b"FLR\0", 2, 1, size, checkpoint_at, checkpoint_at + len(checkpoint), 0, 0, 0, 10**9, 1)
    return head + body + checkpoint + told


TYPES = {
    20: ("java.lang.String", []),
    21: ("long", []),
    30: ("java.lang.Class", [("name", 20, False, False)]),
    31: ("OldObject", [("type", 30, True, False), ("description", 20, False, False), ("referrer", 32, True, False)]),
    32: ("Reference", [("object", 31, True, False), ("field", 33, True, False)]),
    33: ("OldObjectField", [("name", 20, False, False)]),
    50: ("jdk.OldObjectSample", [("startTime", 21, False, False), ("object", 31, True, False)]),
    51: ("other", [("startTime", 21, False, False)]),
}
POOLS = {
    30: {1: text("[B"), 2: text("java/util/ArrayList"), 3: text("java/lang/Class")},
    31: {1: number(1) + b"\0" + number(1), 2: number(2) + text("Size: 7") + number(2),
         3: number(3) + text("Class Name: shop.Cart") + number(0)},
    32: {1: number(2) + number(1), 2: number(3) + number(2)},
    33: {1: text("elementData"), 2: text("ITEMS")},
}  # fmt: skip
EVENTS = [(51, number(300)), (50, number(1 << 40) + number(1)), (50, number(5) + number(1))]
FILE = chunk(TYPES, POOLS, EVENTS)


def test_the_path_goes_from_the_static_field_down_to_the_object():
    samples, paths = paths_of(FILE + FILE)
    assert (samples, len(paths)) == (4, 1)
    assert paths[0].held_in == "shop.Cart.ITEMS"
    assert (paths[0].container, paths[0].detail, paths[0].object) == ("java.util.ArrayList", "Size: 7", "byte[]")
    assert paths[0].path == "shop.Cart.ITEMS -> java.util.ArrayList.elementData -> byte[]"
    assert paths[0].samples == 4


def test_numbers_of_every_length_are_read():
    first = next(jfr.chunks(FILE))
    assert [each["startTime"] for each in first.events("jdk.OldObjectSample")] == [1 << 40, 5]
    assert [each["startTime"] for each in first.events("other")] == [300]


def test_objects_that_hold_each_other_in_a_ring_end():
    ring = {**POOLS, 32: {1: number(2) + number(1), 2: number(1) + number(1)}}
    samples, paths = paths_of(chunk(TYPES, ring, EVENTS))
    assert samples == 2
    assert paths[0].held_in == "a root that is not told"


@pytest.mark.parametrize("cut", [1, 20, HEADER.size, HEADER.size + 3, len(FILE) // 2, len(FILE) - 1])
def test_a_file_that_was_cut_is_refused(cut):
    with pytest.raises(ValueError, match=r"."):
        paths_of(FILE[:cut])


@given(st.lists(st.tuples(st.integers(HEADER.size, len(FILE) - 1), st.integers(0, 255)), max_size=6))
@example([(HEADER.size, 0)])
def test_no_change_to_a_file_does_more_than_be_refused(changes):
    data = bytearray(FILE)
    for at, byte in changes:
        data[at] = byte
    with contextlib.suppress(ValueError, RecursionError):
        paths_of(bytes(data))


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data):
    with contextlib.suppress(ValueError):
        list(jfr.chunks(b"FLR\0" + data))
