"""Chrome and Kineto trace files -> events, a few megabytes at a time; plain or gzip; whole, truncated or damaged.

The text is cut where one event ends and the next begins, and each piece is given to the C parser as a list. A cut at
the wrong place (inside a string, or a nested list) does not parse and is tried further left, so a piece that parses is
right: JSON has one reading."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Protocol, Union

from osremed.core.errors import BadInput

_PIECE_BYTES = 1 << 20
_PACKED_BYTES = 64 << 10
_LONGEST_UNCUT = 64 << 20
_MOST_TRIES = 8
_START = re.compile(rb'"traceEvents"\s*:\s*\[')
_BASE = re.compile(rb'"baseTimeNanoseconds"\s*:\s*([0-9]{1,19})')
_RANK = re.compile(rb'"distributedInfo"\s*:\s*\{[^{}]{0,4000}?"rank"\s*:\s*([0-9]{1,6})')
_FIRST_TIME = re.compile(rb'"ts"\s*:\s*([0-9]{1,19})')
#: From so many microseconds on a double no longer tells nanoseconds: traces that count from 1970 keep their digits.
_DIGITS_FROM_US = 1 << 43

Event = dict[str, Any]
Number = Union[int, float, str]


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def to_ns(microseconds: Number) -> int:
    """Nanoseconds of a time in a trace. ValueError or TypeError for what is no number."""
    if isinstance(microseconds, str):
        whole, _, fraction = microseconds.partition(".")
        if whole.isdigit() and fraction.isdigit():
            return int(whole) * 1000 + int(f"{fraction}000"[:3])
        return int(Decimal(microseconds) * 1000)
    return round(microseconds * 1000)


class _Gunzip:
    """gzip that gives what it has before it fails: `gzip` throws away a whole read. EOFError when the data is cut off,
    zlib.error when it is damaged."""

    def __init__(self, raw: Readable) -> None:
        self._raw = raw
        self._member = zlib.decompressobj(31)

    def read(self, size: int, /) -> bytes:
        while True:
            packed = self._member.unconsumed_tail or self._member.unused_data or self._raw.read(_PACKED_BYTES)
            if self._member.eof:
                if not packed.strip(b"\0"):
                    return b""
                self._member = zlib.decompressobj(31)
            if not packed:
                raise EOFError("its end is missing")
            data = self._member.decompress(packed, size)
            if data:
                return data


class TraceFile:
    """`gaps` names what could not be read, complete once `pieces` has ended. `rank` -1 and `base_ns` 0 when not
    told."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.gaps: list[str] = []
        self.rank, self.base_ns = -1, 0
        self.count = 0
        self._digits = False

    def pieces(self) -> Iterator[list[Event]]:
        """Lists of events, in the file's order. BadInput when it is no trace at all."""
        try:
            with open(self.path, "rb") as raw:
                magic = raw.read(2)
                raw.seek(0)
                yield from self._pieces(_Gunzip(raw) if magic == b"\x1f\x8b" else raw)
        except OSError as error:
            raise BadInput(f"cannot be read: {error.strerror or error}", where=self.path) from error

    def _pieces(self, stream: Readable) -> Iterator[list[Event]]:
        buffer = self._head(stream)
        first = _FIRST_TIME.search(buffer)
        self._digits = first is not None and int(first.group(1)) >= _DIGITS_FROM_US
        while len(buffer) < _LONGEST_UNCUT:
            cut, events = self._cut(buffer)
            if events:
                self.count += len(events)
                yield events
            data = self._read(stream)
            if not data:
                buffer = buffer[cut:]
                break
            buffer = buffer[cut:] + data
        events = self._last(buffer)
        self.count += len(events)
        yield events

    def _read(self, stream: Readable) -> bytes:
        try:
            return stream.read(_PIECE_BYTES)
        except (EOFError, zlib.error) as error:
            self.gaps.append(f"the compressed data is cut off or damaged: {error}")
            return b""

    def _head(self, stream: Readable) -> bytes:
        """What follows the opening of the list of events."""
        buffer = self._read(stream)
        while (found := _START.search(buffer)) is None and buffer.lstrip()[:1] != b"[":
            data = self._read(stream)
            if not data or len(buffer) > _LONGEST_UNCUT:
                raise BadInput("not a trace: it has no traceEvents", where=self.path)
            buffer += data
        start = found.end() if found else buffer.index(b"[") + 1
        base, rank = _BASE.search(buffer[:start]), _RANK.search(buffer[:start])
        self.base_ns = int(base.group(1)) if base else 0
        self.rank = int(rank.group(1)) if rank else -1
        return buffer[start:]

    def _cut(self, buffer: bytes) -> tuple[int, list[Event]]:
        """(where the rest begins, the events before it); (0, []) when there is no cut yet."""
        at = len(buffer)
        for _ in range(_MOST_TRIES):
            at = buffer.rfind(b"},", 0, at)
            if at < 0:
                break
            if buffer[at + 2 : at + 40].lstrip()[:1] != b"{":
                continue
            try:
                found = self._parse(b"[" + buffer[: at + 1] + b"]")
            except (ValueError, RecursionError):
                continue
            return at + 2, _only_events(found)
        return 0, []

    def _parse(self, data: bytes) -> Any:
        text = data.decode("utf-8", "replace")
        return json.loads(text, strict=False, parse_float=str if self._digits else None)

    def _last(self, buffer: bytes) -> list[Event]:
        """What is left: the end of the list and of the document, or what there is of them."""
        text = "[" + buffer.decode("utf-8", "replace")
        decoder = json.JSONDecoder(strict=False, parse_float=str if self._digits else None)
        try:
            events, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return self._salvage(text, decoder)
        base = _BASE.search(text[end:].encode())
        if base and not self.base_ns:
            self.base_ns = int(base.group(1))
        return _only_events(events)

    def _salvage(self, text: str, decoder: json.JSONDecoder) -> list[Event]:
        """The whole events of a document that is cut off or damaged, up to there."""
        events: list[Any] = []
        at = 1
        try:
            while at < len(text):
                if text[at] in ", \n\t\r":
                    at += 1
                    continue
                event, at = decoder.raw_decode(text, at)
                events.append(event)
        except (ValueError, RecursionError):
            self.gaps.append(f"cut off or damaged after {self.count + len(events)} events")
        else:
            self.gaps.append("the list of events is not closed")
        return _only_events(events)


def _only_events(found: list[Any]) -> list[Event]:
    return [each for each in found if isinstance(each, dict)]
