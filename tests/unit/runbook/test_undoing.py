"""A kept run is taken back long after: only what is still its own, only when another person says yes, and once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from osremed.core.action import Outcome, Status
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput
from osremed.runbook.approvals import write_approval
from osremed.runbook.catalog import load_entry
from osremed.runbook.controls import Controls, Freeze
from osremed.runbook.lint import lint_text
from osremed.runbook.model import Admitted, Finished, Recovered, RunState, StepUndo, Undone
from osremed.runbook.preview import preview_undo
from osremed.runbook.state import Effect, ImpossibleHappening, advance
from osremed.runbook.store import RunStore, run_as_json
from osremed.runbook.text import parse_text
from osremed.runbook.undoing import steps_back
from tests.support.kept import ask, drive_answered, kept_run, operator_on
from tests.support.module_executor import ModuleExecutor
from tests.unit.runbook.conftest import ROOT, make_event, make_run

OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'


@pytest.fixture
def host(tmp_path):
    root = tmp_path / "host"
    root.mkdir()
    (root / "fastoom.json").write_bytes(OLD)
    return root


@pytest.fixture
def where(tmp_path, host):
    return operator_on(tmp_path / "runs", host, clock=FakeClock())


@pytest.fixture
def two_steps():
    """A policy and a cordon that both stay."""
    entry = load_entry(str(ROOT / "tests/crash/cordons.yaml"))
    text = entry.content.split(b"after_success:")[0]
    runbook, errors = lint_text(parse_text(text, "two.yaml"))
    assert errors == ()
    return replace(entry, runbook=runbook, content=text)


def policy(host):
    return (host / "fastoom.json").read_bytes()


def takes_work(host):
    return not json.loads((host / "node.json").read_text())["spec"]["unschedulable"]


def test_what_was_changed_is_as_it_was_byte_for_byte_the_last_step_first(where, host, two_steps):
    old = kept_run(where, two_steps, make_event())
    assert (policy(host) == OLD, takes_work(host)) == (False, False)
    run = drive_answered(where, ask(where, old))
    assert (run.state, run.reason) == (RunState.SUCCEEDED, f"run {old.run_id} was taken back")
    assert [(undo.action, undo.result) for undo in run.undo] == [
        ("gpu_cordon", "restored"),
        ("fastoom_policy", "restored"),
    ]
    assert (policy(host), takes_work(host)) == (OLD, True)
    assert (run.approved_by, run.requested_by) == ("ana", "bob")


def test_long_after_the_host_has_forgotten_and_the_journal_has_not(where, host, entry):
    old = kept_run(where, entry, make_event())
    where.clock.advance(90 * 86400)
    fresh = operator_on(where.store.directory, host, clock=where.clock)
    assert drive_answered(fresh, ask(fresh, fresh.store.load(old.run_id)[0])).state is RunState.SUCCEEDED
    assert policy(host) == OLD


def test_each_of_the_two_runs_names_the_other_and_the_old_journal_stays_as_it_was(where, entry):
    old = kept_run(where, entry, make_event())
    lines = where.store.happenings(old.run_id)
    run = drive_answered(where, ask(where, old))
    for store in (where.store, RunStore(where.store.directory)):
        assert store.load(old.run_id)[0].undone_by == run.run_id
        assert {each.run_id: (each.undoes, each.undone_by) for each in store.runs()[0]} == {
            old.run_id: ("", run.run_id),
            run.run_id: (old.run_id, ""),
        }
    assert run_as_json(where.store.load(run.run_id)[0])["undoes"] == old.run_id
    assert where.store.happenings(old.run_id) == lines


def test_who_asked_does_not_allow_it(where, host, entry):
    old = kept_run(where, entry, make_event())
    changed = policy(host)
    run = drive_answered(where, ask(where, old, by="ana"), by="ana")
    assert (run.state, policy(host)) == (RunState.REFUSED, changed)
    assert "somebody else approves it" in run.reason


@pytest.mark.parametrize("approved", [True, False])
def test_a_run_is_taken_back_once_and_a_refusal_may_be_asked_anew(where, host, entry, approved):
    old = kept_run(where, entry, make_event())
    run = drive_answered(where, ask(where, old), approved=approved)
    again = ask(where, old)
    if approved:
        assert again is None
        return
    assert run.state is RunState.REFUSED
    assert policy(host) != OLD
    assert drive_answered(where, again).state is RunState.SUCCEEDED
    assert where.store.load(old.run_id)[0].undone_by == again.run.run_id != run.run_id


def test_while_one_is_under_way_there_is_no_second_one(where, entry):
    old = kept_run(where, entry, make_event())
    first = ask(where, old)
    assert ask(where, old) is None
    first.close()


def test_what_somebody_else_changed_since_is_left_and_so_is_all_the_rest(where, host, two_steps):
    old = kept_run(where, two_steps, make_event())
    theirs = OLD.replace(b"low", b"high")
    (host / "fastoom.json").write_bytes(theirs)
    run = drive_answered(where, ask(where, old))
    assert (run.state, run.undo[0].result) == (RunState.UNDO_INCOMPLETE, "conflict")
    assert "is left as it is" in run.reason
    assert "changed by someone else" in run.reason
    assert (policy(host), takes_work(host)) == (theirs, False), "nothing at all was touched"
    assert not run.approved_by, "nobody was asked about what cannot be done"
    (host / "fastoom.json").write_bytes(OLD)  # a person has seen to it, and asks anew
    anew = drive_answered(where, ask(where, old))
    assert (anew.state, [undo.action for undo in anew.undo]) == (RunState.SUCCEEDED, ["gpu_cordon"])
    assert where.store.load(old.run_id)[0].undone_by == anew.run_id


def test_what_somebody_changes_while_a_person_thinks_is_left_too(where, host, entry):
    old = kept_run(where, entry, make_event())
    theirs = OLD.replace(b"low", b"high")
    run = drive_answered(where, ask(where, old), meanwhile=lambda: (host / "fastoom.json").write_bytes(theirs))
    assert (run.state, run.undo[0].result) == (RunState.UNDO_INCOMPLETE, "conflict")
    assert policy(host) == theirs


def test_what_somebody_took_back_by_hand_leaves_nothing_to_do(where, host, entry):
    old = kept_run(where, entry, make_event())
    (host / "fastoom.json").write_bytes(OLD)
    run = drive_answered(where, ask(where, old))
    assert run.state is RunState.REFUSED
    assert "already as it was before" in run.reason


def test_a_module_that_says_it_did_is_not_believed(tmp_path, host, entry):
    class Liar(ModuleExecutor):
        def run(self, call):
            if "content_b64" in call.args and not call.check:
                return Outcome(Status.OK, changed=True)
            return super().run(call)

    where = operator_on(tmp_path / "runs", host, clock=FakeClock(), executor=Liar(str(host), helps=True))
    run = drive_answered(where, ask(where, kept_run(where, entry, make_event())))
    assert run.state is RunState.UNDO_INCOMPLETE
    assert "not proven: it is not as it was before" in run.reason


@pytest.mark.parametrize("scope", [{}, {"runbook": "near-oom"}, {"host": "node-1"}])
def test_a_freeze_holds_it_back(where, host, entry, scope):
    old = kept_run(where, entry, make_event())
    changed = policy(host)
    frozen = Controls(freezes=(Freeze(**scope, by="eve", reason="audit", since_ns=0),))
    path = host.parent / "controls.json"
    path.write_text(frozen.model_dump_json())
    run = drive_answered(replace(where, controls=str(path)), ask(where, old))
    assert (run.state, policy(host)) == (RunState.REFUSED, changed)
    assert run.reason.startswith("freeze: ")


def test_it_waits_for_nothing_that_bounds_a_runbook_but_for_another_run_on_the_host(where, host, entry):
    old = kept_run(where, entry, make_event())
    other = where.store.create(make_event(2, at_ns=where.clock.wall_ns()), entry, where.clock)
    other.record(Admitted(()), where.clock)
    where.clock.advance(1)
    run = drive_answered(where, ask(where, old))
    assert (run.state, run.reason.split(":")[0]) == (RunState.REFUSED, "target-busy")
    other.close()


def test_a_host_without_evidence_is_put_back_all_the_same(tmp_path, host, entry):
    where = operator_on(tmp_path / "runs", host, clock=FakeClock())
    old = kept_run(where, entry, make_event())

    class Blind(ModuleExecutor):
        def _evidence(self, _args, _check):
            raise OSError("no agent")

    blind = operator_on(tmp_path / "runs", host, clock=where.clock, executor=Blind(str(host), helps=True))
    run = drive_answered(blind, ask(blind, old))
    assert run.state is RunState.SUCCEEDED
    assert "no agent" in run.gaps["evidence"]


def test_what_could_not_be_taken_back_at_once_can_be_later(tmp_path, host, entry):
    class Stuck(ModuleExecutor):
        def _undo(self, args, check):
            raise OSError("the disk is full")

    where = operator_on(tmp_path / "runs", host, clock=FakeClock(), executor=Stuck(str(host), helps=False))
    old = drive_answered(where, where.store.create(make_event(), entry, where.clock))
    assert (old.state, policy(host) == OLD) == (RunState.UNDO_INCOMPLETE, False)
    well = operator_on(tmp_path / "runs", host, clock=where.clock)
    assert drive_answered(well, ask(well, old)).state is RunState.SUCCEEDED
    assert policy(host) == OLD


def test_a_dry_run_shows_what_would_be_taken_back_and_changes_and_keeps_nothing(where, host, entry):
    old = kept_run(where, entry, make_event())
    changed, runs = policy(host), where.store.runs()
    shown = asyncio.run(preview_undo(where, old))
    assert not shown.refused
    assert "would take back fastoom_policy" in shown.text
    assert '"low"' in shown.text
    assert (policy(host), where.store.runs()) == (changed, runs)
    (host / "fastoom.json").write_bytes(OLD.replace(b"low", b"high"))
    shown = asyncio.run(preview_undo(where, old))
    assert shown.refused
    assert "CONFLICT fastoom_policy" in shown.text


def test_what_cannot_be_taken_back_is_refused_whole(where, entry):
    old = kept_run(where, entry, make_event())
    once = replace(old.plan.steps[0], action="page_cache", irreversible="dropped cache fills again")
    mixed = replace(old, plan=replace(old.plan, steps=(old.plan.steps[0], once)), applied=old.applied * 2, attempted=2)
    with pytest.raises(BadInput, match=r"page_cache of run .* cannot be taken back: dropped cache fills again"):
        steps_back(mixed)


def test_a_step_after_success_that_cannot_be_taken_back_is_refused(where, host):
    old = kept_run(where, load_entry(str(ROOT / "tests/crash/cordons.yaml")), make_event())
    with pytest.raises(BadInput, match=r"gpu_drain of run .* cannot be taken back: nothing says how it was before"):
        steps_back(old)
    same = replace(old, finished=(Finished(0, Outcome(Status.OK)),))
    assert [step.action for step in steps_back(same)] == ["gpu_cordon", "fastoom_policy"]


@pytest.mark.parametrize("state", [RunState.REFUSED, RunState.UNDONE, RunState.VERIFYING])
def test_only_a_change_that_is_still_there_can_be_taken_back(state):
    with pytest.raises(BadInput, match="there is nothing to take back"):
        steps_back(replace(make_run(), state=state))


def test_an_undo_is_not_taken_back(where, entry):
    run = drive_answered(where, ask(where, kept_run(where, entry, make_event())))
    with pytest.raises(BadInput, match="took another one back itself"):
        steps_back(run)


def test_after_a_crash_while_taking_back_it_goes_on_taking_back(where, entry):
    undoing = replace(make_run(), undoes="a" * 16, state=RunState.UNDOING)
    run, effect = advance(undoing, Recovered("killed"), 1)
    assert (run.state, effect) == (RunState.UNDOING, Effect.UNDO)


def test_no_other_run_can_end_before_it_has_applied_anything():
    run = replace(make_run(), state=RunState.COLLECTING)
    with pytest.raises(ImpossibleHappening, match="nothing was applied"):
        advance(run, Undone((StepUndo("a", "conflict"),)), 1)


def test_it_may_be_denied_by_who_asked(where, entry):
    opened = ask(where, kept_run(where, entry, make_event()), by="bob")
    run = drive_answered(where, opened, approved=False, by="bob")
    assert run.reason == "approval: denied by bob: seen"
    with pytest.raises(BadInput, match="awaits no approval"):
        write_approval(where.store.of(run.run_id), run, approved=True, by="eve", reason="")
