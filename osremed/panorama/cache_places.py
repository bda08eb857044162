"""A path inside a file system -> where somebody sees it: the host's own mounts first, then other mount namespaces."""

from __future__ import annotations

import os
from collections.abc import Sequence

from osremed.core.reading import Missing, Reason
from osremed.core.record import record
from osremed.panorama.layers import Progress
from osremed.sensors import mountpoints, openfiles
from osremed.sensors.mountpoints import MountPoint


@record
class Place:
    """`pid` 0: as we see it; else as that process does."""

    path: str
    pid: int


class Places:
    """The mounts of all mount namespaces that have a process, read once for each."""

    def __init__(self, pids: Sequence[int], progress: Progress, root: str) -> None:
        self.by_id: dict[int, MountPoint] = {}
        self.overlays: list[tuple[MountPoint, int]] = []
        self._by_device: dict[str, list[tuple[MountPoint, int]]] = {}
        seen: set[str] = set()
        processes: list[int | str] = ["self", *pids]
        for pid in processes:
            if progress.expired(f"{root}/{pid}/mountinfo"):
                return
            namespace = openfiles.mount_namespace(pid, root)
            if isinstance(namespace, Missing) or namespace.value in seen:
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
            self._by_device.setdefault(mount.device, []).append((mount, viewer))
            if mount.layers:
                self.overlays.append((mount, viewer))

    def mounted(self, device: str) -> bool:
        return device in self._by_device

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
            if shown is None:
                continue
            rank = (pid, len(mount.root), Place(shown, pid))
            if best is None or rank[:2] < best[:2]:
                best = rank
        return best[2] if best else None

    def real_paths(self, mount: MountPoint, path: str) -> list[str]:
        """Where the file at `path` of an overlay may really lie, upper layer first."""
        rest = mountpoints.below(path, mount.point)
        rest = path if rest is None else rest
        upper = next((layer for layer in mount.layers if layer.startswith("/")), "/")
        base = os.path.dirname(os.path.dirname(upper))  # where a container runtime stood when it wrote relative layers
        return [os.path.join(base, layer).rstrip("/") + rest for layer in mount.layers]
