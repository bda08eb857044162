"""JSON with positions: every key and element knows its line and column, and a key given twice is an error."""

from __future__ import annotations

import json
import re
from typing import Any, Union

from osremed.core.errors import BadInput
from osremed.core.record import record

Path = tuple[Union[str, int], ...]
_SPACE = re.compile(r"[ \t\r\n]*")
_MAX_DEPTH = 16
_SCALAR = json.JSONDecoder()


@record
class Located:
    """`positions`: path of keys and indexes -> character offset of the key or element in `text`."""

    document: Any
    text: str
    file: str
    positions: dict[Path, int]

    def where(self, path: Path) -> str:
        """`file:line:column` of the path, or of the nearest enclosing thing that exists."""
        while path and path not in self.positions:
            path = path[:-1]
        return _where(self.file, self.text, self.positions.get(path, 0))


def load(data: bytes, file: str) -> Located:
    """The document. BadInput with file:line:column when it is not UTF-8, not JSON, nested too deep, names a key twice,
    or uses NaN or Infinity."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise BadInput("not UTF-8 text", where=f"{file}:{line}:{column}") from None
    positions: dict[Path, int] = {}
    reader = _Reader(text, file, positions)
    document, end = reader.value(_skip(text, 0), ())
    if _skip(text, end) != len(text):
        reader.fail("something follows the JSON document", _skip(text, end))
    return Located(document, text, file, positions)


def _skip(text: str, index: int) -> int:
    match = _SPACE.match(text, index)
    return match.end() if match else index


def _where(file: str, text: str, offset: int) -> str:
    return f"{file}:{text.count(chr(10), 0, offset) + 1}:{offset - text.rfind(chr(10), 0, offset)}"


class _Reader:
    """Walks objects and arrays itself and leaves scalars to the json module."""

    def __init__(self, text: str, file: str, positions: dict[Path, int]) -> None:
        self.text, self.file, self.positions = text, file, positions

    def fail(self, what: str, offset: int) -> None:
        raise BadInput(what, where=_where(self.file, self.text, offset), hint="the file must be one JSON object")

    def value(self, index: int, path: Path) -> tuple[Any, int]:
        self.positions.setdefault(path, index)
        if len(path) > _MAX_DEPTH:
            self.fail("nested too deep", index)
        start = self.text[index : index + 1]
        if start == "{":
            return self.object(index + 1, path)
        if start == "[":
            return self.array(index + 1, path)
        if self.text.startswith(("NaN", "Infinity", "-Infinity"), index):
            self.fail("NaN and Infinity are not JSON", index)
        try:
            return _SCALAR.raw_decode(self.text, index)
        except ValueError as error:  # includes an integer of thousands of digits
            offset = getattr(error, "pos", index)
            raise BadInput(
                f"not JSON: {error}".split(": line ")[0], where=_where(self.file, self.text, offset)
            ) from None

    def key(self, index: int, path: Path) -> tuple[str, int]:
        if self.text[index : index + 1] != '"':
            self.fail('expected a key in double quotes, or "}"', index)
        try:
            key, end = _SCALAR.raw_decode(self.text, index)
        except ValueError as error:
            raise BadInput(
                f"not JSON: {error}".split(": line ")[0], where=_where(self.file, self.text, index)
            ) from None
        if (*path, key) in self.positions:
            self.fail(f"key {key!r} is given twice", index)
        self.positions[(*path, key)] = index
        end = _skip(self.text, end)
        if self.text[end : end + 1] != ":":
            self.fail(f'expected ":" after key {key!r}', end)
        return key, _skip(self.text, end + 1)

    def object(self, index: int, path: Path) -> tuple[dict[str, Any], int]:
        result: dict[str, Any] = {}
        index = _skip(self.text, index)
        if self.text[index : index + 1] == "}":
            return result, index + 1
        while True:
            key, index = self.key(index, path)
            result[key], index = self.value(index, (*path, key))
            index, more = self.separator(index, "}")
            if not more:
                return result, index

    def array(self, index: int, path: Path) -> tuple[list[Any], int]:
        result: list[Any] = []
        index = _skip(self.text, index)
        if self.text[index : index + 1] == "]":
            return result, index + 1
        while True:
            item, index = self.value(index, (*path, len(result)))
            result.append(item)
            index, more = self.separator(index, "]")
            if not more:
                return result, index

    def separator(self, index: int, closing: str) -> tuple[int, bool]:
        index = _skip(self.text, index)
        mark = self.text[index : index + 1]
        if mark not in (",", closing) or not mark:
            self.fail(f'expected "," or "{closing}"', index)
        return _skip(self.text, index + 1) if mark == "," else index + 1, mark == ","
