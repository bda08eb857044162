"""What a watch says of itself: its status document, and its metrics for Prometheus."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from osremed.core.reading import Missing, Reading
from osremed.timeline.alerts import subject_of
from osremed.timeline.metrics import exposition
from osremed.timeline.model import Inventory, snapshot_as_json

if TYPE_CHECKING:
    from osremed.timeline.watch import Watch


def document(watch: Watch) -> dict[str, Any]:
    kernel = watch.kmsg
    return {
        "pid": os.getpid(),
        "updated_ns": watch.clock.wall_ns(),
        "interval_s": watch.settings.interval_s,
        "inventory": _inventory(watch.inventory),
        "gpus": [snapshot_as_json(each) for _, each in sorted(watch.snapshots.items())],
        "unreadable": {str(index): each.as_json() for index, each in watch.unreadable.items()},
        "hung": {str(number): probe.hang.as_json() for number, probe in watch.probes.items() if probe.hang},
        "alerts": [
            {"name": name, "subject": subject_of(holds), "uuid": holds.facts.get("uuid", ""), "why": holds.why}
            for (name, _), holds in sorted(watch.alerts.active.items(), key=lambda each: each[0])
        ],
        "errors": [
            {"kind": kind, "bdf": bdf, "code": code, "count": count}
            for (kind, bdf, code), count in sorted(watch.incidents.totals.items())
        ],
        "kernel_log": kernel.as_json()
        if isinstance(kernel, Missing)
        else {"lost": kernel.value.lost, "malformed": kernel.value.malformed},
        "driver_events": watch.driver_events,
        "traces": watch.traces.document(),
        "calls": None if watch.calls is None else watch.calls.document(),
        "events": {"told": watch.told, "lost": watch.outbox.lost, "failure": watch.outbox.failure},
        "cpu_s": round(time.process_time(), 3),
    }


def _inventory(inventory: Reading[Inventory] | None) -> Any:
    if inventory is None:
        return {"missing": "no_data", "source": "nvml", "detail": "not asked yet"}
    if isinstance(inventory, Missing):
        return inventory.as_json()
    return {"gpus": inventory.value.count, "driver_version": inventory.value.driver_version}


def prometheus(watch: Watch) -> str:
    kernel = watch.kmsg
    own = {
        "cpu_seconds": round(time.process_time(), 3),
        "updated_seconds": watch.clock.wall_ns() // 1_000_000_000,
        "probes_hung": sum(probe.hang is not None for probe in watch.probes.values()),
        "kernel_records_lost": 0 if isinstance(kernel, Missing) else kernel.value.lost,
    }
    alerts = {(name, subject_of(holds)) for (name, _), holds in watch.alerts.active.items()}
    return exposition(watch.snapshots.values(), watch.incidents.totals, alerts, own)
