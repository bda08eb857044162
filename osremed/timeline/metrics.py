"""What the watch sees, as Prometheus text: for node_exporter's textfile collector or any scraper of files. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from osremed.core.reading import Value
from osremed.sensors.nvml import Snapshot

_COUNTERS = ("_count", "_rows")


def exposition(
    snapshots: Iterable[Snapshot],
    totals: Mapping[tuple[str, str, str], int],
    alerts: Iterable[tuple[str, str]],
    watch: Mapping[str, Any],
) -> str:
    """A metric that could not be read is left out: absent, not 0. An Xid is a counter, so that a repeated one shows."""
    lines: list[str] = []
    by_name: dict[str, list[str]] = {}
    for snapshot in snapshots:
        labels = f'index="{snapshot.identity.index}",uuid="{_escape(snapshot.identity.uuid)}"'
        for name, reading in snapshot.metrics.items():
            if isinstance(reading, Value):
                by_name.setdefault(name, []).append(f"{{{labels}}} {reading.value}")
    for name, samples in by_name.items():
        counter = name.endswith(_COUNTERS)
        full = f"osremed_gpu_{name.removesuffix('_count')}" + ("_total" if counter else "")
        lines.append(f"# TYPE {full} {'counter' if counter else 'gauge'}")
        lines += [full + sample for sample in samples]
    lines.append("# TYPE osremed_gpu_errors_total counter")
    for (kind, address, code), count in sorted(totals.items()):
        lines.append(f'osremed_gpu_errors_total{{kind="{kind}",bdf="{_escape(address)}",code="{code}"}} {count}')
    lines.append("# TYPE osremed_gpu_alert gauge")
    lines += [f'osremed_gpu_alert{{name="{name}",subject="{_escape(subject)}"}} 1' for name, subject in sorted(alerts)]
    for name, number in watch.items():
        lines += [f"# TYPE osremed_gpu_watch_{name} gauge", f"osremed_gpu_watch_{name} {number}"]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
