"""What the engine asks of an action: what it saw, and, of one that cannot be undone, no promise."""

from __future__ import annotations

import asyncio

import pytest

from osremed.core.action import Outcome, Status
from osremed.core.clock import FakeClock
from osremed.runbook.actions import ACTIONS
from osremed.runbook.catalog import CatalogEntry
from osremed.runbook.lint import lint_text
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from osremed.runbook.text import parse_text
from tests.support.acting import acts
from tests.support.module_executor import evidence
from tests.unit.runbook.conftest import make_event

HEAD = """
apiVersion: osremed/v1
kind: Runbook
metadata: {name: mixed, title: One of each, owners: [sre]}
mode: auto
on: [{event: memory.near_oom}]
guards: {cooldown: 1m, concurrency: {per_host: 1, fleet: 1}, storm: {max_runs: 9, per: 1m}}
collect: [{fastoom: {}}]
diagnose: [{finding: asked, when: "true", summary: somebody asked}]
verify: [{probe: memory.available_ratio, expect: value > 0.1, within: 2s, for: 0s}]
remediate:
"""
LIMIT = """
  - when: finding('asked')
    action: sysctl
    with: {settings: {vm.swappiness: 10}}
    confirm_within: 5m
"""
SIGNAL = """
  - when: finding('asked')
    action: proc_signal
    with: {pid: 7, start_time_ticks: 9}
    irreversible: the process ends
    approval: {required: "false", timeout: 30s}
"""


def entry_of(text):
    runbook, errors = lint_text(parse_text(text.encode(), "rb.yaml"))
    assert not errors, [str(error) for error in errors]
    return CatalogEntry(runbook, text.encode(), "0" * 64, "rb.yaml")


class Host:
    """Answers as the modules do. `told`: module -> what it says beyond the usual; `asked`: the real calls."""

    def __init__(self, *, holds=True, **told):
        self.holds, self.told, self.asked = holds, told, []

    def run(self, call):
        name = call.module.rpartition(".")[2]
        if name == "evidence":
            return Outcome(Status.OK, result=evidence({"fastoom": {}}))
        if name == "probe":
            verdict = "HOLDS" if self.holds else "FAILS"
            return Outcome(Status.OK, result={"verdict": verdict, "samples": [{"at_s": 0.0, "value": 0.5}]})
        if not call.check:
            self.asked.append((name, dict(call.args)))
        if name == "undo":
            return Outcome(
                Status.OK, changed=True, result={"result": call.args["state"].replace("reverted", "restored")}
            )
        if name in self.told and not call.check:
            return self.told[name]
        saw = {"expect": {"vm.swappiness": "60"}} if name == "sysctl" else {}
        previous = {"settings": {"vm.swappiness": "60"}} if name == "sysctl" else {}
        return Outcome(Status.OK, changed=True, result={"previous": previous, "as_seen": saw})


def run_of(tmp_path, text, host):
    where = Operator(host, RunStore(str(tmp_path)), FakeClock(), frozenset({"node-1"}), restrict=acts)
    entry = entry_of(text)
    opened = where.store.create(make_event(), entry, where.clock)
    try:
        return asyncio.run(drive(where, opened, entry.runbook))
    finally:
        opened.close()


def test_the_act_carries_what_the_preview_saw_and_only_what_can_be_undone_a_way_back(tmp_path):
    host = Host()
    run = run_of(tmp_path, HEAD + LIMIT + SIGNAL, host)
    assert run.state is RunState.SUCCEEDED, run.reason
    asked = dict(host.asked)
    assert asked["sysctl"]["expect"] == {"vm.swappiness": "60"}
    assert {"undo_id", "confirm_within"} <= set(asked["sysctl"])
    assert asked["proc_signal"] == {"pid": 7, "start_time_ticks": 9}
    confirmed = [args["id"] for name, args in host.asked if name == "undo"]
    assert confirmed == [asked["sysctl"]["undo_id"]]


def test_an_action_that_does_not_say_what_it_saw_is_refused_before_anything_changes(tmp_path):
    class Blind(Host):
        def run(self, call):
            outcome = super().run(call)
            outcome.result.pop("as_seen", None)
            return outcome

    host = Blind()
    run = run_of(tmp_path, HEAD + LIMIT, host)
    assert (run.state, host.asked) == (RunState.REFUSED, [])
    assert "does not say what it saw" in run.reason


def test_what_cannot_be_undone_is_told_when_the_rest_is_taken_back(tmp_path):
    run = run_of(tmp_path, HEAD + LIMIT + SIGNAL, Host(holds=False))
    assert run.state is RunState.UNDO_INCOMPLETE
    assert [(undo.action, undo.result) for undo in run.undo] == [
        ("proc_signal", "irreversible"),
        ("sysctl", "restored"),
    ]


@pytest.mark.parametrize(
    ("outcome", "result", "state"),
    [
        (Outcome(Status.FAILED, result={"refused": "it is pid 1"}, detail="no"), "nothing_to_do", RunState.UNDONE),
        (Outcome(Status.FAILED, detail="who knows"), "irreversible", RunState.UNDO_INCOMPLETE),
        (Outcome(Status.TIMED_OUT, result={"refused": "x"}), "irreversible", RunState.UNDO_INCOMPLETE),
        (Outcome(Status.UNREACHABLE, detail="gone"), "irreversible", RunState.UNDO_INCOMPLETE),
    ],
)
def test_a_refusal_has_changed_nothing_and_any_other_failure_may_have(tmp_path, outcome, result, state):
    run = run_of(tmp_path, HEAD + LIMIT + SIGNAL, Host(proc_signal=outcome))
    assert [(undo.action, undo.result) for undo in run.undo] == [("proc_signal", result), ("sysctl", "restored")]
    assert run.state is state


def test_what_comes_back_by_itself_leaves_nothing_for_a_person_to_see_to(tmp_path):
    drop = SIGNAL.replace("proc_signal", "page_cache").replace(
        "with: {pid: 7, start_time_ticks: 9}", "with: {paths: [/var/log/old]}"
    )
    run = run_of(tmp_path, HEAD + LIMIT + drop, Host(holds=False))
    assert [(undo.action, undo.result) for undo in run.undo] == [
        ("page_cache", "nothing_to_do"),
        ("sysctl", "restored"),
    ]
    assert run.state is RunState.UNDONE


@pytest.mark.parametrize(("name", "action"), sorted(ACTIONS.items()))
def test_lint_asks_why_of_what_cannot_be_undone_and_refuses_it_of_what_can(name, action):
    step = f"\n  - when: finding('asked')\n    action: {name}\n    approval: {{required: risk > 'low', timeout: 30s}}\n"
    why, confirm = "    irreversible: because\n", "    confirm_within: 5m\n"

    def errors(text):
        return [error.what for error in lint_text(parse_text((HEAD + text).encode(), "rb.yaml"))[1]]

    promised = f"the host cannot take {name} back by itself: `confirm_within` would promise it"
    if action.reversible and not action.recorded:
        assert errors(step) == []
        assert errors(step + confirm) == [promised]
    elif action.reversible:
        assert errors(step + confirm) == []
        assert errors(step + confirm + why) == [f"{name} can be undone"]
        assert errors(step) == [f"{name} changes the host and has no `confirm_within`"]
    else:
        assert errors(step + why) == []
        assert errors(step) == [f"{name} cannot be undone and does not say so"]
        assert errors(step + why + confirm) == [promised]
