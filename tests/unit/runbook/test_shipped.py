"""The shipped runbooks: what starts them is told by a daemon, and none of them changes a host unasked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from osremed.agent import collect, probes
from osremed.core.clock import FakeClock
from osremed.core.units import parse_duration_s
from osremed.fastoom import levels, record
from osremed.hotspot import rules, trapwatch
from osremed.panorama import alarms
from osremed.runbook.actions import COLLECTORS, PROBES
from osremed.runbook.cases import _event, _run, case_files, load_case, run_case
from osremed.runbook.catalog import load_catalog
from osremed.runbook.expressions import Risk, condition_holds
from osremed.runbook.model import RunState

ROOT = Path(__file__).resolve().parents[3]
CATALOG = load_catalog(str(ROOT / "runbooks"))
TOLD = {alarms.GROWTH, alarms.PAGE_CACHE, alarms.DYING, trapwatch.EVENT, levels.EVENT, record.EVENT, "latency.jitter"}
ASKING = (
    "page-cache-hog", "memory-leak", "dying-cgroups", "cpu-throttling", "proc-read-storm", "lock-contention",
    "blocking-io", "disk-fsync-storm",
)  # fmt: skip


def test_what_starts_a_runbook_is_told_by_a_daemon():
    wanted = {trigger.event for entry in CATALOG.values() for trigger in entry.runbook.on}
    assert {name for name in wanted if not name.startswith("gpu.")} <= TOLD


def test_traps_that_runbooks_wait_for_are_those_of_the_rules():
    """By the words of the rules' own file: a trap that is renamed there would start nothing any more."""
    source = Path(rules.__file__).read_text()
    for name in ASKING:
        text = (ROOT / "runbooks" / name / "runbook.yaml").read_text()
        for trap in re.findall(r"'([a-z-]+)'", " ".join(re.findall(r"event\.trap (?:==|in) (.*?) and", text))):
            assert f'"{trap}"' in source, trap


@pytest.mark.parametrize("name", CATALOG)
def test_nothing_is_changed_unless_somebody_agrees(name):
    assert CATALOG[name].runbook.mode == "suggest"


@pytest.mark.parametrize("name", CATALOG)
def test_where_a_site_lets_it_act_by_itself_what_is_of_high_risk_still_asks(name):
    for remedy in CATALOG[name].runbook.remediate:
        assert remedy.approval is not None
        assert condition_holds(remedy.approval.required, {"risk": Risk("high")})


@pytest.mark.parametrize("name", ASKING)
def test_cases_have_what_is_done_what_is_not_and_what_could_not_be_seen(name):
    cases = [load_case(path) for path in case_files(CATALOG[name])]
    states = {case.expect.state for case in cases}
    assert {"REFUSED"} <= states
    if CATALOG[name].runbook.remediate:
        assert {"SUCCEEDED"} <= states
        assert states & {"UNDONE", "UNDO_INCOMPLETE"}


CHANGING = [name for name, entry in CATALOG.items() if not entry.runbook.looks_only]


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_hosts_bounds_how_many_and_watches_what_could_get_worse(name):
    book = CATALOG[name].runbook
    assert book.guards.blast_radius is not None
    assert book.watch


@pytest.mark.parametrize("name", CATALOG)
def test_what_changes_hosts_says_what_a_person_takes_for_it_and_its_readme_that_it_is_an_estimate(name):
    by_hand_s = CATALOG[name].runbook.metadata.manual_time
    assert (by_hand_s is not None) == (name in CHANGING)
    readme = Path(CATALOG[name].path).with_name("README.md").read_text()
    stated = re.findall(r"^- Saves: `manual_time: (\S+)`, an estimate", readme, re.MULTILINE)
    assert [parse_duration_s(each) for each in stated] == ([by_hand_s] if by_hand_s else [])


@pytest.mark.parametrize("name", [name for name in CHANGING if name not in ("gpu-hang", "gpu-xid")])
def test_a_case_shows_that_what_helps_is_not_kept_where_something_else_gets_worse(name):
    """Not of the two whose alerts are both the proof and what is watched."""
    entry = CATALOG[name]
    (path,) = (path for path in case_files(entry) if path.endswith("/others-get-worse.yaml"))
    assert run_case(entry, path).differences == ()
    case = load_case(path)
    (watched,) = case.given.watched
    kept = {**case.given.samples, watched: [(0.0, case.given.watched[watched]), (60.0, case.given.watched[watched])]}
    better = case.model_copy(update={"given": case.given.model_copy(update={"samples": kept})})
    run = _run(entry, _event(better.given.event, "case", FakeClock().wall_ns(), path), better.given, FakeClock())
    assert run.state is RunState.SUCCEEDED, run.reason


def test_the_engine_and_the_host_name_the_same_collectors_and_probes():
    assert {name: set(each.arguments) for name, each in collect.COLLECTORS.items()} == {
        name: set(arguments) for name, arguments in COLLECTORS.items()
    }
    assert {name: set(each.arguments) for name, each in probes.PROBES.items()} == {
        name: set(arguments) for name, arguments in PROBES.items()
    }
