"""What Prometheus scrapes of the control plane: runs, findings, interventions, what waits. Read from what the pages
read.

Gauges alone: they are what is kept on disk now, and old runs and events may be removed.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from osremed.console.binding import Places
from osremed.console.feed import Feed
from osremed.core.event import Event
from osremed.core.journal import Cursor
from osremed.core.record import record
from osremed.flows.settings import ControlPaths
from osremed.notify.spool import Waiting, waiting_of
from osremed.report.facts import killed
from osremed.runbook.model import Run
from osremed.runbook.stats import Ending, as_prometheus, grades

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_GRADED_S = 30 * 86400


@record
class Seen:
    """What is counted. `undecided` events are in the intake and not yet decided; None: nobody can say."""

    runs: tuple[Run, ...]
    damaged: int
    interventions: tuple[Event, ...]
    levels: tuple[str, ...]
    undecided: int | None
    targets: tuple[Waiting, ...]
    now_ns: int
    removed: tuple[Ending, ...] = ()  #: runs that are not kept any more


#: Metric -> what it says, and its labels.
METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "osremed_runs": ("Runs on disk", ("runbook", "state")),
    "osremed_runs_damaged": ("Runs that cannot be read: no run is let in meanwhile", ()),
    "osremed_run_findings": ("Findings of the runs on disk", ("runbook", "finding")),
    "osremed_run_updated_seconds": ("When a run of the runbook last came further, since the epoch", ("runbook",)),
    "osremed_interventions": ("Interventions of FastOOM among the latest events", ("host",)),
    "osremed_processes_ended": ("Processes these interventions ended", ("host",)),
    "osremed_hosts": ("Hosts by the memory level they told last", ("level",)),
    "osremed_intake_undecided": ("Events that wait for the dispatcher", ()),
    "osremed_notify_waiting": ("Messages that wait for a target", ("target",)),
    "osremed_notify_given_up": ("Messages a target never took", ("target",)),
}


def _counts(seen: Seen) -> dict[str, Mapping[tuple[str, ...], float]]:
    last: dict[tuple[str, ...], float] = {}
    for run in seen.runs:
        last[(run.runbook,)] = max(last.get((run.runbook,), 0.0), run.updated_ns / 1e9)
    processes: Counter[tuple[str, ...]] = Counter()
    for event in seen.interventions:
        rows = killed(event)
        processes[(event.host,)] += len(rows) if isinstance(rows, tuple) else 0
    return {
        "osremed_runs": Counter((run.runbook, run.state.value) for run in seen.runs),
        "osremed_runs_damaged": {(): seen.damaged},
        "osremed_run_findings": Counter((run.runbook, each.name) for run in seen.runs for each in run.findings),
        "osremed_run_updated_seconds": last,
        "osremed_interventions": Counter((event.host,) for event in seen.interventions),
        "osremed_processes_ended": processes,
        "osremed_hosts": Counter((level,) for level in seen.levels),
        "osremed_intake_undecided": {} if seen.undecided is None else {(): seen.undecided},
        "osremed_notify_waiting": {(each.target,): each.waiting for each in seen.targets},
        "osremed_notify_given_up": {(each.target,): each.given_up for each in seen.targets},
    }


def look(places: Places, feed: Feed) -> Seen:
    """What is kept now."""
    paths = ControlPaths(os.path.abspath(places.state))
    entries = feed.entries()
    last, decided = (entries[-1].seq if entries else -1), Cursor(paths.intake_cursor).load()
    runs, damaged = feed.runs()
    return Seen(
        runs=tuple(runs),
        damaged=len(damaged),
        interventions=tuple(feed.events(name="memory.near_oom")),
        levels=tuple(row["level"] or "unknown" for row in feed.fleet()[0]),
        undecided=last - decided if os.path.isdir(paths.intake) else None,
        targets=tuple(waiting_of(places.state)),
        now_ns=time.time_ns(),
        removed=feed.removed(),
    )


class _Of(Collector):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found = _counts(self._seen)
        for name, (says, labels) in METRICS.items():
            family = GaugeMetricFamily(name, says, labels=labels)
            for values, count in found[name].items():
                family.add_metric(values, count)
            yield family


def exposition(seen: Seen) -> bytes:
    """The text format. Names of hosts and findings are escaped by the library."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Of(seen))
    graded = grades(seen.runs, since_ns=seen.now_ns - _GRADED_S * 10**9, removed=seen.removed)
    return bytes(generate_latest(registry)) + (as_prometheus(graded) if graded else "").encode()
