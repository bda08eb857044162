"""Why a recorder does not begin, or goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from osremed.core.errors import Unavailable
from osremed.core.files import exclusive_lock
from osremed.core.paths import host_paths
from osremed.hotspot import daemon
from osremed.hotspot.recorder import Settings


def test_only_a_lock_that_is_held_means_another_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    paths = host_paths()
    os.makedirs(paths.run)
    held = exclusive_lock(os.path.join(paths.run, "hotspot.lock"), wait=False)
    with held, pytest.raises(Unavailable, match="another hotspot recorder runs here"):
        daemon.run(Settings(), paths)

    def no_sensor() -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(daemon, "Sensor", no_sensor)
    with pytest.raises(BlockingIOError):
        daemon.run(Settings(), paths)
