"""What proves a change may depend on the evidence from before it; a proof nobody can decide on is none."""

from __future__ import annotations

import asyncio

import pytest

from osremed.core.action import Outcome, Status
from osremed.core.clock import FakeClock
from osremed.runbook import verifying
from osremed.runbook.catalog import CatalogEntry
from osremed.runbook.expressions import condition_holds
from osremed.runbook.lint import lint_text
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from osremed.runbook.text import parse_text
from tests.support.acting import acts
from tests.support.module_executor import evidence
from tests.unit.runbook.conftest import make_event

BOOK = """
apiVersion: osremed/v1
kind: Runbook
metadata: {name: proofs, title: Two proofs, owners: [sre]}
on: [{event: memory.near_oom}]
guards: {cooldown: 1m, concurrency: {per_host: 1, fleet: 1}, storm: {max_runs: 9, per: 1m}}
collect: [{fastoom: {}}]
diagnose: [{finding: asked, when: "true", summary: somebody asked}]
remediate:
  - when: finding('asked')
    action: sysctl
    with: {settings: {vm.swappiness: 10}}
    confirm_within: 5m
verify:
  - probe: memory.held_ratio
    when: fastoom.kind == 'one'
    with: {scope: "{{ fastoom.scope }}", of: 1MiB}
    expect: value < 1
    within: 2s
    for: 0s
  - probe: memory.free_ratio
    when: fastoom.kind == 'two'
    expect: value > 0
    within: 2s
    for: 0s
"""


class Host:
    """Its evidence is `told`; `probed` are the probes it was asked, with their arguments."""

    def __init__(self, told):
        self.told, self.probed = told, []

    def run(self, call):
        name = call.module.rpartition(".")[2]
        if name == "evidence":
            return Outcome(Status.OK, result=evidence({"fastoom": self.told}))
        if name == "probe":
            self.probed.append((call.args["name"], dict(call.args["args"])))
            return Outcome(Status.OK, result={"verdict": "HOLDS", "samples": [{"at_s": 0.0, "value": 0.5}]})
        if name == "undo":
            result = {"result": call.args["state"].replace("reverted", "restored")}
            return Outcome(Status.OK, changed=True, result=result)
        saw = {"expect": {"vm.swappiness": "60"}}
        return Outcome(
            Status.OK, changed=True, result={"previous": {"settings": {"vm.swappiness": "60"}}, "as_seen": saw}
        )


def run_with(tmp_path, told):
    runbook, errors = lint_text(parse_text(BOOK.encode(), "rb.yaml"))
    assert not errors, [str(error) for error in errors]
    host = Host(told)
    where = Operator(host, RunStore(str(tmp_path)), FakeClock(), frozenset({"node-1"}), restrict=acts)
    opened = where.store.create(make_event(), CatalogEntry(runbook, BOOK.encode(), "0" * 64, "rb.yaml"), where.clock)
    try:
        return asyncio.run(drive(where, opened, runbook)), host
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("told", "probed"),
    [
        ({"kind": "one", "scope": "/web"}, [("memory.held_ratio", {"scope": "/web", "of": "1MiB"})]),
        ({"kind": "two"}, [("memory.free_ratio", {})]),
    ],
)
def test_only_what_applies_is_asked_with_what_was_seen_before(tmp_path, told, probed):
    run, host = run_with(tmp_path, told)
    assert (run.state, host.probed) == (RunState.SUCCEEDED, probed)


def test_where_nothing_applies_nothing_is_proven_and_the_change_is_taken_back(tmp_path):
    run, host = run_with(tmp_path, {"kind": "three"})
    assert (run.state, host.probed) == (RunState.UNDONE, [])
    assert run.reason == "nothing was verified"


def test_a_condition_without_a_value_is_no_proof(tmp_path):
    run, host = run_with(tmp_path, {})
    assert (run.state, host.probed) == (RunState.UNDONE, [])
    assert "UNKNOWN" in run.reason


def test_a_name_that_is_not_collected_is_a_mistake_in_the_runbook():
    text = BOOK.replace("fastoom.kind == 'two'", "panorama.kind == 'two'").encode()
    _runbook, errors = lint_text(parse_text(text, "rb.yaml"))
    assert ["panorama" in error.what for error in errors] == [True]


def test_a_condition_is_asked_once(tmp_path, monkeypatch):
    asked = []

    def counted(expression, data):
        asked.append(expression)
        return condition_holds(expression, data)

    monkeypatch.setattr(verifying, "condition_holds", counted)
    run_with(tmp_path, {"kind": "one", "scope": "node"})
    assert sorted(asked) == ["fastoom.kind == 'one'", "fastoom.kind == 'two'"]
