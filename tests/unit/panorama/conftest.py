"""A host made of files: /proc as far as panorama reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MEMINFO = {
    "MemTotal": 1_000_000, "MemFree": 400_000, "MemAvailable": 700_000, "Buffers": 10_000, "Cached": 200_000,
    "SwapCached": 1_000, "SwapTotal": 50_000, "SwapFree": 20_000, "AnonPages": 250_000, "Shmem": 30_000,
    "Slab": 60_000, "SReclaimable": 40_000, "SUnreclaim": 20_000, "KernelStack": 2_000, "PageTables": 5_000,
    "VmallocUsed": 9_000, "Percpu": 3_000,
}  # fmt: skip
ZONEINFO = """Node 0, zone   Normal
  pages free     100
  pagesets
    cpu: 0
              count:    300
              high:     378
    cpu: 1
              count:    200
"""


class FakeProc:
    """Builds the tree; `root` is what collectors get."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._write("meminfo", "".join(f"{key}:  {value} kB\n" for key, value in MEMINFO.items()))
        self._write("zoneinfo", ZONEINFO)
        self._write("self/mountinfo", self.mount_line(1, "8:1", "ext4"))

    def _write(self, name: str, text: str) -> None:
        path = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def mount_line(self, mount_id: int, device: str, kind: str) -> str:
        return f"{mount_id} 0 {device} / /m{mount_id} rw,relatime shared:1 - {kind} none rw\n"

    def meminfo(self, **changes: int | None) -> None:
        fields = {key: value for key, value in {**MEMINFO, **changes}.items() if value is not None}
        self._write("meminfo", "".join(f"{key}: {value} kB\n" for key, value in fields.items()))

    def process(self, pid: int, *, name: str = "worker", anon_kb: int | None = 1000, swap_kb: int = 0) -> None:
        sizes = (
            ""
            if anon_kb is None
            else (f"RssAnon:\t{anon_kb} kB\nRssFile:\t64 kB\nRssShmem:\t8 kB\nVmSwap:\t{swap_kb} kB\n")
        )
        self._write(f"{pid}/status", f"Name:\t{name}\nUid:\t0\t0\t0\t0\n{sizes}")
        self._write(f"{pid}/stat", f"{pid} ({name}) S 1 " + " ".join(["0"] * 17) + f" {pid * 7} 0\n")
        self._write(f"{pid}/cmdline", f"/usr/bin/{name}\0--flag\0")
        self._write(f"{pid}/oom_score_adj", "-5\n")
        self._write(f"{pid}/cgroup", "4:memory:/apps\n0::/\n")
        self._write(f"{pid}/maps", "")
        self._write(f"{pid}/mountinfo", self.mount_line(1, "8:1", "ext4"))
        os.makedirs(os.path.join(self.root, str(pid), "fd"), exist_ok=True)

    def mounts(self, pid: int, *lines: str) -> None:
        self._write(f"{pid}/mountinfo", "".join(lines))

    def opens(self, pid: int, fd: int, path: str, *, mount_id: int = 1) -> None:
        os.symlink(path, os.path.join(self.root, str(pid), "fd", str(fd)))
        self._write(f"{pid}/fdinfo/{fd}", f"pos:\t0\nflags:\t02\nmnt_id:\t{mount_id}\n")

    def replace_by_fifo(self, name: str) -> str:
        """A file that never answers a reader, as a process that is stuck in the kernel does not."""
        path = os.path.join(self.root, name)
        os.unlink(path)
        os.mkfifo(path)
        return path


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    (tmp_path / "proc").mkdir()
    return FakeProc(tmp_path / "proc")
