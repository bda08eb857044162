"""The newest look at each host that somebody asked for, as its page shows it. Hosts are not trusted: of a document only
what is drawn is kept, within bounds, and what has another shape is Missing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from osremed.core.reading import Missing, Reason
from osremed.core.record import record
from osremed.report.facts import int_at, number_at, rows_at, text_at

CELLS = 50  #: of 20 ms, a second
_MOST_SECONDS = 60
_MOST_ROWS = 8
_MOST_LOOKS = 512
_CELL_PX, _ROW_PX, _LEFT_PX, _TOP_PX = 16, 20, 80, 4


@record
class HeatCell:
    """One that had samples; `darkness` is its share of the fullest one."""

    x: int
    y: int
    at_ms: int
    count: int
    darkness: float


@record
class HeatSecond:
    at_ns: int
    y: int
    samples: int
    fullest_ms: int  #: where in the second the fullest cell begins
    fullest: int
    cells: tuple[HeatCell, ...]


@record
class Heat:
    """The recorder's window. `omitted` is how many of its seconds are not drawn."""

    start_ns: int
    end_ns: int
    samples: int | Missing
    top: int
    seconds: tuple[HeatSecond, ...]
    omitted: int
    height: int
    processes: tuple[tuple[str, float], ...] | Missing
    gaps: tuple[str, ...]


@record
class Gpu:
    index: int | Missing
    name: str | Missing
    vram_used_bytes: int | Missing
    vram_total_bytes: int | Missing
    sm_util_percent: float | Missing
    temperature_celsius: float | Missing
    processes: tuple[str, ...] | Missing


@record
class Gpus:
    """`gaps`: (which GPU or "", why it was not read)."""

    rows: tuple[Gpu, ...]
    gaps: tuple[tuple[str, str], ...]


@record
class Look:
    """`found` is a Missing for a document that is not what was asked for."""

    taken_ns: int
    found: Heat | Gpus | Missing


def heat_of(document: Mapping[str, Any]) -> Heat | Missing:
    """The heat map of a document of `hotspot at`, its geometry worked out."""
    start_ns, end_ns = int_at(document, "start_ns", "hotspot"), int_at(document, "end_ns", "hotspot")
    rows = rows_at(document, "heat", "hotspot")
    if isinstance(start_ns, Missing) or isinstance(end_ns, Missing) or isinstance(rows, Missing):
        return next(each for each in (start_ns, end_ns, rows) if isinstance(each, Missing))
    known: list[tuple[Any, Any]] = [(row.get("second"), row.get("samples")) for row in rows[:_MOST_SECONDS]]
    if not all(type(second) is int and 0 < second < 1 << 33 and _are_counts(cells) for second, cells in known):
        return Missing(Reason.MALFORMED, "hotspot", "heat is not seconds of 50 counts")
    top = max((count for _second, cells in known for count in cells), default=0)
    seconds = tuple(_second(place, second, cells, top) for place, (second, cells) in enumerate(known))
    return Heat(
        start_ns,
        end_ns,
        int_at(document, "samples", "hotspot"),
        top,
        seconds,
        len(rows) - len(seconds),
        len(seconds) * _ROW_PX + 2 * _TOP_PX + 18,
        _hottest(document),
        _texts(document.get("gaps")),
    )


def _are_counts(cells: Any) -> bool:
    return (
        isinstance(cells, list)
        and len(cells) == CELLS
        and all(type(count) is int and 0 <= count < 1 << 31 for count in cells)
    )


def _second(place: int, second: int, counts: list[int], top: int) -> HeatSecond:
    y = _TOP_PX + place * _ROW_PX
    cells = tuple(
        HeatCell(_LEFT_PX + at * _CELL_PX, y, at * 1000 // CELLS, count, round(0.15 + 0.85 * count / top, 2))
        for at, count in enumerate(counts)
        if count
    )
    fullest = max(range(CELLS), key=lambda at: counts[at])
    return HeatSecond(second * 10**9, y, sum(counts), fullest * 1000 // CELLS, counts[fullest], cells)


def _hottest(document: Mapping[str, Any]) -> tuple[tuple[str, float], ...] | Missing:
    """The processes that were most on the CPU, with seconds."""
    states = document.get("states")
    rows = rows_at(states.get("cpu") if isinstance(states, Mapping) else None, "processes", "hotspot")
    if isinstance(rows, Missing):
        return rows
    named = [(text_at(row, "name", "hotspot"), number_at(row, "seconds", "hotspot")) for row in rows[:_MOST_ROWS]]
    return tuple(
        (name, seconds) for name, seconds in named if isinstance(name, str) and not isinstance(seconds, Missing)
    )


def _texts(told: Any) -> tuple[str, ...]:
    if not isinstance(told, list):
        return (str(Missing(Reason.MALFORMED, "hotspot", "no list of gaps")),)
    return (*(str(each)[:300] for each in told[:_MOST_ROWS]), *_beyond(told))


def _beyond(rows: Sequence[Any]) -> tuple[str, ...]:
    return (f"+ {len(rows) - _MOST_ROWS}",) if len(rows) > _MOST_ROWS else ()


def gpus_of(document: Mapping[str, Any]) -> Gpus | Missing:
    """The table of a document of `timeline gpus`. No rows and no gaps: it has no GPU."""
    rows, inventory = rows_at(document, "gpus", "gpus"), document.get("inventory")
    if isinstance(rows, Missing):
        return rows
    if not isinstance(inventory, Mapping):
        return Missing(Reason.MALFORMED, "gpus", "no inventory")
    gaps = [("", inventory)] if "gpus" not in inventory else []
    for kind in ("unreadable", "hung"):
        told = document.get(kind)
        gaps += [(str(index), why) for index, why in told.items()] if isinstance(told, Mapping) else []
    said = [("" if index == "-1" else index[:8], _gap(why)) for index, why in gaps]
    return Gpus(tuple(_gpu(row) for row in rows[:64]), tuple(said[:64]))


def _gap(why: Any) -> str:
    if not isinstance(why, Mapping) or "missing" not in why:
        return str(Missing(Reason.MALFORMED, "gpus", "no reason"))
    return f"{why['missing']}: {why.get('detail', '')}"[:300]


def _gpu(row: Mapping[str, Any]) -> Gpu:
    metrics, processes = row.get("metrics"), rows_at(row, "processes", "gpus")
    return Gpu(
        int_at(row, "index", "gpus"),
        text_at(row, "name", "gpus"),
        int_at(metrics, "vram_used_bytes", "gpus"),
        int_at(metrics, "vram_total_bytes", "gpus"),
        number_at(metrics, "sm_util_percent", "gpus"),
        number_at(metrics, "temperature_celsius", "gpus"),
        processes if isinstance(processes, Missing) else (*map(_process, processes[:_MOST_ROWS]), *_beyond(processes)),
    )


def _process(row: Mapping[str, Any]) -> str:
    return f"{str(row.get('name', '?'))[:64]}[{str(row.get('pid', '?'))[:10]}]"


#: Operation -> what its document is drawn from.
DRAWN: Mapping[str, Callable[[Mapping[str, Any]], Heat | Gpus | Missing]] = {
    "hotspot_at": heat_of,
    "timeline_gpus": gpus_of,
}


class Looks:
    """Safe from several threads. Kept in memory alone: a look is taken again with one click."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Look] = OrderedDict()

    def keep(self, operation: str, host: str, document: Any, now_ns: int) -> None:
        """Of an operation that is drawn; the oldest look goes when there are too many."""
        wrong = Missing(Reason.MALFORMED, operation, "no document")
        look = Look(now_ns, DRAWN[operation](document) if isinstance(document, Mapping) else wrong)
        with self._lock:
            self._kept[operation, host] = look
            self._kept.move_to_end((operation, host))
            while len(self._kept) > _MOST_LOOKS:
                self._kept.popitem(last=False)

    def of(self, operation: str, host: str) -> Look | None:
        with self._lock:
            return self._kept.get((operation, host))
