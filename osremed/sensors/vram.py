"""Memory of GPUs by process: its own pool, never a part of RAM. From NVIDIA's driver (`nvml`), and what drivers of the
kernel's DRM say in /proc/PID/fdinfo (Linux 5.19; drm-resident-* since 6.5)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors import nvml
from osremed.sensors.nvml import GpuProcess
from osremed.sensors.procfs import PROC, number, read_parsed, text

_LINE = re.compile(rb"^drm-([!-9;-~]+):[ \t]*([^\n]*)$", re.MULTILINE)
_UNITS = {b"": 1, b"KiB": 1 << 10, b"MiB": 1 << 20}
#: Newest name first: the first one a region has is taken.
_SIZES = ("resident", "memory")


@record
class DrmClient:
    """One opening of a GPU by a process; descriptors that share it have one client id. `regions`: bytes by region
    (vram, gtt, system …) as the driver calls them; what is not on the device lies in RAM."""

    pid: int
    driver: str
    device: str
    client_id: int
    regions: dict[str, int]

    @property
    def device_bytes(self) -> int:
        return sum(size for region, size in self.regions.items() if region.startswith(("vram", "local", "stolen")))


@record
class Card:
    """One NVIDIA GPU. `processes`: host pids; their bytes are Missing where the driver does not tell them (WDDM)."""

    index: int
    uuid: str
    name: str
    total_bytes: Reading[int]
    used_bytes: Reading[int]
    processes: Reading[tuple[GpuProcess, ...]]


def parse_drm_fdinfo(data: bytes, pid: int) -> DrmClient | None:
    """None for a descriptor of something else. ValueError for a size that is none."""
    fields = {text(key): value.strip() for key, value in _LINE.findall(data)}
    if "driver" not in fields:
        return None
    regions: dict[str, int] = {}
    for size in _SIZES:
        for key, value in fields.items():
            kind, _, region = key.partition("-")
            if kind == size and region:
                regions.setdefault(region, _bytes(value))
    return DrmClient(
        pid=pid,
        driver=text(fields["driver"]),
        device=text(fields.get("pdev", b"")),
        client_id=number(fields.get("client-id", b"0")),
        regions=regions,
    )


def _bytes(value: bytes) -> int:
    count, _, unit = value.partition(b" ")
    if unit.strip() not in _UNITS:
        raise ValueError(f"not a size: {value[:40]!r}")
    return number(count) * _UNITS[unit.strip()]


def drm_clients(pids: Sequence[int], root: str = PROC) -> tuple[list[DrmClient], list[Missing]]:
    """Clients of all these processes, each once, and what could not be read. Only descriptors of /dev/dri are looked
    at: their fdinfo asks the driver, which does not wait."""
    found: dict[tuple[str, str, int], DrmClient] = {}
    missing = []
    for pid in pids:
        for name in _render_descriptors(pid, root):
            path = f"{root}/{pid}/fdinfo/{name}"
            client = read_parsed(path, lambda data, pid=pid: parse_drm_fdinfo(data, pid))  # type: ignore[misc]
            if isinstance(client, Missing):
                missing += [client] if client.reason is not Reason.GONE else []
            elif client.value is not None:
                found[client.value.driver, client.value.device, client.value.client_id] = client.value
    return list(found.values()), missing


def _render_descriptors(pid: int, root: str) -> list[str]:
    directory = f"{root}/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return []  # who cannot be read is a gap of the layers that count processes
    return [name for name in names if _target(f"{directory}/{name}").startswith("/dev/dri/")]


def _target(link: str) -> str:
    try:
        return text(os.readlink(os.fsencode(link)))
    except OSError:
        return ""


def nvidia_cards(library: str = nvml.LIBRARY) -> Reading[tuple[Card, ...]]:
    """Every NVIDIA GPU and who holds memory of it. UNSUPPORTED without the driver's library, GONE without the driver. A
    GPU that does not answer is a card of Missing figures. May wait as long as the driver does."""
    try:
        driver = nvml.Nvml(library)
    except nvml.NvmlError as error:
        return error.as_missing()
    try:
        return Value(tuple(_card(driver, index) for index in range(driver.count())))
    except nvml.NvmlError as error:
        return error.as_missing()
    finally:
        driver.code("nvmlShutdown")


def no_driver(missing: Missing, root: str = PROC) -> bool:
    """Whether the host has no NVIDIA driver at all, rather than one that `nvidia_cards` got no answer from."""
    return missing.detail.startswith(("NVML 9:", "NVML 12:")) and not os.path.isdir(f"{root}/driver/nvidia")


def _card(driver: nvml.Nvml, index: int) -> Card:
    try:
        device = driver.device(index)
        told, sizes = driver.identity(index, device), nvml.memory(driver, device)
    except nvml.NvmlError as error:
        absent = error.as_missing()
        return Card(index, "", "", absent, absent, absent)
    total, used = Value(sizes["vram_total_bytes"]), Value(sizes["vram_used_bytes"])
    return Card(index, told.uuid, told.name, total, used, _users(driver, device))


def _users(driver: nvml.Nvml, device: Any) -> Reading[tuple[GpuProcess, ...]]:
    """A process that computes and draws counts once: the driver tells the same sum both times."""
    computing = nvml.processes(driver, device)
    drawing = nvml.processes(driver, device, nvml.DRAWING)
    if isinstance(computing, Missing):
        return computing
    found = {(each.pid, each.mig): each for each in (drawing.value if isinstance(drawing, Value) else ())}
    found.update({(each.pid, each.mig): each for each in computing.value})
    return Value(tuple(found.values()))


def pinned_bytes(root: str = PROC) -> Reading[int]:
    """Memory that devices may reach at any moment and that cannot move (RDMA, VFIO, GPUs, io_uring): pages pinned less
    pages released, of /proc/vmstat since Linux 5.7. They are counted as what they are (anonymous, file) as well."""
    path = f"{root}/vmstat"
    return read_parsed(path, _pinned, absent=Reason.UNSUPPORTED)


def _pinned(data: bytes) -> int:
    fields = dict(line.split(b" ", 1) for line in data.split(b"\n") if b" " in line)
    try:
        pages = number(fields[b"nr_foll_pin_acquired"]) - number(fields[b"nr_foll_pin_released"])
    except KeyError as error:
        raise ValueError(f"no {error.args[0].decode()}") from error
    return max(0, pages) * os.sysconf("SC_PAGE_SIZE")
