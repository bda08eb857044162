"""CPUs come and go while it records."""

from __future__ import annotations

from pathlib import Path

import pytest

from osremed.core.reading import Value
from osremed.hotspot.governor import levels
from osremed.hotspot.sensor import Sensor
from osremed.sensors.bpf import perf

pytestmark = pytest.mark.kernel


def test_a_cpu_that_comes_online_is_sampled_and_told(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No CPU of this machine is switched: the list of those online begins with one too few."""
    online = perf.online_cpus()
    assert isinstance(online, Value)
    if len(online.value) < 2:
        pytest.skip("one CPU")
    with monkeypatch.context() as before:
        before.setattr(perf, "online_cpus", lambda: Value(online.value[:-1]))
        sensor = Sensor()
    with sensor:
        sensor.set_level(levels(2)[0])
        assert len(sensor._links["on_clock"]) == len(online.value) - 1
        (gap,) = sensor.follow_cpus()
        assert f"CPUs came or went: {online.value[-1]} not" in gap
        assert len(sensor._links["on_clock"]) == len(online.value)
        assert sensor.follow_cpus() == ()
