"""Host-wide files that are read many times a second, opened once: memory, per-CPU free lists, pressure, reclaim.

A kept descriptor saves the path walk, and the file opens even when no descriptor is to be had any more. `root` may be
a captured tree. Readers return a Reading and never raise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TypeVar

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors import procfs, psi

_READ_BYTES = 1 << 17
_GLANCE_BYTES = 256  # the third line of meminfo
_LIMIT_BYTES = 1 << 23  # zoneinfo of a thousand CPUs
_MEMINFO_KEYS = (b"MemTotal", b"MemFree", b"MemAvailable", b"AnonPages", b"SwapTotal", b"SwapFree")
_FILE_LRU_KEYS = (b"Active(file)", b"Inactive(file)")
_VMSTAT = re.compile(
    rb"^(workingset_refault(?:_file|_anon)?|pg(?:scan|steal)_(?:kswapd|direct)) ([0-9]{1,20})$", re.MULTILINE
)
_OOM_KILLS = re.compile(rb"^oom_kill ([0-9]{1,20})$", re.MULTILINE)
_ZFS_SIZE = re.compile(rb"^(size|c_min) +4 +([0-9]{1,20})$", re.MULTILINE)

T = TypeVar("T")


@record
class Reclaim:
    """Counters since boot, in pages. `refaulted`: pages that were reclaimed and came back from disk or swap
    (workingset_refault_file and _anon; one counter before Linux 5.9). `scanned`: pages the host's own reclaim looked
    at, `reclaimed`: those it could take (pgscan_ and pgsteal_, kswapd and direct): what a control group reclaims
    against its own limit is in neither."""

    refaulted_pages: int
    scanned_pages: int
    reclaimed_pages: int


def parse_memory(data: bytes) -> dict[str, int]:
    """The few keys of meminfo a guard lives on, in bytes; those that are there. `FileLru` is Active(file) +
    Inactive(file). ValueError without MemTotal and for a line the kernel would not write.

    A fifth of the time of `procfs.parse_meminfo`: it looks only at these lines."""
    found = {key.decode("ascii"): size for key in _MEMINFO_KEYS if (size := _size(data, key)) is not None}
    if "MemTotal" not in found:
        raise ValueError("no MemTotal")
    lru = [size for key in _FILE_LRU_KEYS if (size := _size(data, key)) is not None]
    if len(lru) == len(_FILE_LRU_KEYS):
        found["FileLru"] = sum(lru)
    return found


def _size(data: bytes, key: bytes) -> int | None:
    label = key + b":"
    start = 0 if data.startswith(label) else data.find(b"\n" + label) + 1
    if start == 0 and not data.startswith(label):
        return None
    words = data[start + len(label) : data.find(b"\n", start)].split()
    if len(words) != 2 or words[1] != b"kB":
        raise ValueError(f"not a size: {key!r}")
    return procfs.number(words[0]) * 1024


def parse_reclaim(data: bytes) -> Reclaim:
    """vmstat. ValueError when it lacks refaults, scans or steals (none was ever absent since Linux 4.8)."""
    counters = {key: procfs.number(count) for key, count in _VMSTAT.findall(data)}
    refaulted = [count for key, count in counters.items() if key.startswith(b"workingset_refault")]
    scanned = [count for key, count in counters.items() if key.startswith(b"pgscan_")]
    reclaimed = [count for key, count in counters.items() if key.startswith(b"pgsteal_")]
    if not refaulted or not scanned or not reclaimed:
        raise ValueError("no refault, scan or steal counters")
    return Reclaim(sum(refaulted), sum(scanned), sum(reclaimed))


def parse_oom_kills(data: bytes) -> int:
    """vmstat: processes that the kernel's own OOM handling ended since boot (Linux 4.13). ValueError without."""
    found = _OOM_KILLS.search(data)
    if found is None:
        raise ValueError("no oom_kill")
    return procfs.number(found.group(1))


def parse_arcstats(data: bytes) -> int:
    """Bytes ZFS's cache gives back under pressure: its size above its floor. MemAvailable does not count it."""
    figures = {key: procfs.number(count) for key, count in _ZFS_SIZE.findall(data)}
    if b"size" not in figures or b"c_min" not in figures:
        raise ValueError("no size or c_min")
    return max(0, figures[b"size"] - figures[b"c_min"])


def parse_swaps(data: bytes) -> bool:
    """Whether every swap device is compressed memory (zram): such swap is made of the memory it is to relieve."""
    devices = [line.split()[0] for line in data.splitlines()[1:] if line.strip()]
    return bool(devices) and all(device.startswith(b"/dev/zram") for device in devices)


class NodeFiles:
    """Descriptors of a root's host-wide files, opened at first use and kept."""

    def __init__(self, root: str = procfs.PROC) -> None:
        self.root = root
        self._fds: dict[str, int] = {}

    def memory(self) -> Reading[dict[str, int]]:
        return self._parsed("meminfo", parse_memory, once=True)

    def glance(self) -> int | None:
        """MemAvailable in bytes and nothing else, at a third of the cost of `memory`; None when that does not tell."""
        fd = self._fds.get("meminfo")
        if fd is None:
            return None
        try:
            data = os.pread(fd, _GLANCE_BYTES, 0)
            start = data.index(b"\nMemAvailable:") + 14
            return int(data[start : data.index(b" kB\n", start)]) * 1024
        except (OSError, ValueError):
            return None

    def pcp_pages(self) -> Reading[int]:
        return self._parsed("zoneinfo", procfs.parse_zoneinfo_pcp_pages)

    def pressure(self) -> Reading[psi.Pressure]:
        return self._parsed("pressure/memory", psi.parse, once=True)

    def reclaim(self) -> Reading[Reclaim]:
        return self._parsed("vmstat", parse_reclaim)

    def oom_kills(self) -> Reading[int]:
        return self._parsed("vmstat", parse_oom_kills)

    def arc_reclaimable_bytes(self) -> Reading[int]:
        """UNSUPPORTED without ZFS."""
        return self._parsed("spl/kstat/zfs/arcstats", parse_arcstats)

    def swap_is_zram(self) -> Reading[bool]:
        return self._parsed("swaps", parse_swaps)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _parsed(self, name: str, parse: Callable[[bytes], T], *, once: bool = False) -> Reading[T]:
        """`once`: the kernel gives the file as one record, so one read has it whole."""
        try:
            fd = self._fds.get(name)
            if fd is None:
                fd = self._fds[name] = os.open(f"{self.root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            return Value(parse(_whole(fd, once)))
        except OSError as error:
            return missing_from_oserror(error, f"{self.root}/{name}", absent=Reason.UNSUPPORTED)
        except ValueError as error:
            return Missing(Reason.MALFORMED, f"{self.root}/{name}", str(error)[:200])


def _whole(fd: int, once: bool) -> bytes:
    data = os.pread(fd, _READ_BYTES, 0)
    while chunk := b"" if once or not data else os.pread(fd, _READ_BYTES, len(data)):
        data += chunk
        if len(data) > _LIMIT_BYTES:
            raise ValueError(f"longer than {_LIMIT_BYTES} bytes")
    return data
