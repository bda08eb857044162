"""The memory of another process, read while it runs: mappings, resident pages, process_vm_readv(2) in batches.

Nothing is stopped, attached or written. Reading needs the right to ptrace the target (same user and not confined by
yama, or CAP_SYS_PTRACE). The kernel pins a few pages at a time, so a target that maps and unmaps meanwhile waits for
microseconds at most. What is read may be torn: every pointer in it must be checked by reading what it points to.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors import procfs

PAGE_BYTES = procfs.PAGE_BYTES
#: The highest user address of x86-64 with five-level page tables; no pointer lies above it.
HIGHEST_ADDRESS = 1 << 56
_MAPS_LIMIT_BYTES = 64 << 20
_NO_SPACE = "no address space: a kernel thread or a zombie"
_SPANS_PER_CALL = 1024  # UIO_MAXIOV
_BATCH_BYTES = 1 << 20
_PAGEMAP_WINDOW_PAGES = 1 << 17
_LINE = re.compile(
    rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-][sp]) ([0-9a-f]{1,16}) "
    rb"([0-9a-f]{2,8}:[0-9a-f]{2,8}) ([0-9]{1,20})(?: +(.*))?"
)
_PRESENT = bytes(0x80 if byte & 0x80 else 0x40 if byte & 0x40 else 0 for byte in range(256))
_PRESENT_RUN = re.compile(rb"\x80+")

_libc = ctypes.CDLL(None, use_errno=True)
_readv = _libc.process_vm_readv
_readv.restype = ctypes.c_ssize_t
_readv.argtypes = (ctypes.c_int,) + (ctypes.c_void_p, ctypes.c_ulong) * 2 + (ctypes.c_ulong,)


class ProcessLost(Exception):
    """The process cannot be read any more: it ended, became another program, or the right to read it went."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(str(missing))
        self.missing = missing


@record
class Mapping:
    """One line of /proc/PID/maps. `path` is as the target sees it, with ` (deleted)` where the kernel says so."""

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    path: str

    @property
    def bytes(self) -> int:
        return self.end - self.start

    @property
    def private_writable(self) -> bool:
        return self.perms[0] == "r" and self.perms[1] == "w" and self.perms[3] == "p"


@record
class Residency:
    """Page runs in memory now; `swapped_bytes` are not read (that would bring them in), `unseen_bytes` were not asked
    for, because time ran out."""

    runs: tuple[tuple[int, int], ...]
    swapped_bytes: int
    unseen_bytes: int

    @property
    def bytes(self) -> int:
        return sum(end - start for start, end in self.runs)


def parse_maps(data: bytes) -> tuple[Mapping, ...]:
    """Mappings in ascending order, none over another. ValueError for a line the kernel would not write.

    The kernel writes the file page by page and lets the target map and unmap between two pages (proc_pid_maps(5); seen
    on 6.18 with a JVM that grows a malloc arena): the first mapping of a page may have grown over what was told
    before. It is the newer truth, so what was told before ends where it begins. It always reaches further than all
    before it, since the kernel goes on behind them; one that does not is refused."""
    found: list[Mapping] = []
    last = 0
    for line in data.split(b"\n"):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a line of maps: {line[:80]!r}")
        start, end, perms, offset, device, inode, path = match.groups()
        low, high = int(start, 16), int(end, 16)
        if not low < high > last:
            raise ValueError(f"mappings are not ascending: {line[:80]!r}")
        while found and low < found[-1].end:
            older = found.pop()
            if older.start < low:
                found.append(replace(older, end=low))
        last = high
        found.append(
            Mapping(
                low,
                high,
                perms.decode("ascii"),
                int(offset, 16),
                device.decode("ascii"),
                int(inode),
                procfs.text(path or b""),
            )
        )
    return tuple(found)


def mappings(pid: int, root: str = procfs.PROC) -> Reading[tuple[Mapping, ...]]:
    """DENIED without the right to ptrace; GONE when it ended; NO_DATA for a kernel thread or a zombie."""
    path = f"{root}/{pid}/maps"
    try:
        found = parse_maps(procfs.read_file(path, limit_bytes=_MAPS_LIMIT_BYTES))
    except OSError as error:
        return missing_from_oserror(error, path)
    except ValueError as error:
        return Missing(Reason.MALFORMED, path, str(error)[:200])
    return Value(found) if found else Missing(Reason.NO_DATA, path, _NO_SPACE)


class AddressSpace:
    """One process as it was when opened. `faults` counts reads that met unmapped memory, `bytes_read` what was copied.

    Reads raise ProcessLost when the process ended or may not be read."""

    def __init__(self, pid: int, maps: tuple[Mapping, ...], identity: tuple[int, bytes], root: str) -> None:
        self.pid, self.maps, self.root = pid, maps, root
        self.faults = 0
        self.bytes_read = 0
        self._identity = identity

    def read(self, address: int, length: int) -> bytes | None:
        """Exactly `length` bytes, or None when any of them is not mapped."""
        if not 0 < address < HIGHEST_ADDRESS or length <= 0:
            self.faults += 1
            return None
        buffer = ctypes.create_string_buffer(length)
        got = self._call(ctypes.addressof(buffer), length, array.array("Q", (address, length)))
        if got == length:
            return buffer.raw
        self.faults += 1
        return None

    def read_prefix(self, address: int, length: int) -> bytes:
        """As much of `length` bytes as is mapped without a hole; whole words of 8 bytes."""
        buffer = ctypes.create_string_buffer(length)
        got = self._call(ctypes.addressof(buffer), length, array.array("Q", (address, length)))
        if got < length:
            self.faults += 1
        return buffer.raw[: got & -8]

    def read_many(self, spans: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """One answer per (address, length), in order; None where any byte is not mapped. 1,024 spans a system call."""
        answers: list[bytes | None] = []
        at = 0
        while at < len(spans):
            taken, total = at, 0
            while taken < len(spans) and taken - at < _SPANS_PER_CALL and total < _BATCH_BYTES:
                address, length = spans[taken]
                if not 0 < address < HIGHEST_ADDRESS or length <= 0:
                    break
                total += length
                taken += 1
            done = self._batch(spans[at:taken], total, answers) if taken > at else 0
            at += done
            if at < taken or done == 0:  # the span here is the one that failed
                answers.append(None)
                self.faults += 1
                at += 1
        return answers

    def _batch(self, spans: Sequence[tuple[int, int]], total: int, answers: list[bytes | None]) -> int:
        buffer = ctypes.create_string_buffer(total)
        flat = array.array("Q")
        for span in spans:
            flat.extend(span)
        got = self._call(ctypes.addressof(buffer), total, flat)
        raw, offset, done = buffer.raw, 0, 0
        for _address, length in spans:
            if offset + length > got:
                break
            answers.append(raw[offset : offset + length])
            offset += length
            done += 1
        return done

    def _call(self, local: int, length: int, remote: array.array[int]) -> int:
        """Bytes copied; 0 where the first span is not mapped."""
        mine = array.array("Q", (local, length))
        got = int(_readv(self.pid, mine.buffer_info()[0], 1, remote.buffer_info()[0], len(remote) // 2, 0))
        if got >= 0:
            self.bytes_read += got
            return got
        code = ctypes.get_errno()
        if code in (errno.ESRCH, errno.EPERM, errno.ENOSYS):
            error = OSError(code, os.strerror(code))
            raise ProcessLost(missing_from_oserror(error, f"process_vm_readv({self.pid})"))
        return 0

    def check_same(self) -> None:
        """ProcessLost(GONE) when the pid is another process or another program by now."""
        now = _identity(self.pid, self.root)
        if isinstance(now, Missing):
            raise ProcessLost(now)
        if now.value != self._identity:
            source = f"{self.root}/{self.pid}/auxv"
            raise ProcessLost(Missing(Reason.GONE, source, "it became another program meanwhile"))

    def resident(self, chosen: Sequence[Mapping], deadline_s: float) -> Residency:
        """Which pages of `chosen` are in memory, by pagemap (2 GB of it for each TB of address space: hence the
        deadline, on the monotonic clock). ProcessLost when it ended."""
        path = f"{self.root}/{self.pid}/pagemap"
        runs: list[tuple[int, int]] = []
        swapped = unseen = 0
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ProcessLost(missing_from_oserror(error, path)) from error
        try:
            for mapping in chosen:
                for low, high in _windows(mapping):
                    if time.monotonic() > deadline_s:
                        unseen += high - low
                        continue
                    flags = os.pread(fd, (high - low) // PAGE_BYTES * 8, low // PAGE_BYTES * 8)[7::8]
                    flags = flags.translate(_PRESENT)
                    swapped += flags.count(0x40) * PAGE_BYTES
                    for match in _PRESENT_RUN.finditer(flags):
                        _append_run(runs, low + match.start() * PAGE_BYTES, low + match.end() * PAGE_BYTES)
        except OSError as error:
            raise ProcessLost(missing_from_oserror(error, path)) from error
        finally:
            os.close(fd)
        return Residency(tuple(runs), swapped, unseen)


def _windows(mapping: Mapping) -> Iterator[tuple[int, int]]:
    step = _PAGEMAP_WINDOW_PAGES * PAGE_BYTES
    for low in range(mapping.start, mapping.end, step):
        yield low, min(low + step, mapping.end)


def _append_run(runs: list[tuple[int, int]], start: int, end: int) -> None:
    if runs and runs[-1][1] == start:
        runs[-1] = (runs[-1][0], end)
    else:
        runs.append((start, end))


def _identity(pid: int, root: str) -> Reading[tuple[int, bytes]]:
    """Start time, and the auxiliary vector: exec(2) puts other random addresses in it."""
    stat = procfs.stat(pid, root)
    if isinstance(stat, Missing):
        return stat
    path = f"{root}/{pid}/auxv"
    if stat.value.kernel_thread or stat.value.state == "Z":
        return Missing(Reason.NO_DATA, path, _NO_SPACE)
    try:
        return Value((stat.value.start_time_ticks, procfs.read_file(path)))
    except OSError as error:
        return missing_from_oserror(error, path)


def open_address_space(pid: int, root: str = procfs.PROC) -> Reading[AddressSpace]:
    """GONE, DENIED, or NO_DATA for what has no address space."""
    identity = _identity(pid, root)
    if isinstance(identity, Missing):
        return identity
    maps = mappings(pid, root)
    if isinstance(maps, Missing):
        return maps
    space = AddressSpace(pid, maps.value, identity.value, root)
    try:
        probe = next((one for one in maps.value if one.perms[0] == "r" and not one.path.startswith("[v")), None)
        if probe is not None:
            space.read(probe.start, 1)
        space.check_same()
    except ProcessLost as lost:
        return lost.missing
    return Value(space)
