"""What the agent asks of the GPU watch: alerts as a number, and unknown when nobody watches."""

from __future__ import annotations

import json
import time

import pytest

from osremed.agent.collect import collect
from osremed.agent.probes import prepare_probe
from osremed.core.reading import Missing, Value


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))

    def tell(alerts, age_s=0.0):
        run = tmp_path / "run/osremed"
        run.mkdir(parents=True, exist_ok=True)
        document = {"updated_ns": time.time_ns() - round(age_s * 1e9), "interval_s": 10.0, "alerts": alerts}
        (run / "timeline.json").write_text(json.dumps(document))

    return tell


ALERTS = [
    {"name": "gpu.ecc", "subject": "gpu0", "why": "x"},
    {"name": "gpu.throttle", "subject": "gpu0", "why": "x"},
    {"name": "gpu.ecc", "subject": "gpu1", "why": "x"},
]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [({}, 3), ({"gpu": 0}, 2), ({"name": "gpu.ecc"}, 2), ({"name": "gpu.ecc", "gpu": 1}, 1), ({"gpu": 7}, 0)],
)
def test_alerts_are_counted_by_name_and_gpu(host, arguments, count):
    host(ALERTS)
    assert prepare_probe("gpu.alerts", arguments)() == Value(float(count))


def test_without_a_watch_that_writes_the_number_of_alerts_is_unknown(host):
    assert isinstance(prepare_probe("gpu.alerts", {})(), Missing)
    host([], age_s=100.0)
    found = prepare_probe("gpu.alerts", {})()
    assert isinstance(found, Missing)
    assert "not written for" in found.detail


def test_the_collector_gives_status_and_events_or_their_gaps(host):
    gaps = collect("timeline", {})
    assert gaps["status"]["missing"] == "gone"
    assert gaps["events"]["missing"] == "no_data"
    host(ALERTS)
    assert collect("timeline", {"events": 5})["status"]["alerts"] == ALERTS
