"""Captured trees of control groups, small enough to read in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from osremed.sensors import cgroup

UNLIMITED = 9223372036854771712


@pytest.fixture
def v1(tmp_path: Path) -> Callable[..., cgroup.Group]:
    """Writes one v1 group and returns its handle."""

    def make(path: str = "/app", *, limit: int = 512, usage: int = 0, pids: str = "", **stat: int) -> cgroup.Group:
        directory = tmp_path / path.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        figures = {"active_file": 0, "inactive_file": 0, "cache": 0, "rss": 0, "swap": 0, **stat}
        lines = [f"{key} 0" for key in figures] + [f"hierarchical_memory_limit {limit}"]
        lines += [f"hierarchical_memsw_limit {UNLIMITED}"] + [f"total_{key} {value}" for key, value in figures.items()]
        (directory / "memory.stat").write_text("\n".join(lines) + "\n")
        (directory / "memory.usage_in_bytes").write_text(f"{usage}\n")
        (directory / "cgroup.procs").write_text(pids)
        return cgroup.group(cgroup.Hierarchy(1, str(tmp_path)), path)

    return make


@pytest.fixture
def v2(tmp_path: Path) -> Callable[..., cgroup.Group]:
    """Writes one v2 group and returns its handle."""

    def make(path: str = "/app", *, limit: str = "max", high: str = "max", usage: int = 0, **stat: int) -> cgroup.Group:
        directory = tmp_path / path.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        figures = {"active_file": 0, "inactive_file": 0, "slab_reclaimable": 0, **stat}
        (directory / "memory.stat").write_text("".join(f"{key} {value}\n" for key, value in figures.items()))
        (directory / "memory.current").write_text(f"{usage}\n")
        (directory / "memory.max").write_text(f"{limit}\n")
        (directory / "memory.high").write_text(f"{high}\n")
        (directory / "cgroup.procs").write_text("")
        return cgroup.group(cgroup.Hierarchy(2, str(tmp_path)), path)

    return make
