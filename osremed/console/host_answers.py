"""What a look at a host answers, as types: its memory, its hot spots, its GPUs."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, create_model

from osremed.console.shapes import Exact, MissingValue, made, rows, shape
from osremed.hotspot import model as hotspot
from osremed.panorama import model as panorama
from osremed.panorama.cache_model import CachedFile


class Swap(Exact):
    total_bytes: int | MissingValue
    used_bytes: int | MissingValue


_Balance = made(
    "Balance",
    "The lines and the rest are the total.",
    {
        "total_bytes": int,
        "residual_bytes": int,
        "residual_share": float,
        "lines": rows(panorama.BalanceLine, ("share", float | MissingValue)),
    },
)
_GrownRow = create_model(
    "GrownRow",
    __doc__=" ".join((panorama.Grown.__doc__ or "").split()),
    __base__=shape(panorama.Grown, ("bytes", int), ("rate_bytes_s", float)),
    seconds=(float | None, None),  # a host of an older version does not tell it
)
_Growth = made(
    "Growth",
    "What changed, the fastest growing first.",
    {"seconds": float, "source": str, "rows": list[_GrownRow]},  # type: ignore[valid-type]
)
_ROWS = {
    "processes": panorama.ProcessRow,
    "containers": panorama.ContainerRow,
    "gpus": panorama.GpuRow,
    "vram": panorama.VramRow,
    "dying_groups": panorama.DyingRow,
}
_FIGURES = ("total_bytes", "available_bytes", "drift_bytes", "residual_bytes")
PanoramaOfHost = made(
    "PanoramaOfHost",
    "Numbers are bytes. It may have more keys than these.",
    {
        "host": str,
        "scope": str,
        "taken_ns": int,
        **dict.fromkeys(_FIGURES, int | MissingValue),
        "swap": Swap,
        "balance": _Balance | MissingValue,
        **{name: rows(kind) for name, kind in _ROWS.items()},
        "files": rows(CachedFile) | rows(panorama.FileRow),  # with the walk over inodes, and without
        "growth": _Growth | None,
    },
    ConfigDict(extra="allow"),
)


class NamedSeconds(Exact):
    name: str
    seconds: float


class HotFunction(Exact):
    name: str
    own_s: float
    total_s: float


class HotStack(Exact):
    stack: str
    seconds: float


class HotState(Exact):
    """Who was in this state, the most first."""

    seconds: float
    processes: list[NamedSeconds]
    containers: list[NamedSeconds]
    threads: list[NamedSeconds]
    functions: list[HotFunction]
    stacks: list[HotStack]


class HeatRow(Exact):
    """One second: how many samples were on the CPU in each of its 50 cells of 20 ms."""

    second: int
    samples: list[int]


_COUNTED = {"blocked": hotspot.Blocked, "call_rates": hotspot.CallRate, "open_rates": hotspot.OpenRate}
HotWindow = made(
    "HotWindow",
    "Who was hot on a host in a window of time, on and off the CPU.",
    {
        "host": str,
        "start_ns": int,
        "end_ns": int,
        "mode": shape(hotspot.Mode),
        "samples": int,
        "states": dict[str, HotState],
        **{name: rows(kind) for name, kind in _COUNTED.items()},
        "seconds": rows(hotspot.Second),
        "heat": list[HeatRow],
        "lost": int,
        "cost": shape(hotspot.Cost) | MissingValue,
        "gaps": list[str],
    },
)


class GpusFound(Exact):
    gpus: int
    driver_version: str


class GpusOfHost(Exact):
    """`unreadable` and `hung` say of a GPU, by its number, why it is not in `gpus`."""

    host: str
    inventory: GpusFound | MissingValue
    gpus: list[dict[str, Any]]
    unreadable: dict[str, Any]
    hung: dict[str, Any]
    scheduler: Any
