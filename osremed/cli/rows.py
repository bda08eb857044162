"""Rows, columns and names of an answer's document: one way for every verb. Pure.

A document that says which one it is (`run_id`, `id`, `name` ...) is one row. Otherwise its first list of objects are
the rows, and a document without one is a row again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osremed.core.clock import rfc3339
from osremed.core.columns import cut, width
from osremed.core.errors import BadInput
from osremed.core.shown import printable
from osremed.core.units import format_bytes

#: What names a row, the most particular first.
NAMES = ("run_id", "undo_id", "event_id", "id", "code", "host", "name", "rule", "set", "path", "file", "pid")
_CELL_COLUMNS = 60
_NS_OF_2001 = 10**18  #: a later instant; smaller numbers that end with _ns last so long

Row = Mapping[str, Any]


def _name(row: Row) -> str | None:
    found = next((row[key] for key in NAMES if isinstance(row.get(key), (str, int)) and row[key] != ""), None)
    return None if found is None else str(found)


def _is_rows(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(each, dict) for each in value)


def _first_list(document: Row, depth: int = 2) -> Sequence[Row] | None:
    """The first list of objects, of the document before those of its parts."""
    here = next((value for value in document.values() if _is_rows(value)), None)
    if here is not None or depth == 0:
        return here
    below = (_first_list(value, depth - 1) for value in document.values() if isinstance(value, dict))
    return next((each for each in below if each is not None), None)


def rows_of(document: Any) -> list[Row]:
    """The rows of a document; what is no object is a row with the one column `value`."""
    if document is None:
        return []
    if isinstance(document, (list, tuple)):
        return [each if isinstance(each, dict) else {"value": each} for each in document]
    if not isinstance(document, dict):
        return [{"value": document}]
    rows = _first_list(document) if _name(document) is None else None
    return [document] if rows is None else list(rows)


def names_of(document: Any) -> list[str]:
    """One name a row. BadInput for a row without one."""
    rows = rows_of(document)
    names = [_name(row) for row in rows]
    if None in names:
        raise BadInput("what this verb answers has no names", where="-o name", hint="-o jsonl prints it a row a line")
    return [printable(str(name)) for name in names]


def _number(key: str, value: float) -> str:
    """Sizes and instants by the unit in their key."""
    if key.endswith("_bytes"):
        return format_bytes(value)
    if key.endswith("_ns") and isinstance(value, int) and value > _NS_OF_2001:
        return rfc3339(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _list(value: Sequence[Any]) -> str:
    plain = [str(each) for each in value if not isinstance(each, (dict, list))]
    return ", ".join(plain) if len(plain) == len(value) else f"{len(value)} rows"


def cell(key: str, value: Any) -> str:
    """One value for a reader; what is missing with its reason; "" for nothing. Safe for a terminal."""
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _number(key, value)
    if isinstance(value, dict):
        return printable(f"? {value['missing']}" if "missing" in value else f"{len(value)} keys")
    return printable(_list(value) if isinstance(value, (list, tuple)) else str(value))


def _cells(row: Row, prefix: str = "") -> Iterator[tuple[str, str, bool]]:
    """(column, text, whether it is a number). Objects that are part of the row give a column for each of theirs."""
    for key, value in row.items():
        if isinstance(value, dict) and value and "missing" not in value and not prefix:
            yield from _cells(value, f"{key}.")
        else:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            yield f"{prefix}{key}", cell(key, value), number


def table(rows: Sequence[Row], columns: int = 0) -> tuple[list[str], list[str]]:
    """(lines, the first one the heading; the columns that did not fit). Columns in which no row has anything are left
    out. `columns` is the width of the terminal; 0: as wide as it gets."""
    read = [list(_cells(row)) for row in rows]
    keys = list(dict.fromkeys(key for cells in read for key, _, _ in cells))
    texts = [{key: cut(text, _CELL_COLUMNS) for key, text, _ in cells} for cells in read]
    numbers = {key for cells in read for key, text, number in cells if number and text}
    words = {key for cells in read for key, text, number in cells if not number and text}
    keys = [key for key in keys if key in numbers or key in words]
    heads = {key: printable(key.upper().replace("_", " ")) for key in keys}
    widths = {key: max(width(heads[key]), *(width(row.get(key, "")) for row in texts)) for key in keys}
    shown: list[str] = []
    for key in keys:
        if columns and shown and sum(widths[each] + 2 for each in shown) + widths[key] > columns:
            break
        shown.append(key)

    def line(cells: Mapping[str, str]) -> str:
        padded = []
        for key in shown:
            text = cells.get(key, "")
            space = " " * (widths[key] - width(text))
            padded.append(space + text if key in numbers - words else text + space)
        return "  ".join(padded).rstrip()

    return ([line(heads), *map(line, texts)] if keys else []), keys[len(shown) :]
