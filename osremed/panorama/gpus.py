"""GPU memory by process and container: a pool of its own beside RAM, in no line of the balance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from osremed.core.reading import Missing, Reading, Value
from osremed.panorama.collect import FoundGpus
from osremed.panorama.layers import Progress
from osremed.panorama.model import GpuRow, VramRow
from osremed.panorama.processes import container_of, memory_group
from osremed.sensors import procfs, vram
from osremed.sensors.procfs import PROC
from osremed.sensors.vram import Card, DrmClient

NVML, DRM = "NVML", "DRM fdinfo"


def gpu_memory(pids: Sequence[int], progress: Progress, root: str = PROC) -> FoundGpus:
    """What a driver that is there did not tell is a gap of `progress`; a host without a driver has none."""
    cards = vram.nvidia_cards()
    clients, unread = vram.drm_clients(pids, root)
    if isinstance(cards, Missing) and not vram.no_driver(cards, root):
        progress.gap(cards)
    for missing in unread:
        progress.gap(missing)
    told = cards.value if isinstance(cards, Value) else ()
    rows = [*_of_cards(told, progress, root), *(_of_client(client, root) for client in clients)]
    rows.sort(key=lambda row: (-_size(row.bytes), row.gpu, row.pid))
    progress.rows = len(rows)
    gpus = tuple(GpuRow(_gpu(card), card.name, card.total_bytes, card.used_bytes, _unnamed(card)) for card in told)
    return FoundGpus(gpus, tuple(rows))


def _gpu(card: Card) -> str:
    return card.uuid or f"GPU {card.index}"


def _unnamed(card: Card) -> Reading[int]:
    """Used, and held by no process that the driver names: its own share, and processes of other PID namespaces."""
    if isinstance(card.used_bytes, Missing):
        return card.used_bytes
    if isinstance(card.processes, Missing):
        return card.processes
    return Value(max(0, card.used_bytes.value - sum(_size(each.used_bytes) for each in card.processes.value)))


def _of_cards(cards: Sequence[Card], progress: Progress, root: str) -> list[VramRow]:
    rows = []
    for card in cards:
        for reading in (card.used_bytes, card.processes):
            if isinstance(reading, Missing):
                progress.gap(reading)
        for each in card.processes.value if isinstance(card.processes, Value) else ():
            part = "" if each.mig is None else f" MIG {each.mig[0]}/{each.mig[1]}"
            rows.append(_row(f"{_gpu(card)}{part}", each.pid, each.used_bytes, root))
    return rows


def _of_client(client: DrmClient, root: str) -> VramRow:
    row = _row(client.device or client.driver, client.pid, Value(client.device_bytes), root)
    return dataclasses.replace(row, source=DRM, regions=client.regions)


def _row(gpu: str, pid: int, held: Reading[int], root: str) -> VramRow:
    stat = procfs.stat(pid, root)
    return VramRow(
        gpu=gpu,
        pid=pid,
        start_time_ticks=0 if isinstance(stat, Missing) else stat.value.start_time_ticks,
        name="" if isinstance(stat, Missing) else stat.value.comm,
        container=container_of(memory_group(pid, root)),
        bytes=held,
        source=NVML,
    )


def _size(held: Reading[int]) -> int:
    return held.value if isinstance(held, Value) else 0
