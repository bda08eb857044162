"""Page cache -> files: every regular file that the processes have open or mapped, each once, with who holds it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from osremed.core.reading import Missing, Reading, Reason
from osremed.core.record import record
from osremed.panorama.cache_places import Places
from osremed.panorama.layers import Progress
from osremed.panorama.model import FileRow
from osremed.panorama.visits import visit_links
from osremed.sensors import openfiles, residency
from osremed.sensors.openfiles import FileLink, Mount
from osremed.sensors.residency import Residency

_INTERNAL = Mount("", "tmpfs")
_Key = tuple[int, int]  # st_dev, st_ino


@record
class _Seen:
    link: FileLink
    filesystem: str
    residency: Residency
    size_bytes: int
    named: bool


class Census:
    """Files found so far. It grows while `count` runs, so that a reader gets what is there when time is up."""

    def __init__(self, progress: Progress, root: str) -> None:
        self._progress, self._root = progress, root
        self._places = Places((), progress, root)
        self._keys: dict[tuple[str, int], _Key | None] = {}  # (device, inode) as the kernel tells -> what fstat said
        self._seen: dict[_Key, _Seen] = {}
        self._holders: dict[_Key, set[int]] = {}

    def count(self, pids: Sequence[int]) -> None:
        """Every file that these processes have open or mapped, as far as time allows."""
        self._places = Places(pids, self._progress, self._root)
        visit_links(pids, self._progress, self._root, self._take)

    def rows(self) -> list[FileRow]:
        """The files with anything cached, the largest first."""
        rows = [
            self._row(seen, self._holders.get(key, set())) for key, seen in list(self._seen.items())
            if seen.residency.cached_bytes
        ]  # fmt: skip
        return sorted(rows, key=lambda row: (-row.cached_bytes, row.path))

    @property
    def files(self) -> int:
        return len(self._seen)

    def _take(self, link: FileLink) -> None:
        point = self._places.mount_of(link)
        mount = Mount(point.device, point.kind) if point else (_INTERNAL if link.internal else None)
        if mount is None:
            why = "on a mount that is in no mount table we can read"
            self._progress.gap(Missing(Reason.UNSUPPORTED, link.path, why))
            return
        if mount.pseudo:
            return
        if mount.remote:
            why = f"not touched: a {mount.kind} mount can hang"
            self._progress.gap(Missing(Reason.UNSUPPORTED, link.path, why))
            return
        told = (mount.device, link.inode)
        unique = bool(mount.device and link.inode and mount.inode_numbers_are_unique)
        key = self._keys[told] if unique and told in self._keys else self._examine(link, mount)
        if unique:
            self._keys[told] = key
        if key is not None:
            self._holders.setdefault(key, set()).add(link.pid)
            ours, seen = self._places.ours, self._seen[key]
            if link.pid in ours and seen.link.pid not in ours:  # a path of our own can be acted on
                self._seen[key] = dataclasses.replace(seen, link=link)

    def _row(self, seen: _Seen, holders: set[int]) -> FileRow:
        place = self._places.place_of(seen.link)
        return FileRow(
            path=place.path if seen.named else openfiles.without_deleted_mark(place.path),
            path_of_pid=place.pid,
            filesystem=seen.filesystem,
            cached_bytes=seen.residency.cached_bytes,
            dirty_bytes=seen.residency.dirty_bytes,
            writeback_bytes=seen.residency.writeback_bytes,
            size_bytes=seen.size_bytes,
            deleted=not seen.named and not seen.link.internal,
            open_by=tuple(sorted(holders)),
            method=seen.residency.method,
        )

    def _examine(self, link: FileLink, mount: Mount) -> _Key | None:
        """Opens the file and counts it, unless it was counted under another link; None for what is no regular file."""
        self._progress.at = link.link
        opened = _open(link, self._root)
        if isinstance(opened, Missing):
            if opened.reason is not Reason.GONE and opened.detail != residency.NOT_REGULAR:
                self._progress.gap(opened)
            return None
        fd = opened.value
        try:
            status = os.fstat(fd)
            key = (status.st_dev, status.st_ino)
            if key in self._seen:
                return key
            counted = residency.residency_of_fd(fd, source=link.link)
            if isinstance(counted, Missing):
                self._progress.gap(counted)
                return None
            self._seen[key] = _Seen(link, mount.kind, counted.value, status.st_size, status.st_nlink > 0)
            self._progress.rows = len(self._seen)
            return key
        finally:
            os.close(fd)


def _open(link: FileLink, root: str) -> Reading[int]:
    """By the kernel's link; where map_files is closed to us, by the path inside the process's root, if that is still
    the same file."""
    opened = residency.open_regular(link.link, follow=True)
    if not isinstance(opened, Missing) or not link.device or opened.reason is not Reason.DENIED:
        return opened
    by_path = residency.open_regular(f"{root}/{link.pid}/root{link.path}")
    if isinstance(by_path, Missing):
        return opened
    if os.fstat(by_path.value).st_ino != link.inode:
        os.close(by_path.value)
        return opened
    return by_path
