from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.sensors.jattach import parse_counters


def entry(name: bytes, kind: str, value: bytes, items: int = 0) -> bytes:
    name_bytes = name + b"\0"
    name_bytes += bytes(-len(name_bytes) % 8)
    body = value + bytes(-len(value) % 8)
    length = 20 + 4 + len(name_bytes) + len(body)
    head = struct.pack("<iiiBBBBi", length, 24, items, ord(kind), 0, 1, 1, 24 + len(name_bytes))
    return head + bytes(4) + name_bytes + body


ENTRIES = [
    entry(b"sun.rt.safepointTime", "J", struct.pack("<q", 12345)),
    entry(b"java.rt.vmArgs", "B", b"-Xmx1g\0", 7),
]
FILE = struct.pack(">IBB", 0xCAFEC0C0, 1, 2) + bytes(18) + struct.pack("<ii", 32, len(ENTRIES)) + b"".join(ENTRIES)


def test_numbers_and_texts_are_read():
    assert parse_counters(FILE) == {"sun.rt.safepointTime": 12345, "java.rt.vmArgs": "-Xmx1g"}


@pytest.mark.parametrize("data", [b"", bytes(100), FILE[:31], b"\xca\xfe\xc0\xc1" + FILE[4:]])
def test_what_is_no_counter_file_is_refused(data):
    with pytest.raises(ValueError, match=r"hsperfdata|header"):
        parse_counters(data)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 255)), max_size=10), st.integers(0, len(FILE)))
def test_damaged_and_cut_files_are_read_or_refused(changes, length):
    data = bytearray(FILE)
    for at, value in changes:
        data[at] = value
    try:
        parse_counters(bytes(data[:length]))
    except ValueError:
        return
