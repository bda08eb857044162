"""One segment of the ring: some seconds of raw records, and what was so in them, in one file.

    "OSRHOT3\\n", start_ns, end_ns, length of tables, length of records, CRC-32 of all the rest, tables, records

Both blocks are compressed (sensors.compress). Tables are JSON. What programs and their code are called is in the book
that the tables name (book.py).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.record import record
from osremed.sensors.compress import compress, decompress

MAGIC = b"OSRHOT3\n"
_OLDER = (b"OSRHOT1\n", b"OSRHOT2\n")
_HEAD = struct.Struct("<8sQQII")
_CRC = struct.Struct("<I")
_LIMIT_BYTES = 128 << 20
_TABLES = ("seconds", "gaps", "books")


@record
class Segment:
    """`start_ns` and `end_ns` are wall time; `tables` is the document the sensor wrote; `records` are raw."""

    start_ns: int
    end_ns: int
    tables: dict[str, Any]
    records: bytes


def encode(start_ns: int, end_ns: int, tables_document: dict[str, Any], parts: Sequence[bytes]) -> bytes:
    """The bytes of a segment whose records are these parts one behind the other."""
    tables, records = compress(canonical_json(tables_document)), compress(*parts)
    head = _HEAD.pack(MAGIC, start_ns, end_ns, len(tables), len(records))
    crc = zlib.crc32(records, zlib.crc32(tables, zlib.crc32(head)))
    return b"".join((head, _CRC.pack(crc), tables, records))


def decode(data: bytes) -> Segment:
    """ValueError, with the reason, for anything that `encode` has not written whole."""
    begin = _HEAD.size + _CRC.size
    if data.startswith(_OLDER):
        raise ValueError("of an earlier release, which wrote segments in another way: it can be read there only")
    if len(data) < begin or not data.startswith(MAGIC):
        raise ValueError("torn" if MAGIC.startswith(data[: len(MAGIC)]) else "not a segment")
    _magic, start_ns, end_ns, tables_length, records_length = _HEAD.unpack_from(data)
    if len(data) != begin + tables_length + records_length:
        raise ValueError(f"torn: {len(data)} of {begin + tables_length + records_length} bytes")
    (crc,) = _CRC.unpack_from(data, _HEAD.size)
    if crc != zlib.crc32(data[begin:], zlib.crc32(data[: _HEAD.size])):
        raise ValueError("checksum differs")
    tables = _tables(decompress(data[begin : begin + tables_length], limit_bytes=_LIMIT_BYTES))
    return Segment(start_ns, end_ns, tables, decompress(data[begin + tables_length :], limit_bytes=_LIMIT_BYTES))


def _tables(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("tables are nested too deep") from None
    if not isinstance(document, dict) or not all(isinstance(document.get(name, []), list) for name in _TABLES):
        raise ValueError("tables are not an object of lists")
    return document
