"""The residual of the balance by owner: what the kernel holds for somebody in pages that no counter shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from osremed.core.reading import Missing, Reading, Value, reading_as_json
from osremed.core.record import record
from osremed.panorama.layers import Progress
from osremed.panorama.model import BalanceLine, Part
from osremed.sensors import procfs, vram
from osremed.sensors.kernelowners import (
    DMA_BUFFER,
    IO_URING,
    PACKET_RING,
    PERF_RING,
    PIPE,
    QUEUE,
    KernelHolding,
    kernel_holdings,
)
from osremed.sensors.procfs import PROC

_PARTS = 5
_NOT_IN_QUEUES = "without packet headers, which are slab, and buffers of page pools, which have a line of their own"
_SOURCE, _METHOD = "open files of all processes", "BPF iterator"
#: kind -> (line of the balance, note, why it is in no other line)
_LINES = {
    QUEUE: ("socket queues", "data not yet read or acknowledged", _NOT_IN_QUEUES),
    PACKET_RING: ("packet rings", "AF_PACKET, as a capture sets up", "a ring made by vmalloc counts there"),
    PIPE: ("pipes", "written and not yet read", "spliced pages of files count as page cache"),
    PERF_RING: ("perf rings", "buffers of perf events", ""),
    IO_URING: ("io_uring rings", "", ""),
}
_NO_PAGES_OF_ITS_OWN = "the pages are of the process or the exporter, which may count them"


@record
class Owner:
    """`names`: the processes that have it open, as `name (pid)`; a pid alone when the process has ended."""

    holding: KernelHolding
    names: tuple[str, ...]


@record
class Invisible:
    """`lines` belong into the balance, out of its residual. `owners`: the largest single things, counted or not.
    `pinned_bytes` overlaps with anonymous memory and files."""

    lines: tuple[BalanceLine, ...]
    owners: tuple[Owner, ...]
    pinned_bytes: Reading[int]


def invisible(progress: Progress, *, most_owners: int = 50, root: str = PROC) -> Invisible:
    """Who makes the kernel hold pages. Some milliseconds, and 1 us a descriptor. What cannot be read is a gap of
    `progress`."""
    held = kernel_holdings()
    if isinstance(held, Missing):
        progress.gap(held)
    holdings = held.value if isinstance(held, Value) else ()
    progress.rows = len(holdings)
    return Invisible(
        lines=_lines(holdings, root),
        owners=tuple(Owner(holding, _names(holding, root)) for holding in holdings[:most_owners]),
        pinned_bytes=vram.pinned_bytes(root),
    )


def _lines(holdings: Sequence[KernelHolding], root: str) -> tuple[BalanceLine, ...]:
    lines = []
    for kind, (name, note, overlap) in _LINES.items():
        own = [holding for holding in holdings if holding.kind == kind and holding.uncounted_bytes]
        if own:
            size = sum(holding.uncounted_bytes for holding in own)
            parts = _parts(own, root)
            lines.append(BalanceLine(name, "kernel", Value(size), _SOURCE, note, _METHOD, overlap, parts=parts))
    return tuple(lines)


def _parts(holdings: Sequence[KernelHolding], root: str) -> tuple[Part, ...]:
    """The largest owners of a line; the last part is the rest."""
    by_owner: dict[tuple[int, ...], int] = {}
    for holding in holdings:
        by_owner[holding.pids] = by_owner.get(holding.pids, 0) + holding.uncounted_bytes
    ranked = sorted(by_owner.items(), key=lambda item: (-item[1], item[0]))
    parts = [Part(", ".join(_name(pid, root) for pid in pids[:3]), size) for pids, size in ranked[:_PARTS]]
    rest = sum(size for _, size in ranked[_PARTS:])
    return (*parts, Part("others", rest))


def pool_lines(pools: Reading[dict[str, int]], every: int = 1) -> tuple[BalanceLine, ...]:
    """Receive buffers of network drivers, from a page scan of each `every`th page; no line when it found none."""
    if isinstance(pools, Missing) or not pools.value:
        return ()
    parts = [Part(device or "device not told", size) for device, size in sorted(pools.value.items())]
    total = Value(sum(pools.value.values()))
    note = "receive buffers of network drivers"
    method = "BPF page scan" if every == 1 else f"BPF scan of a sample, one page of {every}"
    overlap = "buffers in socket queues count here"
    parts.append(Part("others", 0))
    return (BalanceLine("page pools", "kernel", total, "page structures", note, method, overlap, parts=tuple(parts)),)


def _names(holding: KernelHolding, root: str) -> tuple[str, ...]:
    return tuple(_name(pid, root) for pid in holding.pids[:8])


def _name(pid: int, root: str) -> str:
    stat = procfs.stat(pid, root)
    return str(pid) if isinstance(stat, Missing) else f"{stat.value.comm} ({pid})"


def as_document(found: Invisible) -> dict[str, Any]:
    """Bytes and names for JSON; what is not known is an object with `missing`."""
    return {
        "owners": [
            {
                "kind": owner.holding.kind,
                "detail": owner.holding.detail,
                "bytes": owner.holding.bytes,
                "uncounted_bytes": owner.holding.uncounted_bytes,
                "held_by": list(owner.names),
                "overlap": _overlap(owner.holding),
            }
            for owner in found.owners
        ],
        "pinned_bytes": reading_as_json(found.pinned_bytes),
    }


def _overlap(holding: KernelHolding) -> str:
    """Why a holding is in no line of its own, or in one only partly. Pure."""
    if holding.kind in _LINES:
        return _LINES[holding.kind][2]
    return _NO_PAGES_OF_ITS_OWN if holding.kind == DMA_BUFFER else "user memory and vmalloc, counted there"
