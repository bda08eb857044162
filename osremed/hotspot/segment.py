"""One segment of the ring: some seconds of raw records, and the tables that give their numbers names, in one file.

    "OSRHOT2\\n", start_ns, end_ns, length of tables, length of records, CRC-32 of all the rest, tables, records

Both blocks are compressed (sensors.compress). Tables are JSON, captured while the processes were alive: a segment needs
no other one, and nothing of a process that has ended since.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.record import record
from osremed.sensors.compress import compress, decompress

MAGIC = b"OSRHOT2\n"
_HEAD = struct.Struct("<8sQQII")
_CRC = struct.Struct("<I")
_LIMIT_BYTES = 128 << 20
_TABLES = ("processes", "codes", "blocked", "calls", "seconds", "gaps")


@record
class Segment:
    """`start_ns` and `end_ns` are wall time; `tables` is the document the sensor wrote; `records` are raw."""

    start_ns: int
    end_ns: int
    tables: dict[str, Any]
    records: bytes


def encode(segment: Segment) -> bytes:
    tables, records = compress(canonical_json(segment.tables)), compress(segment.records)
    head = _HEAD.pack(MAGIC, segment.start_ns, segment.end_ns, len(tables), len(records))
    crc = zlib.crc32(records, zlib.crc32(tables, zlib.crc32(head)))
    return b"".join((head, _CRC.pack(crc), tables, records))


def decode(data: bytes) -> Segment:
    """ValueError, with the reason, for anything that `encode` has not written whole."""
    begin = _HEAD.size + _CRC.size
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
