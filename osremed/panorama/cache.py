"""Page cache -> files, complete: every file the kernel holds pages of, who has it open, who pays, what frees it.

By BPF where that works; else the files that processes have open or mapped, by cachestat or mincore; the method and how
much of the page cache it reached are in the answer. Nothing here opens a file on a network or FUSE mount."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.panorama.cache_holders import Holders, internal_device
from osremed.panorama.cache_model import (
    DELETED,
    DEVICE,
    FILE,
    INTERNAL,
    MEMFD,
    NOT_SCANNED,
    RAM_FILE_SYSTEMS,
    SHARED_ANONYMOUS,
    SYSV,
    TMPFS,
    CachedFile,
    FileSystemRow,
    PageCache,
    what_frees,
)
from osremed.panorama.cache_places import Place, Places
from osremed.panorama.files import Census
from osremed.panorama.layers import Progress
from osremed.sensors import pagecache, pagescan, procfs
from osremed.sensors.pagecache import CachedInode, CacheWalk
from osremed.sensors.pagescan import GONE, Held, PageScan
from osremed.sensors.procfs import PROC, text

MOST_ROWS = 10_000
_TOLD_APART = 4096  #: files whose payers, dirty and active pages are counted one by one
_HUGETLB = 0x958458F6  # HUGETLBFS_MAGIC: its pages are in no page cache counter
_WRITEBACK = Missing(Reason.UNSUPPORTED, "writeback", "a page scan does not tell it apart")
BPF, OPEN_ONLY = "BPF walk over all inodes", "cachestat or mincore over open and mapped files"
_INTERNAL_NAMES = (("memfd:", MEMFD), ("SYSV", SYSV), ("dev/zero", SHARED_ANONYMOUS))


def page_cache(
    pids: Sequence[int], progress: Progress, *, most_rows: int = MOST_ROWS, pages: bool = True, root: str = PROC
) -> PageCache:
    """All cached files, the largest first. `pids`: the processes asked whether they hold one. `pages`: also scan the
    page structures, for who pays and what is dirty or active (55 ns a page). What fails is a gap of `progress`."""
    found = by_bpf(pids, progress, most_rows=most_rows, pages=pages, root=root)
    if found is None:
        before = _expected(root)
        found = _with_expected(_open_files_only(pids, progress, root), before, _expected(root))
        progress.rows = found.files_found
    return found


def by_bpf(
    pids: Sequence[int], progress: Progress, *, most_rows: int = MOST_ROWS, pages: bool = True, root: str = PROC
) -> PageCache | None:
    """The same, complete or not at all; None with a gap where BPF cannot run."""
    before, internal = _expected(root), internal_device()
    if isinstance(internal, Missing):
        progress.gap(internal)
        return None
    walked = pagecache.walk(most_files=most_rows, give_up=lambda: progress.expired("inodes"))
    if isinstance(walked, Missing):
        progress.gap(walked)
        return None
    after = _expected(root)
    scanned: Reading[PageScan] = NOT_SCANNED
    if pages:
        told_apart = [file.address for file in walked.value.files[:_TOLD_APART]]
        scanned = pagescan.scan(told_apart, give_up=lambda: progress.expired("pages"), root=root)
        if isinstance(scanned, Missing):
            progress.gap(scanned)
        elif scanned.value.lost_bytes:
            lost = f"the payers of {_mib(scanned.value.lost_bytes)} had no room in the table"
            progress.gap(Missing(Reason.NO_DATA, "pages", lost))
    places = Places(pids, progress, root)
    holders = Holders(places, progress, root, internal.value)
    found = _with_expected(_of_walk(walked.value, scanned, pids, holders, progress), before, after)
    progress.rows = found.files_found
    return found


def _with_expected(found: PageCache, before: Reading[int], after: Reading[int]) -> PageCache:
    expected, drift = _mean(before, after)
    return dataclasses.replace(found, expected_bytes=expected, drift_bytes=drift)


def statement(cache: PageCache) -> str:
    """One honest sentence on what was reached, and how."""
    reached, coverage = f"{cache.files_found} files, {_mib(cache.cached_bytes)} by {cache.method}", cache.coverage
    if isinstance(coverage, Missing):
        return f"{reached}; the kernel's own count was not read: {coverage}"
    moved = f"which moved by {_mib(cache.drift_bytes)} meanwhile"
    return f"{reached} = {coverage.value * 100:.2f} % of Cached + Buffers, {moved}"


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _expected(root: str) -> Reading[int]:
    """Pages of files as the kernel counts them. Swap cache is not in it, here or there."""
    meminfo = procfs.meminfo(root)
    if isinstance(meminfo, Missing):
        return meminfo
    fields = meminfo.value
    if "Cached" not in fields or "Buffers" not in fields:
        return Missing(Reason.UNSUPPORTED, f"{root}/meminfo", "no Cached or Buffers")
    return Value(fields["Cached"] + fields["Buffers"])


def _mean(before: Reading[int], after: Reading[int]) -> tuple[Reading[int], int]:
    if isinstance(before, Missing):
        return before, 0
    if isinstance(after, Missing):
        return after, 0
    return Value((before.value + after.value) // 2), abs(after.value - before.value)


# --- by BPF ----------------------------------------------------------------------------------------------------------


@record
class _Known:
    """What a row is made from besides its inode."""

    places: Places
    holders: Holders
    kinds: Mapping[int, str]  # super block -> file system
    held: Mapping[int, Sequence[Held]]  # address -> who pays
    told_apart: frozenset[int]
    internal: str


def _of_walk(
    walk: CacheWalk, scanned: Reading[PageScan], pids: Sequence[int], holders: Holders, progress: Progress
) -> PageCache:
    places = holders.places
    huge = {block.address: block.cached_bytes for block in walk.super_blocks if block.magic == _HUGETLB}
    held: dict[int, list[Held]] = {}
    for each in scanned.value.held if isinstance(scanned, Value) else ():
        held.setdefault(each.address, []).append(each)
    told = walk.files[:_TOLD_APART] if isinstance(scanned, Value) else ()
    known = _Known(
        places=places,
        holders=holders,
        kinds={block.address: block.kind for block in walk.super_blocks},
        held=held,
        told_apart=frozenset(file.address for file in told),
        internal=holders.internal,
    )
    files = [file for file in walk.files if file.super_block not in huge]
    placed = [(file, *_what(file, known.kinds.get(file.super_block, ""), known)) for file in files]
    holders.count(pids, frozenset(place.path for _, _, place in placed))
    if walk.lost_files:
        lost = f"{walk.lost_files} files of {_mib(walk.lost_bytes)} had no room in the ring"
        progress.gap(Missing(Reason.NO_DATA, "page cache", lost))
    return PageCache(
        method=BPF,
        files=tuple(_row(file, what, place, known) for file, what, place in placed),
        file_systems=tuple(
            FileSystemRow(
                block.device, block.kind, block.source, places.point(block.device),
                block.cached_bytes, block.small_files, block.small_bytes,
            )
            for block in sorted(walk.super_blocks, key=lambda block: -block.cached_bytes)
            if block.cached_bytes
        ),
        files_found=walk.cached_files,
        cached_bytes=walk.cached_bytes - sum(huge.values()),
        expected_bytes=NOT_SCANNED,
        drift_bytes=0,
        groups=scanned if isinstance(scanned, Missing) else Value(_by_group(scanned.value.held)),
        page_classes=scanned if isinstance(scanned, Missing) else Value(scanned.value.classes),
        pools=scanned if isinstance(scanned, Missing) else Value(scanned.value.pools),
        longest_hold_s=max(walk.longest_s, scanned.value.longest_s if isinstance(scanned, Value) else 0.0),
        scan_every=scanned.value.every if isinstance(scanned, Value) else 1,
        scan_lost_bytes=scanned.value.lost_bytes if isinstance(scanned, Value) else 0,
    )  # fmt: skip


def _row(file: CachedInode, what: str, place: Place, known: _Known) -> CachedFile:
    kind = known.kinds.get(file.super_block, "")
    pids, seen = known.holders.of(file.device, file.inode, place.path)
    if what == DEVICE:
        pids = ()
    charged, dirty, active = _charged(file, kind, known)
    row = CachedFile(
        path=place.path,
        path_of_pid=place.pid,
        filesystem=kind,
        cached_bytes=file.cached_bytes,
        dirty_bytes=dirty,
        writeback_bytes=_WRITEBACK,
        size_bytes=file.size_bytes,
        deleted=what == DELETED or (what == FILE and file.nameless),
        open_by=pids,
        method="bpf",
        open_by_whole=known.holders.whole_for(file.device, file.inode),
        type=what,
        device=file.device,
        inode=file.inode,
        mapped=file.mapped,
        active_bytes=active,
        charged_to=charged,
        gone_bytes=_gone(charged),
        also_seen_as=seen,
    )
    return dataclasses.replace(row, frees=what_frees(row))


def _gone(charged: Reading[tuple[Mapping[str, Any], ...]]) -> Reading[int]:
    if isinstance(charged, Missing):
        return charged
    return Value(sum(each["bytes"] for each in charged.value if each["group"].startswith(GONE)))


def _what(file: CachedInode, kind: str, known: _Known) -> tuple[str, Place]:
    """What kind of file it is and where it is seen. A file of a mount nobody shows keeps its path inside it."""
    if stat.S_ISBLK(file.mode):
        return DEVICE, Place(_device_name(file.rdev), 0)
    name = file.path or f"(inode {file.inode}, no name in memory)"
    if not known.places.mounted(file.device):
        if file.device != known.internal:
            return INTERNAL, Place(f"({kind}, not mounted) {name}", 0)
        bare = name.lstrip("/")
        found = next((what for prefix, what in _INTERNAL_NAMES if bare.startswith(prefix)), INTERNAL)
        return found, Place(f"/{bare}", 0)
    place = known.places.place(file.device, name) if file.path else None
    if place is None:
        where = known.places.point(file.device)
        place = Place(f"({kind} of {where}) {name}", 0)
    if file.links == 0 or (file.nameless and file.path):
        return DELETED, place
    return (TMPFS if kind in RAM_FILE_SYSTEMS else FILE), place


def _device_name(device: str) -> str:
    """/dev/NAME of a block device, from sysfs; its number when that is not told."""
    try:
        with open(f"/sys/dev/block/{device}/uevent", "rb") as stream:
            lines = stream.read(4096).split(b"\n")
    except OSError:
        return f"(block device {device})"
    name = next((line[8:] for line in lines if line.startswith(b"DEVNAME=")), b"")
    return f"/dev/{text(name)}" if name else f"(block device {device})"


def _charged(
    file: CachedInode, kind: str, known: _Known
) -> tuple[Reading[tuple[Mapping[str, Any], ...]], Reading[int], Reading[int]]:
    """Who pays, dirty and active bytes. Pages of file systems in memory are never dirty: there is nowhere to write."""
    if file.address not in known.told_apart:
        return NOT_SCANNED, NOT_SCANNED, NOT_SCANNED
    shares = sorted(known.held.get(file.address, ()), key=lambda share: -share.bytes)
    payers = tuple({"group": share.group, "bytes": share.bytes} for share in shares)
    dirty = 0 if kind in RAM_FILE_SYSTEMS else sum(share.dirty_bytes for share in shares)
    return Value(payers), Value(dirty), Value(sum(share.active_bytes for share in shares))


def _by_group(held: Sequence[Held]) -> dict[str, dict[str, int]]:
    groups: dict[str, dict[str, int]] = {}
    for each in held:
        kind = "file" if each.kind in ("file", "other files") else each.kind
        sums = groups.setdefault(each.group, {"file": 0, "anonymous": 0, "kernel": 0})
        sums[kind] += each.bytes
    return groups


# --- without BPF -----------------------------------------------------------------------------------------------------


def _open_files_only(pids: Sequence[int], progress: Progress, root: str) -> PageCache:
    census = Census(progress, root)
    census.count(pids)
    rows = [_without_bpf(row) for row in census.rows()]
    return PageCache(
        method=OPEN_ONLY,
        files=tuple(rows),
        file_systems=(),
        files_found=len(rows),
        cached_bytes=sum(row.cached_bytes for row in rows),
        expected_bytes=NOT_SCANNED,
        drift_bytes=0,
        groups=NOT_SCANNED,
        page_classes=NOT_SCANNED,
        pools=NOT_SCANNED,
        longest_hold_s=0.0,
    )


def _without_bpf(row: Any) -> CachedFile:
    what = DELETED if row.deleted else (TMPFS if row.filesystem in RAM_FILE_SYSTEMS else FILE)
    name = os.path.basename(row.path)
    what = next((kind for prefix, kind in _INTERNAL_NAMES if name.startswith(prefix)), what)
    cells = {each.name: getattr(row, each.name) for each in dataclasses.fields(row)}
    found = CachedFile(**cells, type=what)
    return dataclasses.replace(found, frees=what_frees(found))
