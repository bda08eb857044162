"""What every page of memory is used for, by a BPF scan of the kernel's page structures.

Says of page cache which control group pays for it and how much is dirty or active; of the kernel's own pages whether
they are slab, page tables, pools of network drivers, charged to a group, or of nobody. About 55 ns a page: 0.35 s for
24 GB. Needs an uncovered /proc/iomem and pagemap (CAP_SYS_ADMIN) beside BPF."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors.bpf.loader import Objects, load
from osremed.sensors.bpf.maps import Map
from osremed.sensors.procfs import PAGE_BYTES, PROC, read_parsed, text

GONE = "(gone) "  #: before the path of a group that was removed
#: In the order of page_scan.bpf.c.
CLASSES = (
    "unreadable", "reserved", "free", "offline", "page tables", "guard", "huge pages", "slab", "zsmalloc", "unaccepted",
    "large kmalloc", "free or in transit", "page pool", "movable", "anonymous", "page cache", "detached",
    "kernel, charged to a group", "kernel, charged to nobody",
)  # fmt: skip
_ANONYMOUS, _CHARGED, _OTHER_FILES = 1, 2, 3  # keys that are no file
_SLICE_PAGES = 262_144  #: 15 to 25 ms in which the CPU does nothing else
_MOST_PAGES = 64 << 20  #: looked at one by one, 256 GiB; of more memory a sample
_PROBES = 3
_PRESENT, _FRAME = 1 << 63, (1 << 55) - 1
_CSS_ONLINE = 2  # include/linux/cgroup-defs.h
_RAM = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) : System RAM$", re.MULTILINE)
#: Layouts of page_scan.bpf.c.
_STATE = struct.Struct("=3Q32Q8Q3Q3QQ2Q4QQ")
_GROUP = struct.Struct("=QII")
_POOL = struct.Struct("=I16s")
_PATH_BYTES = 1024 + 256
_KEY, _HELD, _WORD = struct.Struct("=2Q"), struct.Struct("=4Q"), struct.Struct("=Q")


@record
class Held:
    """Bytes of one owner: what is charged to `group` (a path of the memory hierarchy, `(gone) ` before that of a
    removed one), of the file with this `address`, or of all other files, anonymous memory, or the kernel."""

    kind: str  #: file, other files, anonymous, kernel
    address: int
    group: str
    bytes: int
    active_bytes: int
    dirty_bytes: int
    unevictable_bytes: int


@record
class PageScan:
    """`classes`: bytes by class, with a key for each of CLASSES; they sum to all pages that are present. `pools`: bytes
    by network device (empty name: the kernel does not tell, or it is gone). `every` is 1, or the step of a sample, and
    figures are estimates then."""

    classes: dict[str, int]
    held: tuple[Held, ...]
    pools: dict[str, int]
    lost_bytes: int
    every: int
    longest_s: float


def parse_ram(data: bytes) -> list[tuple[int, int]]:
    """(first page frame, how many) of /proc/iomem. ValueError when the addresses are hidden or there is no memory."""
    found = []
    for low, high in _RAM.findall(data):
        first, end = -(-int(low, 16) // PAGE_BYTES), (int(high, 16) + 1) // PAGE_BYTES
        if end > first:
            found.append((first, end - first))
    if not found:
        raise ValueError("no System RAM, or its addresses are hidden from us")
    return found


def scan(
    files: Collection[int] = (),
    *,
    most_pages: int = _MOST_PAGES,
    give_up: Callable[[], bool] = bool,
    root: str = PROC,
) -> Reading[PageScan]:
    """All memory by class and owner. `files`: addresses of a cache walk that are told apart. `give_up` is asked between
    slices.

    Missing as for bpf.loader.load; DENIED or UNSUPPORTED when the page structures cannot be found; TIMED_OUT."""
    ranges = read_parsed(f"{root}/iomem", parse_ram, absent=Reason.UNSUPPORTED)
    if isinstance(ranges, Missing):
        return ranges
    room = 1 << (max(len(files), 1024) * 2).bit_length()
    loaded = load("page_scan", max_entries={"wanted": max(len(files), 1), "owners": room})
    if isinstance(loaded, Missing):
        return loaded
    every = -(-sum(count for _, count in ranges.value) // most_pages)
    with loaded.value as objects:
        try:
            objects.map("wanted").update_many((_WORD.pack(address), bytes(4)) for address in files)
            missing = _find_base(objects)
            if missing is not None:
                return missing
            longest_s = _scan(objects, ranges.value, every, give_up)
            if longest_s is None:
                return Missing(Reason.TIMED_OUT, "pages", "not all pages were looked at in time")
            return Value(_result(objects, every, longest_s))
        except OSError as error:
            return missing_from_oserror(error, "BPF object page_scan")


def _scan(objects: Objects, ranges: list[tuple[int, int]], every: int, give_up: Callable[[], bool]) -> float | None:
    """The longest slice in seconds; None when given up."""
    program, longest_s = objects.program("scan"), 0.0
    for first, count in ranges:
        for start in range(first, first + count, _SLICE_PAGES * every):
            if give_up():
                return None
            began_s = time.monotonic()
            program.run(start, min(_SLICE_PAGES * every, first + count - start), every)
            longest_s = max(longest_s, time.monotonic() - began_s)
    return longest_s


def _find_base(objects: Objects) -> Missing | None:
    """Tells the program where the page structures lie, by pages of our own whose frame we know; several must agree."""
    for _ in range(_PROBES):
        with _known_page() as (fd, frame):
            if not frame:
                return Missing(Reason.DENIED, "/proc/self/pagemap", "page frames need CAP_SYS_ADMIN")
            result = objects.program("find_base").run(fd, frame)
            if result:
                why = f"page structures are not where they were expected ({result})"
                return Missing(Reason.UNSUPPORTED, "struct page", why)
    return None


@contextmanager
def _known_page() -> Iterator[tuple[int, int]]:
    """A descriptor of a file with one page in memory, and the page's frame: 0 when it is hidden from us."""
    fd = os.memfd_create("osremed-page", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, PAGE_BYTES)
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap, mmap.mmap(fd, PAGE_BYTES) as page:
            page[0] = 1
            view = ctypes.c_char.from_buffer(page)
            address = ctypes.addressof(view)
            del view  # the page stays where it is; with a view on it it could not be closed after an error
            pagemap.seek(address // PAGE_BYTES * 8)
            (entry,) = struct.unpack("=Q", pagemap.read(8))
            yield fd, entry & _FRAME if entry & _PRESENT else 0
    finally:
        os.close(fd)


def _result(objects: Objects, every: int, longest_s: float) -> PageScan:
    words = _STATE.unpack_from(_state(objects))
    classes = {name: words[3 + index] * PAGE_BYTES for index, name in enumerate(CLASSES)}
    names: dict[tuple[int, int], str] = {}
    held = []
    for key, value in objects.map("owners").items():
        mapping, group = _KEY.unpack(key)
        pages = _HELD.unpack(value)
        indirect = int(mapping == _CHARGED)
        if (group, indirect) not in names:
            names[group, indirect] = _group_name(objects, group, indirect)
        kind = {_ANONYMOUS: "anonymous", _CHARGED: "kernel", _OTHER_FILES: "other files"}.get(mapping, "file")
        address = mapping if kind == "file" else 0
        held.append(Held(kind, address, names[group, indirect], *(count * PAGE_BYTES for count in pages)))
    return PageScan(
        classes=classes,
        held=tuple(held),
        pools=_pools(objects, objects.map("pools")),
        lost_bytes=words[2] * PAGE_BYTES,
        every=every,
        longest_s=longest_s,
    )


def _state(objects: Objects) -> bytes:
    return objects.map("states").lookup(bytes(4)) or bytes(_STATE.size)


def _group_name(objects: Objects, group: int, indirect: int) -> str:
    """The path of a group in the memory hierarchy; `` for pages that no group pays for."""
    if not group:
        return ""
    objects.program("name_group").run(group, indirect)
    data = _state(objects)
    _, flags, length = _GROUP.unpack_from(data, _STATE.size)
    at = _STATE.size + _GROUP.size
    names = data[at : at + min(length, _PATH_BYTES)].split(b"\0")[:-1]
    path = "/" + text(b"/".join(reversed(names)))
    return path if flags & _CSS_ONLINE else f"{GONE}{path}"


def _pools(objects: Objects, pools: Map) -> dict[str, int]:
    found: dict[str, int] = {}
    at = _STATE.size + _GROUP.size + _PATH_BYTES
    for key, value in pools.items():
        objects.program("name_pool").run(_WORD.unpack(key)[0])
        _, name = _POOL.unpack_from(_state(objects), at)
        device = text(name.split(b"\0", 1)[0])
        found[device] = found.get(device, 0) + _WORD.unpack(value)[0] * PAGE_BYTES
    return found
