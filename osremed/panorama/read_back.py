"""The JSON document -> Panorama again: another host's report is shown by the same code as this one's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from osremed.core.errors import BadInput
from osremed.core.finding import Finding
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.panorama.cache_model import CachedFile
from osremed.panorama.model import (
    Advice,
    Balance,
    BalanceLine,
    ContainerRow,
    Cost,
    Diagnosis,
    DyingRow,
    FileRow,
    Gap,
    GpuRow,
    Grown,
    Growth,
    Layer,
    Panorama,
    Part,
    ProcessRow,
    Totals,
    VramRow,
)
from osremed.sensors.kernelmem import Segment

T = TypeVar("T")
#: What the text of a field's type begins with -> what JSON must hold.
_PLAIN: Mapping[str, Any] = {"int": int, "str": str, "bool": bool, "float": (int, float)}


def panorama_of(document: Any) -> Panorama:
    """The panorama whose document this is: its own document is the same again. BadInput for anything else, such as a
    document of a version that knows less; what a newer one knows besides is left out."""
    try:
        return _panorama(document)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadInput(f"not a panorama this version can read: {error!r}") from error


def _panorama(document: Mapping[str, Any]) -> Panorama:
    growth, cost, totals = document["growth"], document["cost"], document["totals"]
    return Panorama(
        scope=_text(document["scope"]),
        taken_ns=_whole(document["taken_ns"]),
        **{name: _number(document[name]) for name in ("total_bytes", "available_bytes", "drift_bytes")},
        swap_total_bytes=_number(document["swap"]["total_bytes"]),
        swap_used_bytes=_number(document["swap"]["used_bytes"]),
        balance=_balance(document["balance"]),
        page_cache_bytes=_number(document["coverage"]["page_cache_bytes"]),
        processes=_rows(ProcessRow, document["processes"]),
        files=tuple(_row(CachedFile if "type" in row else FileRow, row) for row in document["files"]),
        containers=_rows(ContainerRow, document["containers"]),
        gpus=_rows(GpuRow, document["gpus"]),
        vram=_rows(VramRow, document["vram"]),
        dying=_rows(DyingRow, document["dying_groups"]),
        segments=_rows(Segment, document["shared_segments"]),
        sockets={_text(name): _whole(held) for name, held in document["socket_queues"].items()},
        heaps=tuple(dict(heap) for heap in document["heaps"]),
        page_cache=dict(document["page_cache"]),
        invisible=dict(document["invisible"]),
        allocations=_allocations(document["allocations"]),
        findings=tuple(_diagnosis(each) for each in document["findings"]),
        growth=None if growth is None else _growth(growth),
        totals=_row(Totals, {**totals, "files_looked_at": document["coverage"]["looked_at"]}),
        gaps=tuple(Gap(_text(each["layer"]), _missing(each), _whole(each["count"])) for each in document["gaps"]),
        layers=tuple(
            _row(Layer, {**each, "duration_s": document["durations_s"][each["name"]]}) for each in document["layers"]
        ),
        cost=None if cost is None else _row(Cost, cost),
    )


def _balance(told: Mapping[str, Any]) -> Reading[Balance]:
    if "missing" in told:
        return _missing(told)
    lines = [_row(BalanceLine, {**line, "parts": _rows(Part, line["parts"])}) for line in told["lines"]]
    return Value(Balance(_whole(told["total_bytes"]), tuple(lines)))


def _diagnosis(told: Mapping[str, Any]) -> Diagnosis:
    return Diagnosis(
        finding=_row(Finding, told),
        kind=_text(told["kind"]),
        held_bytes=_whole(told["held_bytes"]),
        gain_bytes=_number(told["gain_bytes"]),
        advice=Advice(_text(told["action"]), dict(told["with"]), _text(told["how"])),
    )


def _allocations(told: Mapping[str, Any]) -> dict[str, Any]:
    """The trace as it was told, empty where none was made."""
    if told:
        _cell("float", told["seconds"], "seconds")
        figures = [told["seen"], told["dropped"]]
        for each in _listed(told["keepers"], "keepers"):
            figures += [each["bytes"], each["pid"]]
            for text in (each["comm"], each["counted_as"], *_listed(each["functions"], "functions")):
                _text(text)
        for figure in figures:
            _whole(figure)
    return dict(told)


def _growth(told: Mapping[str, Any]) -> Growth:
    """Rows of a version that had no seconds of their own are of the whole span."""
    seconds = float(told["seconds"])
    rows = [row if row.get("seconds") is not None else {**row, "seconds": seconds} for row in told["rows"]]
    return Growth(seconds, _text(told["source"]), _rows(Grown, rows))


def _rows(kind: type[T], rows: Sequence[Mapping[str, Any]]) -> tuple[T, ...]:
    return tuple(_row(kind, row) for row in rows)


def _row(kind: type[T], told: Mapping[str, Any]) -> T:
    """A record from its own names; what has a default may be left out. TypeError for a value of another type."""
    cells = {}
    for each in dataclasses.fields(cast("Any", kind)):
        if each.name in told:
            cells[each.name] = _cell(str(each.type), told[each.name], f"{kind.__name__}.{each.name}")
    return kind(**cells)


def _cell(kind: str, told: Any, where: str) -> Any:
    if kind.startswith("Reading["):
        if isinstance(told, Mapping) and "missing" in told:
            return _missing(told)
        return Value(_cell(kind[len("Reading[") : -1], told, where))
    if kind.startswith("tuple["):
        return tuple(_listed(told, where))
    if kind in _PLAIN and (not isinstance(told, _PLAIN[kind]) or isinstance(told, bool) is not (kind == "bool")):
        raise TypeError(f"{where} is {told!r:.60}")
    return told


def _listed(told: Any, where: str) -> Sequence[Any]:
    if not isinstance(told, (list, tuple)):
        raise TypeError(f"{where} is {told!r:.60}")
    return told


def _missing(told: Mapping[str, Any]) -> Missing:
    return Missing(Reason(told["missing"]), _text(told["source"]), _text(told["detail"]))


def _number(told: Any) -> Reading[int]:
    return cast("Reading[int]", _cell("Reading[int]", told, "a figure"))


def _whole(told: Any) -> int:
    return cast("int", _cell("int", told, "a figure"))


def _text(told: Any) -> str:
    return cast("str", _cell("str", told, "a text"))
