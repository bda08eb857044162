"""Who has a file open or mapped: read off the descriptors and mappings of all processes, without touching a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from osremed.core.reading import Missing, Reason
from osremed.panorama.cache_places import Places
from osremed.panorama.layers import Progress
from osremed.sensors import openfiles
from osremed.sensors.mountpoints import MountPoint
from osremed.sensors.openfiles import FileLink
from osremed.sensors.pagecache import device_of


class Holders:
    """(device, inode) -> pids; and for files seen through an overlay, real path -> (pid, path as it sees it)."""

    def __init__(self, places: Places, progress: Progress, root: str) -> None:
        self._places, self._progress, self._root = places, progress, root
        self._internal = internal_device()
        self._by_inode: dict[tuple[str, int], set[int]] = {}
        self._by_path: dict[str, set[tuple[int, str]]] = {}

    def count(self, pids: Sequence[int]) -> None:
        """Descriptors first, mappings after: reading maps can wait for a process that is stuck."""
        for pid in pids:
            if not self._visit(openfiles.open_descriptors(pid, self._root), f"{self._root}/{pid}/fd"):
                return
        for pid in pids:
            if self._progress.expired(f"{self._root}/{pid}/maps"):
                return
            links = openfiles.mapped(pid, self._root)
            if not self._visit([links] if isinstance(links, Missing) else links.value, f"{self._root}/{pid}/maps"):
                return

    def of(self, device: str, inode: int, path: str) -> tuple[tuple[int, ...], str]:
        """The pids, and how one of them sees the file when it does so through an overlay."""
        through = self._by_path.get(path, set())
        pids = self._by_inode.get((device, inode), set()) | {pid for pid, _ in through}
        return tuple(sorted(pids)), min((f"{seen} (pid {pid})" for pid, seen in through), default="")

    def _visit(self, links: Iterable[FileLink | Missing], at: str) -> bool:
        """False once time is up."""
        for link in links:
            if self._progress.expired(at):
                return False
            if isinstance(link, FileLink):
                self._take(link)
            elif link.reason is not Reason.GONE:
                self._progress.gap(link)
        return True

    def _take(self, link: FileLink) -> None:
        mount = self._places.by_id.get(link.mount_id)
        device = link.device or (mount.device if mount else self._internal)
        self._by_inode.setdefault((device, link.inode), set()).add(link.pid)
        for overlay in self._overlays_of(link):
            for real in self._places.real_paths(overlay, link.path):
                self._by_path.setdefault(real, set()).add((link.pid, link.path))

    def _overlays_of(self, link: FileLink) -> list[MountPoint]:
        mount = self._places.by_id.get(link.mount_id)
        if mount is not None:
            return [mount] if mount.layers else []
        return [overlay for overlay, _ in self._places.overlays if overlay.device == link.device]


def internal_device() -> str:
    """The device of the kernel's own tmpfs (memfd, SysV, shared anonymous memory), which no mount table shows."""
    fd = os.memfd_create("osremed-device", os.MFD_CLOEXEC)
    try:
        return device_of(os.fstat(fd).st_dev)
    finally:
        os.close(fd)
