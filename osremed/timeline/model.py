"""Snapshots as JSON documents and back: what a probe process answers, the status file and the verbs show."""

from __future__ import annotations

from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value, reading_as_json
from osremed.core.record import record
from osremed.sensors.nvml import METRICS, GpuProcess, Identity, Snapshot


@record
class Inventory:
    """What the driver says is there."""

    count: int
    driver_version: str


@record
class Hang:
    """A probe that did not answer in time: `state` and `wchan` are its process's, from /proc."""

    pid: int
    state: str
    wchan: str
    waited_s: float

    def as_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "process_state": self.state, "wchan": self.wchan, "waited_s": round(self.waited_s, 2)}


def snapshot_as_json(snapshot: Snapshot) -> dict[str, Any]:
    identity, processes = snapshot.identity, snapshot.processes
    return {
        "index": identity.index,
        "uuid": identity.uuid,
        "name": identity.name,
        "bdf": identity.bdf,
        "metrics": {name: reading_as_json(reading) for name, reading in snapshot.metrics.items()},
        "processes": processes.as_json()
        if isinstance(processes, Missing)
        else [
            {"pid": each.pid, "used_bytes": reading_as_json(each.used_bytes), "mig": each.mig and list(each.mig)}
            for each in processes.value
        ],
    }


def snapshot_from_json(document: Any) -> Snapshot:
    """ValueError unless it is what `snapshot_as_json` writes; a metric that is not there is Missing."""
    try:
        identity = Identity(document["index"], document["uuid"], document["name"], document["bdf"])
        told = document["metrics"]
        absent = {"missing": Reason.NO_DATA.value, "source": "probe", "detail": "not told"}
        metrics = {name: _reading(told.get(name, absent)) for name in METRICS}
        processes = document["processes"]
        listed: Reading[tuple[GpuProcess, ...]]
        if isinstance(processes, dict):
            listed = missing_from_json(processes)
        else:
            listed = Value(tuple(_process(each) for each in processes))
        return Snapshot(identity, metrics, listed)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a snapshot: {error!r}") from error


def _process(document: Any) -> GpuProcess:
    mig = document["mig"]
    return GpuProcess(int(document["pid"]), _reading(document["used_bytes"]), (mig[0], mig[1]) if mig else None)


def _reading(told: Any) -> Reading[int]:
    return missing_from_json(told) if isinstance(told, dict) else Value(int(told))


def missing_from_json(document: Any) -> Missing:
    return Missing(Reason(document["missing"]), str(document["source"]), str(document["detail"]))
