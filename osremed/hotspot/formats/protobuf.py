"""Protocol-buffer wire format, as much as profile.proto needs: varints and length-delimited fields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """Negative values as 64-bit two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number: int, value: int) -> bytes:
    """Nothing for 0, the default."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


def packed_field(number: int, values: Iterable[int]) -> bytes:
    return bytes_field(number, b"".join(varint(value) for value in values))


def fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(number, value, bytes) of each field; one of the two is empty. ValueError when torn."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        kind, number = key & 7, key >> 3
        if kind == _VARINT:
            value, at = read_varint(data, at)
            yield number, value, b""
        elif kind == _BYTES:
            length, at = read_varint(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than what is left")
            yield number, 0, data[at : at + length]
            at += length
        elif kind in (_FIXED64, _FIXED32):
            width = 8 if kind == _FIXED64 else 4
            if at + width > len(data):
                raise ValueError("truncated number")
            yield number, int.from_bytes(data[at : at + width], "little"), b""
            at += width
        else:
            raise ValueError(f"unknown wire type {kind}")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("truncated number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & ((1 << 64) - 1), at
    raise ValueError("a number longer than 64 bits")


def numbers(value: int, data: bytes) -> Sequence[int]:
    """A repeated number, packed or not."""
    if not data:
        return (value,)
    found, at = [], 0
    while at < len(data):
        each, at = read_varint(data, at)
        found.append(each)
    return found
