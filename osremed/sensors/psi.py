"""Pressure stall information: how long tasks waited for a resource. Totals only grow; two readings make a rate."""

from __future__ import annotations

from osremed.core.reading import Reading, Reason
from osremed.core.record import record
from osremed.sensors.procfs import PROC, number, read_parsed


@record
class Pressure:
    """Microseconds since boot (or since the group began) in which `some` task, or the whole `full` set of tasks, was
    stalled. `full` is None where the kernel has none (cpu before Linux 5.13)."""

    some_total_us: int
    full_total_us: int | None


def parse(data: bytes) -> Pressure:
    """`some avg10=… avg60=… avg300=… total=N`, then perhaps `full …`. ValueError otherwise."""
    totals = {}
    for line in data.splitlines():
        kind, _, rest = line.partition(b" ")
        last = rest.rpartition(b" ")[2]
        if kind not in (b"some", b"full") or not last.startswith(b"total="):
            raise ValueError(f"not a pressure line: {line[:60]!r}")
        totals[kind] = number(last[6:])
    if b"some" not in totals:
        raise ValueError("no `some` line")
    return Pressure(totals[b"some"], totals.get(b"full"))


def node(resource: str, root: str = PROC) -> Reading[Pressure]:
    """`resource` is cpu, io or memory. UNSUPPORTED without CONFIG_PSI (Linux 4.20) or with psi=0. Reading brings the
    totals up to date, so polling sees a stall long before the 2 s window of an unprivileged trigger ends."""
    return _read(f"{root}/pressure/{resource}")


def group(directory: str, resource: str) -> Reading[Pressure]:
    """The same for a group of the unified hierarchy; v1 groups have none: UNSUPPORTED."""
    return _read(f"{directory}/{resource}.pressure")


def _read(path: str) -> Reading[Pressure]:
    return read_parsed(path, parse, absent=Reason.UNSUPPORTED)
