"""What block devices and processes did, as counters that only grow (`seconds_between`: those of time wrap); two
readings make a rate."""

from __future__ import annotations

from osremed.core.reading import Reading, Reason
from osremed.core.record import record
from osremed.sensors.procfs import PROC, number, read_parsed, text

_FLUSHES_FROM = 17  #: counters a line; flushes since Linux 5.5
_VIRTUAL = ("loop", "ram", "zram", "dm-", "md")  #: what lies above a device counts the same work a second time


_WRAP_S = (1 << 32) / 1e3  #: the kernel prints milliseconds as 32 bits: a busy disk of many queues wraps within days


@record
class Disk:
    """Requests completed, seconds they took in sum, and seconds in which any was in flight. The flush figures are None
    before Linux 5.5."""

    reads: int
    read_s: float
    writes: int
    write_s: float
    written_bytes: int
    busy_s: float
    flushes: int | None
    flush_s: float | None


@record
class ProcessIo:
    """`write_bytes` were handed to the block layer for it, or will be once they are written back."""

    read_bytes: int
    write_bytes: int


def parse_diskstats(data: bytes) -> dict[str, Disk]:
    """Devices by name, without those that lie above others and those that did nothing; iostats.rst of the kernel."""
    found = {}
    for line in data.splitlines():
        words = line.split()
        if len(words) < 14:
            raise ValueError(f"not a line of diskstats: {line[:60]!r}")
        name, counters = text(words[2]), [number(word) for word in words[3:20]]
        if name.startswith(_VIRTUAL) or not any(counters):
            continue
        flushes = counters[15:17] if len(counters) >= _FLUSHES_FROM else None
        found[name] = Disk(
            reads=counters[0],
            read_s=counters[3] / 1e3,
            writes=counters[4],
            write_s=counters[7] / 1e3,
            written_bytes=counters[6] * 512,
            busy_s=counters[9] / 1e3,
            flushes=flushes[0] if flushes else None,
            flush_s=flushes[1] / 1e3 if flushes else None,
        )
    return found


def seconds_between(before_s: float, after_s: float) -> float:
    """Of the figures in seconds of a Disk, which begin anew after 49 days of them."""
    return round((after_s - before_s) % _WRAP_S, 3)


def parse_process_io(data: bytes) -> ProcessIo:
    told = {}
    for line in data.splitlines():
        key, colon, count = line.partition(b": ")
        if not colon:
            raise ValueError(f"not `key: count`: {line[:40]!r}")
        told[key] = number(count)
    try:
        return ProcessIo(told[b"read_bytes"], told[b"write_bytes"])
    except KeyError as error:
        raise ValueError(f"no {error.args[0]!r}") from None


def disks(root: str = PROC) -> Reading[dict[str, Disk]]:
    return read_parsed(f"{root}/diskstats", parse_diskstats, absent=Reason.UNSUPPORTED)


def process_io(pid: int, root: str = PROC) -> Reading[ProcessIo]:
    """DENIED for another user's process. Without CONFIG_TASK_IO_ACCOUNTING there is no such file: GONE."""
    return read_parsed(f"{root}/{pid}/io", parse_process_io)
