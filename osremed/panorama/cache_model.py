"""A cached file with all that is known about it, and what would free its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.panorama.model import FileRow

FILE, DELETED, TMPFS, MEMFD, SYSV, SHARED_ANONYMOUS, DEVICE, INTERNAL = (
    "file", "deleted file", "tmpfs file", "memfd", "SysV segment", "shared anonymous memory", "block device",
    "internal",
)  # fmt: skip
RAM_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs", "hugetlbfs"})
NOT_SCANNED = Missing(Reason.NO_DATA, "pages", "the pages were not scanned")


@record
class CachedFile(FileRow):
    """`open_by` () is nobody who has it open or mapped, if `open_by_whole`. `charged_to`: the
    control groups that pay, the largest first, `group` empty for none; `gone_bytes` of them by removed groups.
    `also_seen_as`: the path of an overlay's user."""

    type: str = FILE
    device: str = ""
    inode: int = 0
    mapped: bool = False
    active_bytes: Reading[int] = NOT_SCANNED
    charged_to: Reading[tuple[Mapping[str, Any], ...]] = NOT_SCANNED
    gone_bytes: Reading[int] = NOT_SCANNED
    also_seen_as: str = ""
    frees: str = ""


@record
class FileSystemRow:
    """Page cache of one file system; `small_files` have no row of their own."""

    device: str
    kind: str
    source: str
    mounted_at: str
    cached_bytes: int
    small_files: int
    small_bytes: int


@record
class PageCache:
    """`cached_bytes` is the sum over all files, those without a row too; `expected_bytes` what the kernel counts itself
    (Cached + Buffers, the mean of before and after; swap cache belongs to no file), `drift_bytes` how far that moved
    meanwhile. Where the pages were scanned: `groups`, control group -> bytes by kind (file, anonymous, kernel), and
    `pools`, network device -> receive buffers; of more than 256 GiB only each `scan_every`th page was looked at, and
    these figures are estimates. `scan_lost_bytes`: page cache whose payers had no room in the scan's table."""

    method: str
    files: tuple[CachedFile, ...]
    file_systems: tuple[FileSystemRow, ...]
    files_found: int
    cached_bytes: int
    expected_bytes: Reading[int]
    drift_bytes: int
    groups: Reading[Mapping[str, Mapping[str, int]]]
    page_classes: Reading[Mapping[str, int]]
    pools: Reading[dict[str, int]]
    longest_hold_s: float
    scan_every: int = 1
    scan_lost_bytes: int = 0

    @property
    def coverage(self) -> Reading[float]:
        if isinstance(self.expected_bytes, Missing):
            return self.expected_bytes
        return Value(round(self.cached_bytes / self.expected_bytes.value, 5) if self.expected_bytes.value else 1.0)


def what_frees(row: CachedFile) -> str:
    """One sentence a human can act on. Pure."""
    pids = ", ".join(str(pid) for pid in row.open_by[:4]) + (" …" if len(row.open_by) > 4 else "")
    pids = pids or ("" if row.open_by_whole else "?")
    if row.type == DEVICE:
        return "drop_caches, or unmounting what lies on it; the kernel takes it back under pressure"
    if row.type == SYSV:
        return f"ipcrm -m {row.inode}" + (f", and the end of pid {pids}" if pids else "")
    if row.type in (MEMFD, SHARED_ANONYMOUS, DELETED):
        if pids:
            return f"closing it in pid {pids} (a restart does)"
        return "nobody in sight has it open: a loop or swap device, a mount, or a message in flight holds it"
    if row.type in (TMPFS, INTERNAL) or row.filesystem in RAM_FILE_SYSTEMS:
        return "removing the file" + (f" and closing it in pid {pids}" if pids else "") + "; reclaim can only swap it"
    return _what_drops(row, pids)


def _what_drops(row: CachedFile, pids: str) -> str:
    """Of a file on a disk."""
    if not row.leads_there:
        where = (
            f"it lies in the mount namespace of pid {row.path_of_pid}" if row.path_of_pid else "it is not mounted here"
        )
        return f"no path of this host leads to it: {where}; the kernel takes it back under pressure"
    dirty = isinstance(row.dirty_bytes, Value) and row.dirty_bytes.value > 0
    sentence = "writing it back, then action page_cache" if dirty else "action page_cache (it comes back when read)"
    return f"{sentence}; pages mapped by pid {pids or '?'} stay" if row.mapped else sentence
