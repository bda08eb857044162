"""A Grafana dashboard of the console's metrics, made from a table of panels. Pure."""

from __future__ import annotations

from typing import Any

from osremed.core.record import record

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDE, _HIGH = 24, 8


@record
class Panel:
    """`width` of 24 columns; `legend` is a template of the labels."""

    title: str
    says: str
    query: str
    kind: str = "timeseries"
    legend: str = ""
    width: int = 12
    bad_from: float | None = None  #: red from here on


PANELS = (
    Panel(
        "Waiting for a person",
        "To approve, or to do a step.",
        'sum(osremed_runs{state=~"AWAITING_.*"})',
        "stat",
        width=4,
    ),
    Panel(
        "Not taken back completely",
        "Each needs a person.",
        'sum(osremed_runs{state="UNDO_INCOMPLETE"})',
        "stat",
        width=4,
        bad_from=1,
    ),
    Panel("Unreadable runs", "No run is let in meanwhile.", "osremed_runs_damaged", "stat", width=4, bad_from=1),
    Panel(
        "Undecided events",
        "The dispatcher is behind or away.",
        "osremed_intake_undecided",
        "stat",
        width=4,
        bad_from=50,
    ),
    Panel("Messages waiting", "A target does not answer.", "sum(osremed_notify_waiting)", "stat", width=4, bad_from=10),
    Panel("Messages given up", "Somebody was not told.", "sum(osremed_notify_given_up)", "stat", width=4, bad_from=1),
    Panel("Runs by state", "On disk now.", "sum by (state) (osremed_runs)", legend="{{state}}"),
    Panel("Runs by runbook", "On disk now.", "sum by (runbook) (osremed_runs)", legend="{{runbook}}"),
    Panel(
        "Kept of what acted",
        "Share of changes that were verified and kept, of the last 30 days.",
        "osremed_runs_kept / (osremed_runs_acted > 0)",
        legend="{{runbook}}",
    ),
    Panel("Came back within a day", "Kept, and needed again.", "osremed_runs_recurred", legend="{{runbook}}"),
    Panel("Findings", "What the evidence named.", "sum by (finding) (osremed_run_findings)", legend="{{finding}}"),
    Panel("Hosts by memory level", "As they told last.", "osremed_hosts", legend="{{level}}"),
    Panel("Interventions", "The ten hosts with most of them.", "topk(10, osremed_interventions)", legend="{{host}}"),
    Panel(
        "Processes ended", "The ten hosts with most of them.", "topk(10, osremed_processes_ended)", legend="{{host}}"
    ),
)


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": _HIGH if panel.kind == "timeseries" else _HIGH // 2},
        "fieldConfig": {"defaults": {"min": 0, "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []},
        "targets": [{"refId": "A", "datasource": _SOURCE, "expr": panel.query, "legendFormat": panel.legend}],
    }


def dashboard() -> dict[str, Any]:
    """The document for Grafana's import; it asks which Prometheus to use."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(PANELS, start=1):
        made = _panel(number, panel, x, y)
        panels.append(made)
        x += panel.width
        if x >= _WIDE:
            x, y = 0, y + made["gridPos"]["h"]
    return {
        "uid": "osremed",
        "title": "osremed",
        "tags": ["osremed"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }
