"""Who has a file open or mapped: read off the descriptors and mappings of all processes, without touching a file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from osremed.core.reading import Reading, Reason, Value, missing_from_oserror
from osremed.panorama.cache_places import Places
from osremed.panorama.layers import Progress
from osremed.panorama.visits import visit_links
from osremed.sensors.mountpoints import MountPoint
from osremed.sensors.openfiles import FileLink
from osremed.sensors.pagecache import device_of


class Holders:
    """(device, inode) -> pids; and for files seen through an overlay, real path -> (pid, path as it sees it)."""

    def __init__(self, places: Places, progress: Progress, root: str, internal: str) -> None:
        self.places, self._progress, self._root = places, progress, root
        self.internal = internal
        self.whole = False
        self._by_inode: dict[tuple[str, int], set[int]] = {}
        self._by_path: dict[str, set[tuple[int, str]]] = {}

    def count(self, pids: Sequence[int]) -> None:
        """Who of these processes has what open or mapped; `whole` once all of them were asked."""
        self.whole = visit_links(pids, self._progress, self._root, self._take)

    def of(self, device: str, inode: int, path: str) -> tuple[tuple[int, ...], str]:
        """The pids, and how one of them sees the file when it does so through an overlay."""
        through = self._by_path.get(path, set())
        pids = self._by_inode.get((device, inode), set()) | {pid for pid, _ in through}
        return tuple(sorted(pids)), min((f"{seen} (pid {pid})" for pid, seen in through), default="")

    def _take(self, link: FileLink) -> None:
        mount = self.places.by_id.get(link.mount_id)
        device = link.device or (mount.device if mount else self.internal)
        self._by_inode.setdefault((device, link.inode), set()).add(link.pid)
        for overlay in self._overlays_of(link):
            for real in self.places.real_paths(overlay, link.path):
                self._by_path.setdefault(real, set()).add((link.pid, link.path))

    def _overlays_of(self, link: FileLink) -> list[MountPoint]:
        mount = self.places.by_id.get(link.mount_id)
        if mount is not None:
            return [mount] if mount.layers else []
        return [overlay for overlay, _ in self.places.overlays if overlay.device == link.device]


def internal_device() -> Reading[str]:
    """The device of the kernel's own tmpfs (memfd, SysV, shared anonymous memory), which no mount table shows."""
    try:
        fd = os.memfd_create("osremed-device", os.MFD_CLOEXEC)
    except OSError as error:
        return missing_from_oserror(error, "memfd", absent=Reason.UNSUPPORTED)
    try:
        return Value(device_of(os.fstat(fd).st_dev))
    finally:
        os.close(fd)
