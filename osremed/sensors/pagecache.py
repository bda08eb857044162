"""Every file with cached pages, by a BPF walk over the kernel's super blocks and inodes.

No file is opened, no path looked up: it finds closed, deleted, memfd and shared memory files, files of other mount
namespaces and the real files below overlays, and touches no network mount. About 0.1 us an inode and 1 us a file."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors.bpf.loader import Objects, load
from osremed.sensors.procfs import PAGE_BYTES, text

_COUNT, _EMIT, _GO_ON = 0, 1, 2
_DONE, _MORE = 0, 1
_SIZES = 40
_SLICE_INODES = 65_536  #: 15 to 30 ms in which the CPU does nothing else
_ALL_INODES = 8 << 20
_ATTEMPTS = 6
_MOST_SLICES = 100_000
#: Layouts of page_cache.bpf.c.
_TOTALS = struct.Struct(f"=8Q{_SIZES}Q")
_KIND = struct.Struct("=I")
_SUPER_BLOCK = struct.Struct("=IIQQQQQQQ32s32s")
_FILE = struct.Struct("=IIQQQQQIIIIII")
_UNHASHED, _CUT, _NO_NAME, _MAPPED, _OWN_ROOT = 1, 2, 4, 8, 16
_RECORD_BYTES = 256  #: of a file, its path included, on average; more is noticed and tried again
_LEAST_RING_BYTES, _MOST_RING_BYTES = 1 << 20, 256 << 20


@record
class SuperBlock:
    """A file system in memory. `small_files` are those that got no row of their own; `source` is the kernel's name of
    it, such as the device."""

    address: int
    device: str
    magic: int
    kind: str
    source: str
    inodes: int
    cached_bytes: int
    small_files: int
    small_bytes: int


@record
class CachedInode:
    """`path` is that inside its file system, from its root; of a file without a place there (memfd, shared memory) its
    bare name; empty when it has no name at all (a block device). `nameless`: its name was removed, or it never had one.
    `address` identifies the page cache of it in a page scan."""

    super_block: int
    address: int
    device: str
    inode: int
    generation: int
    links: int
    mode: int
    rdev: str
    cached_bytes: int
    size_bytes: int
    path: str
    path_is_whole: bool
    nameless: bool
    mapped: bool


@record
class CacheWalk:
    """`files` have the most cached first. `longest_s`: the longest time for which it kept a CPU to itself."""

    super_blocks: tuple[SuperBlock, ...]
    files: tuple[CachedInode, ...]
    cached_bytes: int
    cached_files: int
    inodes: int
    lost_files: int
    lost_bytes: int
    attempts: int
    longest_s: float


@record
class _Totals:
    super_blocks: int
    inodes: int
    cached_inodes: int
    cached_pages: int
    lost: int
    lost_pages: int
    sizes: tuple[int, ...]


def walk(*, most_files: int = 20_000, give_up: Callable[[], bool] = bool) -> Reading[CacheWalk]:
    """All page cache by file; files beyond the `most_files` largest are summed up by file system. `give_up` is asked
    between slices.

    Missing as for bpf.loader.load; NO_DATA when the lists changed under each attempt, TIMED_OUT when given up."""
    ring_bytes = _ring_bytes(min(most_files, 20_000))
    for _ in range(3):
        loaded = load("page_cache", max_entries={"records": ring_bytes})
        if isinstance(loaded, Missing):
            return loaded
        with loaded.value as objects:
            try:
                found = _walk(objects, most_files, give_up)
            except OSError as error:
                return missing_from_oserror(error, "BPF object page_cache")
        if isinstance(found, Missing) or not found.value.lost_files or ring_bytes == _MOST_RING_BYTES:
            return found
        rows = min(most_files, found.value.cached_files)
        ring_bytes = min(_MOST_RING_BYTES, max(ring_bytes * 4, _ring_bytes(rows)))
    return found


def _ring_bytes(files: int) -> int:
    wanted = max(_LEAST_RING_BYTES, min(_MOST_RING_BYTES, files * _RECORD_BYTES))
    return 1 << (wanted - 1).bit_length()


def _walk(objects: Objects, most_files: int, give_up: Callable[[], bool]) -> Reading[CacheWalk]:
    """Counts first, to know from which size on files get a row; the ring holds the rows of the second walk."""
    run = _Run(objects, give_up)
    counted = run.attempt(_COUNT, 0)
    if isinstance(counted, Missing):
        return counted
    written = run.attempt(_EMIT, _least_pages(counted.value.sizes, most_files))
    if isinstance(written, Missing):
        return written
    totals = written.value
    blocks, files = _parse(run.records())
    return Value(
        CacheWalk(
            super_blocks=tuple(blocks),
            files=tuple(sorted(files, key=lambda file: (-file.cached_bytes, file.path))),
            cached_bytes=totals.cached_pages * PAGE_BYTES,
            cached_files=totals.cached_inodes,
            inodes=totals.inodes,
            lost_files=totals.lost,
            lost_bytes=totals.lost_pages * PAGE_BYTES,
            attempts=run.attempts,
            longest_s=run.longest_s,
        )
    )


class _Run:
    """Runs the program slice by slice, and again from the beginning when a list changed under it."""

    def __init__(self, objects: Objects, give_up: Callable[[], bool]) -> None:
        self._objects, self._program, self._give_up = objects, objects.program("walk"), give_up
        self._ring = objects.ring("records")
        self.attempts, self.longest_s = 0, 0.0

    def attempt(self, mode: int, least_pages: int) -> Reading[_Totals]:
        for number in range(_ATTEMPTS):
            self.attempts += 1
            self._ring.drain()
            whole = number == _ATTEMPTS - 1
            result = self._slices(mode, least_pages, _ALL_INODES if whole else _SLICE_INODES)
            if result == _DONE:
                return self._totals()
            if result == _MORE:
                return Missing(Reason.TIMED_OUT, "super blocks", "not all inodes were visited in time")
        return Missing(Reason.NO_DATA, "super blocks", f"the lists changed under {_ATTEMPTS} walks over all inodes")

    def _slices(self, mode: int, least_pages: int, inodes: int) -> int:
        result = self._once(mode, least_pages, inodes)
        for _ in range(_MOST_SLICES):
            if result != _MORE or self._give_up():
                break
            result = self._once(_GO_ON, least_pages, inodes)
        return result

    def _once(self, mode: int, least_pages: int, inodes: int) -> int:
        began_s = time.monotonic()
        result = self._program.run(mode, least_pages, inodes)
        self.longest_s = max(self.longest_s, time.monotonic() - began_s)
        return result

    def _totals(self) -> Reading[_Totals]:
        state = self._objects.map("states").lookup(bytes(4))
        words = _TOTALS.unpack_from(state or bytes(_TOTALS.size))
        if not words[7]:
            return Missing(Reason.NO_DATA, "super blocks", "the list of super blocks has no end")
        return Value(_Totals(words[0], words[1], words[2], words[3], words[5], words[6], words[8:]))

    def records(self) -> Iterator[bytes]:
        return iter(self._ring.drain())


def _least_pages(sizes: tuple[int, ...], most_files: int) -> int:
    """The least power of two of pages that at most `most_files` files have."""
    files = 0
    for size in range(len(sizes) - 1, -1, -1):
        files += sizes[size]
        if files > most_files:
            return 1 << (size + 1)
    return 0


def _parse(records: Iterator[bytes]) -> tuple[list[SuperBlock], list[CachedInode]]:
    blocks, files = [], []
    for data in records:
        if _KIND.unpack_from(data)[0] == 1:
            blocks.append(parse_super_block(data))
        else:
            files.append(parse_file(data))
    return blocks, files


def parse_super_block(data: bytes) -> SuperBlock:
    """struct.error for less than a record."""
    _, dev, address, magic, inodes, pages, small, small_pages, _, kind, source = _SUPER_BLOCK.unpack_from(data)
    return SuperBlock(
        address=address,
        device=_device(dev),
        magic=magic,
        kind=_c_text(kind),
        source=_c_text(source),
        inodes=inodes,
        cached_bytes=pages * PAGE_BYTES,
        small_files=small,
        small_bytes=small_pages * PAGE_BYTES,
    )


def parse_file(data: bytes) -> CachedInode:
    """struct.error for less than a record. The path comes as names that end in NUL, the file's own first."""
    fields = _FILE.unpack_from(data)
    _, dev, block, address, pages, size, ino, generation, links, mode, rdev, flags, length = fields
    names = data[_FILE.size : _FILE.size + length].split(b"\0")[:-1]
    path = text(b"/".join(reversed(names)))
    return CachedInode(
        super_block=block,
        address=address,
        device=_device(dev),
        inode=ino,
        generation=generation,
        links=links,
        mode=mode,
        rdev=_device(rdev),
        cached_bytes=pages * PAGE_BYTES,
        size_bytes=size,
        path=path if flags & _OWN_ROOT or not path else f"/{path}",
        path_is_whole=not flags & _CUT,
        nameless=bool(flags & (_UNHASHED | _NO_NAME)),
        mapped=bool(flags & _MAPPED),
    )


def _device(dev: int) -> str:
    """major:minor of the kernel's own dev_t (20 bits of minor)."""
    return f"{dev >> 20}:{dev & 0xFFFFF}"


def device_of(st_dev: int) -> str:
    """major:minor of a stat."""
    return f"{os.major(st_dev)}:{os.minor(st_dev)}"


def _c_text(data: bytes) -> str:
    return text(data.split(b"\0", 1)[0])
