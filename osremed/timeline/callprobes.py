"""The BPF side of the call probes: attached to each CUDA and NCCL library once, by its inode, for every process that
maps it, in whatever mount namespace, and no longer than there is one: a probe keeps its file system mounted. Nothing
here decides."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Collection, Iterable, Iterator

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors import elf, procfs
from osremed.sensors.address_space import Mapping
from osremed.sensors.bpf.loader import Objects, load
from osremed.sensors.bpf.programs import Link
from osremed.sensors.pyframes import Interpreter

#: Kinds, as in gpu_calls.bpf.c.
ALLOCATES, FREES, WAITS, COLLECTIVE, CHOOSES, ENTERS = 1, 2, 3, 4, 5, 6
PYTHON_ERROR, PYTHON_UNKNOWN = 1, 2
#: name -> kind. What allocates takes the place of the answer first and the size second.
FUNCTIONS: dict[str, int] = {
    **dict.fromkeys(("cudaMalloc", "cudaMallocAsync", "cudaMallocFromPoolAsync", "cudaMallocManaged", "cuMemAlloc_v2",
                     "cuMemAllocAsync", "cuMemAllocManaged", "cuMemCreate"), ALLOCATES),
    **dict.fromkeys(("cudaFree", "cudaFreeAsync", "cuMemFree_v2", "cuMemFreeAsync", "cuMemRelease"), FREES),
    **dict.fromkeys(("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cuCtxSynchronize",
                     "cuStreamSynchronize", "cuEventSynchronize"), WAITS),
    **dict.fromkeys(("ncclAllReduce", "ncclAllGather", "ncclReduceScatter", "ncclBroadcast", "ncclReduce", "ncclSend",
                     "ncclRecv"), COLLECTIVE),
    "cudaSetDevice": CHOOSES,
    **dict.fromkeys(("cuCtxSetCurrent", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuCtxCreate_v2", "cuCtxCreate_v3",
                     "cuCtxCreate_v4"), ENTERS),
}  # fmt: skip
#: What differs within a kind. A stream's allocation is taken to lie on the thread's device, as a launch demands of it.
_VARIANTS: dict[str, int] = {
    "ncclSend": 1, "ncclRecv": 1,  # the count is the second argument
    "cuMemCreate": 1,  # its properties name the device
    "cudaMallocManaged": 2, "cuMemAllocManaged": 2, "cudaMallocFromPoolAsync": 2,  # of no one device
    "cuCtxPushCurrent_v2": 1, "cuCtxPopCurrent_v2": 2,
}  # fmt: skip
_NAMES = tuple(FUNCTIONS)
_HEAD = struct.Struct("=7Q2I2iI2H")  # struct record
_FLIGHT = struct.Struct("=5Q2Ii4x")
_PLACE = struct.Struct("=2I")
_SUM = struct.Struct("=5Q")
_TALLY = struct.Struct("=2Q")
_IDENTITY = struct.Struct("=Q2I")
_MINOR_BITS = 20  # of the kernel's dev_t
_TICK_NS = 10_000_000
_RING_BYTES = 1 << 20
_NEVER_NS = 1 << 63

#: Device and inode, as /proc/PID/maps names them. The files of two overlays may be one file: the one below is probed.
File = tuple[str, int]


@record
class Call:
    """One allocation or release. `python`: (code object, instruction), innermost first. `address` is 0 when it failed;
    `caller` is where the call returns to, 0 for a release. Times are CLOCK_MONOTONIC. `device` is the number of the
    process's GPU, or below 0 why there is none (`ledger.NO_DEVICE`); true if its thread was followed since
    `device_since_ns` (CLOCK_BOOTTIME)."""

    at_ns: int
    duration_ns: int
    pid: int
    start_ticks: int
    tid: int
    function: str
    bytes: int
    address: int
    caller: int
    device: int
    device_since_ns: int
    result: int
    flags: int
    python: tuple[tuple[int, int], ...]


@record
class Sum:
    """Calls of one function by one process since the probes began. `bytes`: what collectives were asked to move."""

    count: int
    total_ns: int
    longest_ns: int
    bytes: int
    last_ns: int


@record
class Flight:
    """A call that has not returned yet."""

    pid: int
    tid: int
    function: str
    since_ns: int


def parse_call(data: bytes) -> Call:
    """struct.error or IndexError for bytes that are no record."""
    at, length, start, size, address, caller, since, pid, tid, result, device, function, python, flags = (
        _HEAD.unpack_from(data)
    )
    words = struct.unpack_from(f"={2 * python}Q", data, _HEAD.size)
    frames = tuple(zip(words[::2], words[1::2]))
    return Call(
        at, length, pid, start // _TICK_NS, tid, _NAMES[function], size, address, caller, device, since, result, flags,
        frames,
    )  # fmt: skip


class CallProbes:
    """Loaded programs; `open_probes` makes one. Closing detaches everything."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._identifies = objects.program("identify").fd >= 0
        self._ring = objects.ring("ring")
        self._links: dict[File, list[tuple[int, Link]]] = {}
        self.attached: dict[File, tuple[str, ...]] = {}  #: by the file below
        self._below: dict[File, File] = {}
        self._through: dict[File, File] = {}
        self._choices_ns: dict[File, int] = {}

    def close(self) -> None:
        self._links.clear()
        self._objects.close()

    def fileno(self) -> int:
        """Readable when there is something to drain."""
        return self._ring.fileno()

    def choices_since_ns(self, files: Iterable[File]) -> int:
        """Since when (CLOCK_BOOTTIME) it is seen which GPU a thread chooses by any of these files."""
        return max((self._choices_ns.get(self._below.get(file, file), _NEVER_NS) for file in files), default=_NEVER_NS)

    def attach(self, pid: int, mapping: Mapping, kinds: Collection[int], root: str = procfs.PROC) -> Reading[int]:
        """To what the file behind a mapping defines of FUNCTIONS; how many. A second call for the same file does
        nothing, unless `keep` asked for it."""
        named = (mapping.device, mapping.inode)
        key = self._below.get(named, named)
        if key in self._through:
            return Value(len(self.attached[key]))
        opened = elf.open_mapped(pid, mapping, root)
        if isinstance(opened, Missing):
            return opened
        try:
            key = self._below[named] = self._identity(opened.value) or named
            if key in self._through:
                return Value(len(self.attached[key]))
            return self._attach_file(key, named, opened.value, mapping.path, kinds)
        finally:
            os.close(opened.value)

    def _attach_file(self, key: File, named: File, fd: int, path: str, kinds: Collection[int]) -> Reading[int]:
        offsets = _offsets(fd, path)
        if isinstance(offsets, Missing):
            self._choices_ns[key] = 0 if offsets.reason is Reason.NO_DATA else _NEVER_NS
            return offsets
        before, seen_ns = self._links.pop(key, []), self._choices_ns.get(key, _NEVER_NS)
        wanted = {name: at for name, at in offsets.value.items() if FUNCTIONS[name] in kinds}
        # By the descriptor: the very file, in no matter which mount namespace, deleted or not.
        attached = self._attach_all(key, f"/proc/self/fd/{fd}", wanted)
        for _, link in before:  # only now, so that no call is missed; one that is made meanwhile may be counted twice
            link.detach()
        if isinstance(attached, Missing):
            self.attached.pop(key, None)
        else:
            self._through[key] = named
        if not before or isinstance(attached, Missing):
            seen_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if CHOOSES in kinds else _NEVER_NS
        chooses = any(FUNCTIONS[name] in (CHOOSES, ENTERS) for name in offsets.value)
        self._choices_ns[key] = 0 if not chooses else _NEVER_NS if isinstance(attached, Missing) else seen_ns
        return attached

    def _identity(self, fd: int) -> File | None:
        """The file that probes of this one go by; None where the kernel does not tell, and then it is in maps."""
        if not self._identifies:
            return None
        try:
            with mmap.mmap(fd, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE) as area:
                first = ctypes.c_char.from_buffer(area)
                self._objects.program("identify").run(ctypes.addressof(first))
                del first  # else the area cannot be closed
        except (OSError, ValueError):
            return None
        raw = self._objects.map("identities").lookup(struct.pack("=I", 0))
        inode, device, known = _IDENTITY.unpack(raw) if raw else (0, 0, 0)
        return (f"{device >> _MINOR_BITS:02x}:{device & (1 << _MINOR_BITS) - 1:02x}", inode) if known else None

    def keep(self, files: Collection[File]) -> set[File]:
        """Detaches from what is not the file behind any of `files` any more. Those returned are to be attached again:
        they were probed by the name that a file has in a container which is gone, whose mount that keeps."""
        self._below = {named: key for named, key in self._below.items() if named in files}
        used = set(self._below.values())
        for key in set(self._links) - used:
            for _, link in self._links.pop(key):
                link.detach()
            self.attached.pop(key, None)
            self._through.pop(key, None)
        self._choices_ns = {key: since_ns for key, since_ns in self._choices_ns.items() if key in used}
        moved = {key for key, through in self._through.items() if through not in files}
        for key in moved:
            del self._through[key]
        return {named for named, key in self._below.items() if key in moved}

    def _attach_all(self, key: File, path: str, offsets: dict[str, int]) -> Reading[int]:
        links: list[tuple[int, Link]] = []
        for name, offset in offsets.items():
            kind = FUNCTIONS[name]
            cookie = _NAMES.index(name) | kind << 16 | _VARIANTS.get(name, 0) << 24
            for at_return in (True, False) if kind in (ALLOCATES, WAITS, CHOOSES) else (False,):
                program = self._objects.program("on_leave" if at_return else "on_enter")
                linked = program.attach_uprobe(path, offset, at_return=at_return, cookie=cookie)
                if isinstance(linked, Missing):
                    for _, link in links:
                        link.detach()
                    return Missing(linked.reason, f"{name} of {key}", linked.detail)
                links.append((kind, linked.value))
        self._links[key], self.attached[key] = links, tuple(offsets)
        return Value(len(offsets))

    def detach(self, kinds: Collection[int]) -> None:
        """From functions of these kinds, everywhere. Of calls that have not returned nothing is known from here on."""
        if CHOOSES in kinds:
            self._choices_ns = dict.fromkeys(self._choices_ns, _NEVER_NS)
        for key, links in list(self._links.items()):
            for _, link in (each for each in links if each[0] in kinds):
                link.detach()
            self._links[key] = [each for each in links if each[0] not in kinds]
            self.attached[key] = tuple(name for name in self.attached[key] if FUNCTIONS[name] not in kinds)
        flights = self._objects.map("flights")
        for tid, value in flights.items():
            if FUNCTIONS[_function_of(value)] in kinds:
                flights.delete(tid)

    def forget_files(self) -> None:
        """What is attached may be attached anew, with other kinds. Detach first."""
        for known in (self._links, self.attached, self._below, self._through, self._choices_ns):
            known.clear()

    def set_python(self, pid: int, interpreter: Interpreter) -> None:
        """Makes the programs walk the frames of a process. OSError(E2BIG) when there is no room for another."""
        key = struct.pack("=I", pid)
        self._objects.map("pythons").update(key, interpreter.layout.walk(interpreter.runtime))

    def forget_python(self, pid: int) -> None:
        key = struct.pack("=I", pid)
        self._objects.map("pythons").delete(key)

    def forget_sums(self, pid: int) -> None:
        sums = self._objects.map("sums")
        for function in range(len(_NAMES)):
            sums.delete(_PLACE.pack(pid, function))

    def drain(self) -> Iterator[Call]:
        return (parse_call(data) for data in self._ring.drain())

    def sums(self) -> dict[tuple[int, str], Sum]:
        """By process and function. The least recently used go when there are too many."""
        found = {}
        for key, value in self._objects.map("sums").items():
            pid, function = _PLACE.unpack(key)
            parts = [part for part in _SUM.iter_unpack(value) if part[0]]
            if parts:
                count, total, size = (sum(part[at] for part in parts) for at in (0, 1, 3))
                longest, last = (max(part[at] for part in parts) for at in (2, 4))
                found[pid, _NAMES[function]] = Sum(count, total, longest, size, last)
        return found

    def flights(self) -> list[Flight]:
        """Calls that wait or allocate at this moment."""
        found = []
        for key, value in self._objects.map("flights").items():
            since_ns, _, _, _, _, pid, _, _ = _FLIGHT.unpack(value)
            found.append(Flight(pid, struct.unpack("=I", key)[0], _function_of(value), since_ns))
        return found

    def tally(self) -> tuple[int, int]:
        """Traps so far, and records that had no room in the ring."""
        raw = self._objects.map("tallies").lookup(struct.pack("=I", 0)) or b""
        parts = list(_TALLY.iter_unpack(raw))
        return sum(part[0] for part in parts), sum(part[1] for part in parts)


def _function_of(flight: bytes) -> str:
    cookie: int = _FLIGHT.unpack(flight)[6]
    return _NAMES[cookie & 0xFFFF]


def _offsets(fd: int, path: str) -> Reading[dict[str, int]]:
    parsed = elf.read_elf(fd, path)
    if isinstance(parsed, Missing):
        return parsed
    found = elf.find_symbols(fd, parsed.value, FUNCTIONS)
    if isinstance(found, Missing):
        return found
    offsets = {name: elf.file_offset(parsed.value, symbol.address) for name, symbol in found.value.items()}
    known = {name: offset for name, offset in offsets.items() if offset is not None}
    return Value(known) if known else Missing(Reason.NO_DATA, path, "defines none of the functions that are followed")


def open_probes() -> Reading[CallProbes]:
    """UNSUPPORTED or DENIED as for bpf.loader.load."""
    loaded = load("gpu_calls", max_entries={"ring": _RING_BYTES})
    if isinstance(loaded, Missing) and loaded.reason is not Reason.DENIED:  # before Linux 5.17
        loaded = load("gpu_calls", programs=("on_enter", "on_leave"), max_entries={"ring": _RING_BYTES})
    return loaded if isinstance(loaded, Missing) else Value(CallProbes(loaded.value))
