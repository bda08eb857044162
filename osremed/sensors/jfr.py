"""Flight Recorder files of HotSpot (JDK 11 on): events of one type, with what their fields refer to.

A file is chunks; each describes its own types (metadata) and keeps strings, classes and stacks in constant pools. The
bytes come from another process: everything is bounded, and what does not fit the format is a ValueError.
https://github.com/openjdk/jdk/tree/jdk-17-ga/src/jdk.jfr/share/classes/jdk/jfr/internal/consumer
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from osremed.core.record import record

_MAGIC = b"FLR\0"
_HEADER = struct.Struct(">4sHHqqqqqqqI")
_METADATA, _CHECKPOINT = 0, 1
_MOST_ITEMS = 1 << 20
_MOST_DEPTH = 64
_PLAIN = {"float": ">f", "double": ">d"}


@record
class Reference:
    """A place in a constant pool, looked up when it is asked for: objects may refer to each other in a ring."""

    type_id: int
    key: int


@record
class Field:
    name: str
    type_id: int
    pooled: bool
    many: bool


@record
class Type:
    name: str
    fields: tuple[Field, ...]


class Chunk:
    """One chunk. `events(name)` yields the fields of each event; `get` follows a Reference."""

    def __init__(self, data: memoryview) -> None:
        if len(data) < _HEADER.size:
            raise ValueError("shorter than its header")
        head = _HEADER.unpack_from(data)
        if head[0] != _MAGIC or head[1] not in (1, 2):
            raise ValueError("not a Flight Recorder chunk of version 1 or 2")
        self._size, checkpoint, metadata = head[3:6]
        self.ticks_per_second = head[9]
        if not _HEADER.size <= self._size <= len(data):
            raise ValueError("its size is not that of the file")
        self._data = data[: self._size]
        self._types = self._read_types(metadata)
        self._pools: dict[int, dict[int, Any]] = {}
        self._read_pools(checkpoint)

    @property
    def size(self) -> int:
        return int(self._size)

    def get(self, value: Any) -> Any:
        """What a Reference points to, None for one that points to nothing; other values as they are."""
        if isinstance(value, Reference):
            return self._pools.get(value.type_id, {}).get(value.key)
        return value

    def events(self, name: str) -> Iterator[Mapping[str, Any]]:
        """Every event of the type called `name`, in the file's order."""
        wanted = {number for number, kind in self._types.items() if kind.name == name}
        at = _HEADER.size
        while at < self._size:
            cursor = _Cursor(self._data, at)
            size = cursor.whole()
            if not 0 < size <= self._size - at:
                raise ValueError("an event without a size")
            kind = cursor.whole()
            if kind in wanted:
                yield self._fields(cursor, self._types[kind], 0)
            at += size

    def _read_types(self, at: int) -> dict[int, Type]:
        cursor = _Cursor(self._data, at)
        _size, kind, _start, _duration, _number = (cursor.whole() for _ in range(5))
        if kind != _METADATA:
            raise ValueError("its metadata are not where its header says")
        strings = [cursor.text(()) for _ in range(_bounded(cursor.whole()))]
        found: dict[int, Type] = {}
        for name, attributes, children in _elements(cursor, strings):
            if name == "class":
                fields = [
                    Field(
                        each.get("name", ""), int(each.get("class", "0")), each.get("constantPool") == "true",
                        each.get("dimension") == "1",
                    )
                    for tag, each, _ in children
                    if tag == "field"
                ]  # fmt: skip
                found[int(attributes.get("id", "-1"))] = Type(attributes.get("name", ""), tuple(fields))
        return found

    def _read_pools(self, at: int) -> None:
        """From the newest checkpoint back to the oldest; a newer constant wins."""
        for _ in range(_MOST_ITEMS):
            cursor = _Cursor(self._data, at)
            _size, kind, _start, _duration, delta = (cursor.whole() for _ in range(5))
            if kind != _CHECKPOINT:
                raise ValueError("a checkpoint is not where it should be")
            cursor.skip(1)
            for _pool in range(_bounded(cursor.whole())):
                type_id = cursor.whole()
                pool = self._pools.setdefault(type_id, {})
                for _constant in range(_bounded(cursor.whole())):
                    key = cursor.whole()
                    value = self._value(cursor, type_id, 0)
                    pool.setdefault(key, value)
            if not delta:
                return
            at += delta
        raise ValueError("too many checkpoints")

    def _fields(self, cursor: _Cursor, kind: Type, depth: int) -> dict[str, Any]:
        return {field.name: self._field(cursor, field, depth) for field in kind.fields}

    def _field(self, cursor: _Cursor, field: Field, depth: int) -> Any:
        if field.many:
            return [self._one(cursor, field, depth) for _ in range(_bounded(cursor.whole()))]
        return self._one(cursor, field, depth)

    def _one(self, cursor: _Cursor, field: Field, depth: int) -> Any:
        return Reference(field.type_id, cursor.whole()) if field.pooled else self._value(cursor, field.type_id, depth)

    def _value(self, cursor: _Cursor, type_id: int, depth: int) -> Any:
        kind = self._types.get(type_id)
        if kind is None or depth > _MOST_DEPTH:
            raise ValueError(f"a value of unknown type {type_id}")
        if kind.name in _PLAIN:
            return cursor.packed(_PLAIN[kind.name])
        if kind.name in ("boolean", "byte"):
            return cursor.byte()
        if kind.name in ("char", "short", "int", "long"):
            return cursor.whole()
        if kind.name == "java.lang.String":
            return cursor.text((type_id,))
        if not kind.fields:  # a million of them would take no byte of the file
            raise ValueError(f"a value of type {kind.name}, which has no fields")
        return self._fields(cursor, kind, depth + 1)


class _Cursor:
    def __init__(self, data: memoryview, at: int) -> None:
        if not 0 <= at < len(data):
            raise ValueError("an offset outside of the chunk")
        self._data, self._at = data, at

    def byte(self) -> int:
        if self._at >= len(self._data):
            raise ValueError("it ends in the middle of a value")
        self._at += 1
        return self._data[self._at - 1]

    def skip(self, count: int) -> None:
        self._at += count

    def whole(self) -> int:
        """Seven bits a byte, the lowest first; the ninth byte has eight. Signed, of 64 bits."""
        value = 0
        for index in range(9):
            byte = self.byte()
            value |= (byte if index == 8 else byte & 0x7F) << 7 * index
            if index < 8 and not byte & 0x80:
                break
        return value - (1 << 64) if value >> 63 else value

    def packed(self, layout: str) -> float:
        size = struct.calcsize(layout)
        if self._at + size > len(self._data):
            raise ValueError("it ends in the middle of a value")
        self._at += size
        return float(struct.unpack_from(layout, self._data, self._at - size)[0])

    def text(self, pool: tuple[int, ...]) -> Any:
        """A string, None, or the Reference to one in the pool of type `pool`."""
        encoding = self.byte()
        if encoding == 0:
            return None
        if encoding == 1:
            return ""
        if encoding == 2 and pool:
            return Reference(pool[0], self.whole())
        if encoding == 4:
            return "".join(chr(self.whole() & 0xFFFF) for _ in range(_bounded(self.whole())))
        if encoding not in (3, 5):
            raise ValueError(f"a string of encoding {encoding}")
        count = _bounded(self.whole())
        if self._at + count > len(self._data):
            raise ValueError("it ends in the middle of a string")
        self._at += count
        return bytes(self._data[self._at - count : self._at]).decode("utf-8" if encoding == 3 else "latin-1", "replace")


_Element = tuple[str, dict[str, str], list[Any]]


def _elements(cursor: _Cursor, strings: list[Any]) -> Iterator[_Element]:
    """Every element of the metadata's tree, with its children."""
    yield from _flat(_element(cursor, strings, 0))


def _element(cursor: _Cursor, strings: list[Any], depth: int) -> _Element:
    if depth > _MOST_DEPTH:
        raise ValueError("metadata that are nested too deeply")

    def said() -> str:
        index = cursor.whole()
        if not 0 <= index < len(strings):
            raise ValueError("a string that is not in the table")
        return str(strings[index])

    name = said()
    attributes = {said(): said() for _ in range(_bounded(cursor.whole()))}
    return name, attributes, [_element(cursor, strings, depth + 1) for _ in range(_bounded(cursor.whole()))]


def _flat(element: _Element) -> Iterator[_Element]:
    yield element
    for child in element[2]:
        yield from _flat(child)


def _bounded(count: int) -> int:
    if not 0 <= count <= _MOST_ITEMS:
        raise ValueError(f"a count of {count}")
    return count


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a file, one after the other. ValueError where the file is not what it says."""
    at, view = 0, memoryview(data)
    while at < len(data):
        chunk = Chunk(view[at:])
        yield chunk
        at += chunk.size
