"""Who has a file open or mapped: read off the descriptors and mappings of all processes, without touching a file."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from osremed.core.reading import Reading, Reason, Value, missing_from_oserror
from osremed.panorama.cache_places import Places
from osremed.panorama.layers import Progress
from osremed.panorama.visits import visit_links
from osremed.sensors.mountpoints import MountPoint
from osremed.sensors.openfiles import FileLink
from osremed.sensors.pagecache import device_of

_SHARED_INODE_NUMBERS = ("btrfs", "bcachefs")  #: each subvolume has its own, below one device


class Holders:
    """(device, inode) -> pids; and for files seen through an overlay, real path -> (pid, path as it sees it), only of
    those `wanted`: layers times files are many. Where subvolumes share inode numbers the path decides."""

    def __init__(self, places: Places, progress: Progress, root: str, internal: str) -> None:
        self.places, self._progress, self._root = places, progress, root
        self.internal = internal
        self.whole = False
        self._by_inode: dict[tuple[str, int], set[int]] = {}
        self._by_inode_and_path: dict[tuple[str, int, str], set[int]] = {}
        self._of_no_path: set[tuple[str, int]] = set()
        self._wanted: Collection[str] = ()
        self._by_path: dict[str, set[tuple[int, str]]] = {}

    def count(self, pids: Sequence[int], wanted: Collection[str]) -> None:
        """Who of these processes has what open or mapped; `whole` once all of them were asked. `wanted`: our paths of
        the files that `of` will be asked for."""
        self._wanted = wanted
        self.whole = visit_links(pids, self._progress, self._root, self._take)

    def of(self, device: str, inode: int, path: str) -> tuple[tuple[int, ...], str]:
        """The pids, and how one of them sees the file when it does so through an overlay."""
        through = self._by_path.get(path, set())
        pids = self._by_inode.get((device, inode), set()) | {pid for pid, _ in through}
        pids |= self._by_inode_and_path.get((device, inode, path), set())
        return tuple(sorted(pids)), min((f"{seen} (pid {pid})" for pid, seen in through), default="")

    def whole_for(self, device: str, inode: int) -> bool:
        """Whether all who have it open are known."""
        return self.whole and (device, inode) not in self._of_no_path

    def _take(self, link: FileLink) -> None:
        mount = self.places.by_id.get(link.mount_id)
        device = link.device or (mount.device if mount else self.internal)
        known = self.places.mount_of(link)
        if known is not None and known.kind in _SHARED_INODE_NUMBERS:
            place = self.places.place_of(link)
            self._by_inode_and_path.setdefault((device, link.inode, place.path), set()).add(link.pid)
            if place.pid:
                self._of_no_path.add((device, link.inode))
            return
        self._by_inode.setdefault((device, link.inode), set()).add(link.pid)
        for overlay in self._overlays_of(link):
            for real in self.places.real_paths(overlay, link.path):
                if real in self._wanted:
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
