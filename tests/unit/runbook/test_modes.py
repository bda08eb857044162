"""In suggest mode a person is asked before the first change, whatever the steps say; in auto only where a step asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput
from osremed.runbook.approvals import write_approval
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.catalog import CatalogEntry, load_entry
from osremed.runbook.guardpolicy import parse_guard_policy, restrictions
from osremed.runbook.guards import Situation, check_guards
from osremed.runbook.lint import lint_text
from osremed.runbook.model import RunState
from osremed.runbook.modes import mode_of
from osremed.runbook.operate import Operator, drive
from osremed.runbook.preview import preview
from osremed.runbook.store import RunStore
from osremed.runbook.text import parse_text
from tests.support.acting import POLICY, acts
from tests.unit.runbook.conftest import make_event, make_run
from tests.unit.spoken import spoken

ROOT = Path(__file__).resolve().parents[3]
SOURCE = (ROOT / "runbooks/near-oom/runbook.yaml").read_text()
AUTO = SOURCE.replace("\non:\n", "\nmode: auto\n\non:\n", 1)
BARE = SOURCE.replace("    approval: {required: risk >= 'high', timeout: 10m, on_timeout: deny}\n", "")
CASE = load_case(str(ROOT / "runbooks/near-oom/cases/policy-too-low.yaml")).given
GROUPS = {"all": frozenset({"node-1", "db-1"}), "db": frozenset({"db-1"})}
SUGGEST = """\
apiVersion: osremed/v1
kind: GuardPolicy
metadata: {name: careful, title: By hand, owners: [dba]}
hosts: db
mode: suggest
"""


def entry_of(text):
    content = text.encode()
    book, errors = lint_text(parse_text(content, "near-oom/runbook.yaml"))
    assert errors == ()
    return CatalogEntry(book, content, "d" * 64, "near-oom/runbook.yaml")


def policy(text, name):
    return parse_guard_policy(text.encode(), f"policies/{name}.yaml")


def told(runbook, *policies, host="node-1"):
    return mode_of(runbook, restrictions(policies, GROUPS, host, runbook.name))


def operator_on(tmp_path, pause=None, **more):
    clock = FakeClock()

    async def time_goes_by(seconds):
        clock.advance(seconds)

    store = RunStore(str(tmp_path / "runs"))
    return Operator(ReplayedHost(CASE), store, clock, frozenset({"node-1"}), pause=pause or time_goes_by, **more)


def run_of(where, entry):
    opened = where.store.create(make_event(), entry, where.clock)
    try:
        return asyncio.run(drive(where, opened, entry.runbook))
    finally:
        opened.close()


def test_a_runbook_that_says_nothing_asks_though_its_step_does_not(tmp_path):
    run = run_of(operator_on(tmp_path), entry_of(SOURCE))
    assert (run.state, run.acted) == (RunState.REFUSED, False)
    (step,) = run.plan.steps
    assert step.approval.why == "fastoom_policy: suggest mode of the runbook"
    assert any(each.guard == "mode" and "a person is asked" in each.detail for each in run.guards)


def test_once_somebody_agrees_it_acts(tmp_path):
    async def agree(_seconds):
        store = where.store
        (run_id,) = store.run_ids()
        run = store.load(run_id)[0]
        assert run.reason == "approval needed: fastoom_policy: suggest mode of the runbook"
        write_approval(store.of(run_id), run, approved=True, by="ana", reason="looks right")

    where = operator_on(tmp_path, agree)
    run = run_of(where, entry_of(SOURCE))
    assert (run.state, run.approved_by) == (RunState.SUCCEEDED, "ana")


def test_in_auto_mode_nobody_is_asked_where_the_step_does_not_ask(tmp_path):
    run = run_of(operator_on(tmp_path), entry_of(AUTO))
    assert (run.state, run.approved_by) == (RunState.SUCCEEDED, "policy: no approval needed")
    careful = AUTO.replace("risk >= 'high'", "risk >= 'low'")
    asked = run_of(operator_on(tmp_path / "careful"), entry_of(careful))
    assert asked.state is RunState.REFUSED
    assert asked.plan.steps[0].approval.why == "fastoom_policy: risk >= 'low'"


def test_a_policy_lets_a_group_act_and_the_reason_names_it(tmp_path):
    run = run_of(operator_on(tmp_path, restrict=acts), entry_of(SOURCE))
    assert run.state is RunState.SUCCEEDED
    said = next(each.detail for each in run.guards if each.guard == "mode")
    assert said == "auto mode of policy acts: it asks only where a step does"


def test_of_several_policies_the_most_careful_holds_and_only_on_its_group():
    book = entry_of(SOURCE).runbook
    everywhere = policy(POLICY.format(hosts="all", runbooks="near-oom"), "acts")
    careful = policy(SUGGEST, "careful")
    assert told(book, everywhere, careful).auto
    assert told(book, everywhere, careful, host="db-1") == told(book, careful, everywhere, host="db-1")
    assert told(book, everywhere, careful, host="db-1").why == "suggest mode of policy careful"
    assert not told(book, policy(POLICY.format(hosts="all", runbooks="jitter"), "acts")).auto


def test_a_policy_holds_a_runbook_back_that_would_act_by_itself():
    book = entry_of(AUTO).runbook
    assert told(book, policy(SUGGEST, "careful"), host="db-1").auto is False
    assert told(book, policy(SUGGEST, "careful")).auto is True


def test_policies_that_cannot_be_told_free_nothing():
    assert mode_of(entry_of(AUTO).runbook, (), "policies/x.yaml: broken").auto is False


def test_a_policy_that_frees_names_what_it_frees_and_one_that_says_nothing_is_none():
    with pytest.raises(BadInput, match="names the `runbooks`"):
        policy(SUGGEST.replace("mode: suggest", "mode: auto"), "careful")
    with pytest.raises(BadInput, match="neither `guards` nor `mode`"):
        policy(SUGGEST.replace("mode: suggest\n", ""), "careful")
    with pytest.raises(BadInput, match=r"careful\.yaml:5:"):
        policy(SUGGEST.replace("mode: suggest", "mode: full"), "careful")


def test_rules_that_became_more_careful_meanwhile_stop_a_run_that_nobody_was_asked_about(tmp_path):
    said = iter([acts("node-1", "near-oom")] * 3)  # twice to let it in, once to make its plan
    run = run_of(operator_on(tmp_path, restrict=lambda _host, _book: next(said, ())), entry_of(SOURCE))
    assert (run.state, run.acted) == (RunState.REFUSED, False)
    assert run.reason == "mode: suggest mode of the runbook by now, and nobody was asked"


def test_a_step_that_says_no_time_has_ten_minutes_and_less_where_events_age_sooner(tmp_path):
    run = run_of(operator_on(tmp_path), entry_of(BARE))
    assert run.plan.steps[0].approval.timeout_s == 600
    sooner = run_of(operator_on(tmp_path / "2"), entry_of(BARE.replace("max_event_age: 15m", "max_event_age: 6m")))
    assert sooner.plan.steps[0].approval.timeout_s == 240


def test_a_chain_whose_answer_may_come_too_late_is_a_fault():
    text = BARE.replace("max_event_age: 15m", "max_event_age: 3m")
    second = text.replace(
        "verify:\n",
        "  - when: finding('policy-too-low')\n    action: fastoom_policy\n"
        "    with: {sensitivity: high}\n    confirm_within: 5m\n\nescalate: call ana\n\nverify:\n",
        1,
    )
    _, errors = lint_text(parse_text(second.encode(), "near-oom/runbook.yaml"))
    assert [each.what for each in errors] == ["the last remedy would come too late to act"]
    auto = second.replace("\non:\n", "\nmode: auto\n\non:\n", 1)
    assert lint_text(parse_text(auto.encode(), "near-oom/runbook.yaml"))[1] == ()


def test_a_runbook_that_only_looks_asks_nobody():
    looks = load_entry(str(ROOT / "runbooks/lock-contention/runbook.yaml")).runbook
    run = replace(make_run(9, "node-1", looks.name), looks_only=True)
    now = Situation(run, looks, (), 40, True, run.raised_ns)
    (said,) = (each for each in check_guards(now) if each.guard == "mode")
    assert (said.passed, said.detail) == (True, "it looks and changes nothing")


def test_a_dry_run_says_that_a_person_would_be_asked(tmp_path):
    with spoken("en"):
        shown = asyncio.run(preview(operator_on(tmp_path), entry_of(SOURCE).runbook, make_event()))
    reason = "approval needed: fastoom_policy: suggest mode of the runbook"
    assert shown.document["reason"] == reason
    assert shown.text.splitlines()[-1] == f"a run would wait for a yes, then act as shown; {reason}"


def test_an_action_of_high_risk_is_a_fault_in_auto_mode_unless_somebody_is_asked():
    text = (ROOT / "runbooks/memory-leak/runbook.yaml").read_text().replace("\non:\n", "\nmode: auto\n\non:\n", 1)
    assert lint_text(parse_text(text.encode(), "memory-leak/runbook.yaml"))[1] == ()
    bare = text.replace("    approval: {required: risk >= 'high', timeout: 10m, on_timeout: deny}\n", "")
    assert bare != text
    (error,) = lint_text(parse_text(bare.encode(), "memory-leak/runbook.yaml"))[1]
    assert error.what == "service_restart is of high risk and no approval is asked for"
