"""A path inside a file system -> where somebody sees it: the host's own mounts first, then other mount namespaces."""

from __future__ import annotations

import os
from collections.abc import Sequence

from osremed.core.reading import Missing, Reason, Value
from osremed.core.record import record
from osremed.panorama.layers import Progress
from osremed.sensors import mountpoints, openfiles
from osremed.sensors.mountpoints import MountPoint
from osremed.sensors.openfiles import FileLink


@record
class Place:
    """`pid` 0: as we see it; else as that process does."""

    path: str
    pid: int


class Places:
    """The mounts of all mount namespaces that have a process, read once for each. `ours`: processes that see what we
    do."""

    def __init__(self, pids: Sequence[int], progress: Progress, root: str) -> None:
        self.by_id: dict[int, MountPoint] = {}
        self.overlays: list[tuple[MountPoint, int]] = []
        self.ours: set[int] = set()
        self._by_device: dict[str, list[tuple[MountPoint, int]]] = {}
        self._on_top: dict[str, int] = {}
        seen: set[str] = set()
        own = openfiles.mount_namespace("self", root)
        processes: list[int | str] = ["self", *pids]
        for pid in processes:
            if progress.expired(f"{root}/{pid}/mountinfo"):
                return
            namespace = openfiles.mount_namespace(pid, root)
            if isinstance(namespace, Value):
                if namespace == own and pid != "self":
                    self.ours.add(int(pid))
                if namespace.value in seen:
                    continue
                seen.add(namespace.value)
            self._learn(pid, progress, root)

    def _learn(self, pid: int | str, progress: Progress, root: str) -> None:
        table = mountpoints.mount_points(pid, root)
        if isinstance(table, Missing):
            if table.reason is not Reason.GONE:
                progress.gap(table)
            return
        viewer = 0 if pid == "self" else int(pid)
        for mount in table.value:
            self.by_id.setdefault(mount.mount_id, mount)
            if not viewer:
                self._on_top[mount.point] = mount.mount_id
            self._by_device.setdefault(mount.device, []).append((mount, viewer))
            if mount.layers:
                self.overlays.append((mount, viewer))

    def mounted(self, device: str) -> bool:
        return device in self._by_device

    def mount_of(self, link: FileLink) -> MountPoint | None:
        """The mount of a descriptor; of a mapping any mount of its file system."""
        found = self.by_id.get(link.mount_id)
        return found if found is not None else next((each for each, _ in self._by_device.get(link.device, [])), None)

    def place_of(self, link: FileLink) -> Place:
        """Our own path of the file if one is known, so that it can be acted on; else the process's."""
        if link.pid in self.ours:
            return Place(link.path, 0)
        mount = self.by_id.get(link.mount_id)
        rest = None if mount is None else mountpoints.below(link.path, mount.point)
        if mount is not None and rest is not None:
            place = self.place(mount.device, mount.root.rstrip("/") + rest)
            if place is not None and not place.pid:
                return place
        return Place(link.path, link.pid)

    def point(self, device: str) -> str:
        """Where the file system's own root shows, or the first part of it that is mounted; empty when nowhere."""
        mounts = self._by_device.get(device, [])
        whole = [mount.point for mount, _ in mounts if mount.root == "/"]
        return next(iter(whole), mounts[0][0].point if mounts else "")

    def place(self, device: str, path: str) -> Place | None:
        """Our own mount that shows the most of the file system wins; None when no mount shows this path."""
        best: tuple[int, int, Place] | None = None
        for mount, pid in self._by_device.get(device, []):
            shown = mount.shows(path)
            if shown is None or (not pid and self._covered(mount, shown)):
                continue
            rank = (pid, len(mount.root), Place(shown, pid))
            if best is None or rank[:2] < best[:2]:
                best = rank
        return best[2] if best else None

    def _covered(self, mount: MountPoint, path: str) -> bool:
        """Whether a path of our own leads into another mount, which was mounted over it."""
        while path not in self._on_top and path != "/":
            path = os.path.dirname(path) or "/"
        return self._on_top.get(path, mount.mount_id) != mount.mount_id

    def real_paths(self, mount: MountPoint, path: str) -> list[str]:
        """Where the file at `path` of an overlay may really lie, upper layer first."""
        rest = mountpoints.below(path, mount.point)
        rest = path if rest is None else rest
        upper = next((layer for layer in mount.layers if layer.startswith("/")), "/")
        base = os.path.dirname(os.path.dirname(upper))  # where a container runtime stood when it wrote relative layers
        return [os.path.join(base, layer).rstrip("/") + rest for layer in mount.layers]
