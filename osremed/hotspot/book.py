"""A book of the ring: what programs and their code are called, written once for some minutes of segments.

    "OSRBOOK1", then pages: length, CRC-32, rows and texts (each: length, compressed)

Rows are JSON: programs, as they were while they lived (capture.py). Texts are raw records (records.py). A page is
written before the segment that needs it; a torn one costs the names in it and behind it: a writer begins another book
when it starts. Numbers of texts are those of one run of the recorder, whichever of its books holds them.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.record import record
from osremed.hotspot.records import Text, texts_of
from osremed.sensors.compress import compress, decompress

MAGIC = b"OSRBOOK1"
_PAGE = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_LIMIT_BYTES = 128 << 20


@record
class Book:
    """`processes` in the order they were seen; `damage` says why the rest could not be read, "" when all could."""

    processes: tuple[dict[str, Any], ...]
    texts: dict[int, Text]
    damage: str


def page(rows: Sequence[dict[str, Any]], texts: bytes) -> bytes:
    near = [{**row, "maps": _nearer(row["maps"])} for row in rows]
    blocks = compress(canonical_json(near)), compress(texts)
    body = b"".join(_LENGTH.pack(len(block)) + block for block in blocks)
    return _PAGE.pack(len(body), zlib.crc32(body)) + body


def read_book(data: bytes) -> Book:
    """What can be read of a book's bytes, up to the first page that is torn or altered."""
    processes: list[dict[str, Any]] = []
    texts: dict[int, Text] = {}
    if not data.startswith(MAGIC):
        return Book((), {}, "not a book")
    try:
        for body in _pages(data):
            rows, raw = _blocks(body)
            processes += _rows(rows)
            texts.update(texts_of(raw))
    except ValueError as error:
        return Book(tuple(processes), texts, str(error))
    return Book(tuple(processes), texts, "")


def _pages(data: bytes) -> Iterator[bytes]:
    at = len(MAGIC)
    while at < len(data):
        if at + _PAGE.size > len(data):
            raise ValueError("torn")
        length, crc = _PAGE.unpack_from(data, at)
        body = data[at + _PAGE.size : at + _PAGE.size + length]
        if len(body) < length:
            raise ValueError("torn")
        if zlib.crc32(body) != crc:
            raise ValueError("checksum differs")
        yield body
        at += _PAGE.size + length


def _blocks(body: bytes) -> list[bytes]:
    found, at = [], 0
    for _ in range(2):
        if at + _LENGTH.size > len(body):
            raise ValueError("a page without its two blocks")
        (length,) = _LENGTH.unpack_from(body, at)
        found.append(decompress(body[at + _LENGTH.size : at + _LENGTH.size + length], limit_bytes=_LIMIT_BYTES))
        at += _LENGTH.size + length
    return found


def _rows(data: bytes) -> list[dict[str, Any]]:
    try:
        rows = json.loads(data)
    except RecursionError:
        raise ValueError("rows are nested too deep") from None
    try:
        return [{**row, "maps": _absolute(row["maps"])} for row in rows]
    except (TypeError, KeyError) as error:
        raise ValueError(f"no list of rows: {error!r}") from None


def _nearer(maps: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Mappings with their distance from the one before, and their length: the same in each process of a program, where
    addresses are drawn by lot. A seventh of the bytes."""
    found, last = [], 0
    for start, end, *rest in maps:
        found.append([start - last, end - start, *rest])
        last = end
    return found


def _absolute(maps: Sequence[Sequence[Any]]) -> list[list[Any]]:
    found, last = [], 0
    for distance, length, *rest in maps:
        found.append([last + distance, last + distance + length, *rest])
        last += distance + length
    return found
