"""What Prometheus scrapes, read with Prometheus' own parser; and the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from osremed.console.dashboard import PANELS, dashboard
from osremed.console.metrics import METRICS, Seen, exposition
from osremed.core.event import Event
from osremed.notify.spool import Waiting
from osremed.runbook.stats import _METRICS as GRADED
from tests.support.console_state import HOSTILE, ROOT


def _samples(text):
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def _seen(**given):
    plain = {"runs": (), "damaged": 0, "interventions": (), "levels": (), "undecided": 0, "targets": (), "now_ns": 1}
    return Seen(**{**plain, **given})


def test_the_console_tells_runs_findings_interventions_and_what_waits(ask, kept):
    answer = ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = _samples(answer.text)
    for state in ("SUCCEEDED", "UNDONE", "AWAITING_APPROVAL"):
        assert found["osremed_runs", (("runbook", "near-oom"), ("state", state))] == 1
    assert found["osremed_interventions", (("host", "web-1"),)] == 1
    assert found["osremed_processes_ended", (("host", "web-2"),)] == 1
    assert found["osremed_hosts", (("level", "critical"),)] == 1
    assert found["osremed_intake_undecided", ()] == 4
    assert found["osremed_runs_kept", (("runbook", "near-oom"),)] == 1
    assert found["osremed_runs_time_saved_seconds", (("runbook", "near-oom"),)] == 20 * 60


def test_metrics_want_a_token(client):
    assert client.get("/metrics").status_code == 401


def test_names_of_hosts_are_labels_and_never_lines():
    name = 'x"} 1\nosremed_runs_damaged 99\n' + HOSTILE
    text = exposition(_seen(interventions=(Event("e", "memory.near_oom", name, 1, {}),))).decode()
    found = _samples(text)
    assert found["osremed_interventions", (("host", name),)] == 1
    assert found["osremed_runs_damaged", ()] == 0


def test_what_nobody_can_say_is_left_out_and_not_0():
    assert ("osremed_intake_undecided", ()) not in _samples(exposition(_seen(undecided=None)).decode())
    targets = (Waiting("ops", 3, 1),)
    assert _samples(exposition(_seen(targets=targets)).decode())["osremed_notify_waiting", (("target", "ops"),)] == 3


def test_every_metric_has_a_help_and_no_name_is_told_twice(ask, kept):
    text = ask("GET", "/metrics").text
    helped = re.findall(r"^# HELP (\S+)", text, re.MULTILINE)
    assert len(helped) == len(set(helped))
    assert set(METRICS) <= set(helped)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_asks_for_metrics_that_there_are_by_labels_they_have(panel):
    known = {
        **{name: labels for name, (_, labels) in METRICS.items()},
        **{f"osremed_runs_{n}": ("runbook",) for n in GRADED},
    }
    names = re.findall(r"osremed_[a-z_]+", panel.query)
    assert names
    assert set(names) <= set(known)
    asked = re.findall(r"{{(\w+)}}", panel.legend) + re.findall(r"by \((\w+)\)", panel.query)
    assert all(label in known[name] for label in asked for name in names)


def test_the_panels_lie_side_by_side_and_never_on_one_another():
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(PANELS)


def test_the_dashboard_in_the_docs_is_the_one_the_verb_prints():
    assert json.loads((ROOT / "docs/reference/grafana.json").read_text()) == dashboard()
