"""A step that a person does: waited for as long as it says, answered by somebody with a name, never assumed."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.action import Outcome, Status
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput
from osremed.notify.message import of_run
from osremed.runbook.approvals import write_approval
from osremed.runbook.cases import run_case
from osremed.runbook.controls import Controls, Freeze
from osremed.runbook.lint import lint_text
from osremed.runbook.model import (
    AfterStep,
    Applied,
    Confirmed,
    Decided,
    GuardResult,
    PersonAnswered,
    Plan,
    PlannedStep,
    Recovered,
    RunState,
)
from osremed.runbook.operate import Operator, drive
from osremed.runbook.state import Effect, ImpossibleHappening, advance
from osremed.runbook.store import RunDirectory, RunStore
from osremed.runbook.text import parse_text
from osremed.runbook.ticks import read_tick, write_tick
from osremed.runbook.undoing import steps_back
from tests.support.acting import acts
from tests.unit.runbook.conftest import make_event
from tests.unit.runbook.test_irreversible import HEAD, LIMIT, Host, entry_of
from tests.unit.runbook.test_state import APPROVED, FAILED, HOLDS, OK, START, step, walk

DRAIN = """
  - id: drained
    when: finding('asked')
    action: manual
    with: {instruction: "Drain {{ event.scope }}", take_back: Give the node back}
    timeout: 5m
"""
LOOK = DRAIN.replace("Give the node back", "nothing")
TELL = """
after_success:
  - {if_changed: drained, action: manual, with: {instruction: Tell the team}, timeout: 5m}
"""
_DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(["digest", True, None, 7, "ana"]) for name in ("plan_digest", "done", "by", "words")
    },
)
DEADLINE_NS = 1 + 300 * 10**9


def by_hand(take_back="Give it back"):
    irreversible = "" if take_back == "nothing" else f"a person takes it back: {take_back}"
    args = {"instruction": "Drain n1", "take_back": take_back}
    return PlannedStep("manual", args, "low", 300, 0, irreversible, {}, {}, "a person: Drain n1")


def decided(*steps, escalate="", after=()):
    return [*START, Decided((), Plan(steps, "digest", escalate, after)), APPROVED]


def yes(number=1, **more):
    return PersonAnswered(number, True, "ana", **more)


def no(number=1):
    return PersonAnswered(number, False, "bob", "not today")


def test_the_run_waits_and_goes_on_when_it_is_done():
    run, effect = walk(*decided(by_hand(), step()))
    assert (run.state, effect) == (RunState.AWAITING_PERSON, Effect.ASK)
    assert (run.asked.number, run.asked.instruction, run.asked.deadline_ns) == (1, "Drain n1", DEADLINE_NS)
    run, effect = walk(*decided(by_hand(), step()), yes())
    assert (run.state, effect, run.asked) == (RunState.APPLYING, Effect.APPLY, None)
    run, effect = walk(*decided(by_hand(), step()), yes(), Applied(1, OK), HOLDS, Confirmed(True))
    assert (run.state, run.answered) == (RunState.SUCCEEDED, (yes(),))


def test_a_no_to_the_first_step_refuses_the_run_and_a_later_one_takes_back_what_was_changed():
    run, effect = walk(*decided(by_hand(), step()), no())
    assert (run.state, effect, run.acted) == (RunState.REFUSED, None, False)
    assert "person: bob did not do it: not today" in run.reason
    run, effect = walk(*decided(step(), by_hand()), Applied(0, OK), no(2))
    assert (run.state, effect, run.attempted) == (RunState.UNDOING, Effect.UNDO, 2)
    assert "bob did not do it: not today" in run.reason


def test_a_guard_that_says_no_after_the_tick_stops_the_rest():
    frozen = yes(guards=(GuardResult("freeze", False, "fair"),))
    run, effect = walk(*decided(by_hand(), step()), frozen)
    assert (run.state, effect, run.attempted) == (RunState.UNDOING, Effect.UNDO, 1)
    assert "freeze said no: fair" in run.reason


def test_a_crash_while_a_person_is_waited_for_gives_no_more_time_and_changes_nothing():
    before, _ = walk(*decided(step(), by_hand()), Applied(0, OK))
    after, effect = advance(before, Recovered("killed"), 77)
    assert (after.state, effect, after.asked) == (RunState.AWAITING_PERSON, Effect.ASK, before.asked)


@pytest.mark.parametrize("happening", [yes(2), no(2), Applied(0, OK), HOLDS, Confirmed(True)])
def test_nothing_but_the_answer_to_that_step_can_happen(happening):
    with pytest.raises(ImpossibleHappening):
        walk(*decided(by_hand(), step()), happening)


def test_after_success_a_no_is_left_to_people_and_takes_nothing_back():
    after = (AfterStep("manual", {"instruction": "Tell the team"}, "low", 300, 0),)
    proven = [*decided(step(), after=after), Applied(0, OK), HOLDS, Confirmed(True)]
    run, effect = walk(*proven)
    assert (run.state, effect, run.asked.number) == (RunState.AWAITING_PERSON, Effect.ASK, 2)
    assert walk(*proven, Recovered("killed"))[:2] == (run, Effect.ASK)
    run, effect = walk(*proven, no(2))
    assert (run.state, effect, run.undo) == (RunState.SUCCEEDED, None, ())
    assert "TO BE DONE BY HAND: manual (instruction: Tell the team)" in run.reason
    assert walk(*proven, yes(2))[0].reason == "every verification held"


def test_in_a_chain_a_persons_step_comes_only_after_what_was_tried_before():
    run, effect = walk(*decided(step(), by_hand(), escalate="call ann"))
    assert (run.state, effect) == (RunState.APPLYING, Effect.APPLY)
    run, effect = walk(*decided(by_hand(), step(), escalate="call ann"), yes())
    assert (run.state, effect) == (RunState.VERIFYING, Effect.VERIFY), "proven before the next one is tried"


def run_of(tmp_path, text, host, *, say=None, controls=""):
    """The run, driven to its end; `say(run)` answers each question, otherwise the time goes by."""
    clock = FakeClock()

    async def pause(seconds):
        said = say(opened.run) if say else None
        if said is None:
            clock.advance(seconds)
            return
        number = opened.run.asked.number
        write_tick(opened.directory, opened.run, number, clock, done=said, by="ana", words="seen it")

    where = Operator(host, RunStore(str(tmp_path)), clock, frozenset({"node-1"}), controls, pause, acts)
    entry = entry_of(text)
    opened = where.store.create(make_event(), entry, clock)
    try:
        return asyncio.run(drive(where, opened, entry.runbook))
    finally:
        opened.close()


def test_the_host_changes_nothing_before_the_tick_and_who_said_so_is_kept(tmp_path):
    host = Host()

    def say(run):
        assert (run.asked.instruction, host.asked) == ("Drain /demo", [])
        return True

    run = run_of(tmp_path, HEAD + DRAIN + LIMIT, host, say=say)
    assert run.state is RunState.SUCCEEDED, run.reason
    assert [name for name, _ in host.asked] == ["sysctl", "undo"]
    (said,) = RunStore(str(tmp_path)).load(run.run_id)[0].answered
    assert (said.done, said.by, said.words) == (True, "ana", "seen it")
    assert said.guards
    assert all(guard.passed for guard in said.guards)


@pytest.mark.parametrize("asked", [DRAIN, LOOK])
def test_when_nobody_answers_what_was_changed_is_taken_back_and_nothing_else_is_done(tmp_path, asked):
    host = Host()
    text = HEAD + LIMIT.replace("5m", "10m") + asked
    run = run_of(tmp_path, text, host)
    assert run.state is RunState.UNDONE, run.reason
    assert "nobody said in time that it is done" in run.reason
    assert ("who has begun it: Give the node back" in run.reason) is (asked is DRAIN)
    assert [name for name, _ in host.asked] == ["sysctl", "undo"]
    assert {each.action: each.result for each in run.undo} == {"manual": "nothing_to_do", "sysctl": "restored"}


@pytest.mark.parametrize(
    ("asked", "state", "undo"),
    [(DRAIN, RunState.UNDO_INCOMPLETE, "irreversible"), (LOOK, RunState.UNDONE, "nothing_to_do")],
)
def test_what_a_person_did_only_a_person_takes_back_and_is_called_for_it(tmp_path, asked, state, undo):
    run = run_of(tmp_path, HEAD + asked + LIMIT, Host(holds=False), say=lambda run: True)
    assert run.state is state, run.reason
    assert {each.action: each.result for each in run.undo}["manual"] == undo
    assert ("a person takes it back: Give the node back" in run.reason) is (asked is DRAIN)


def test_a_freeze_during_the_wait_stops_the_run_before_the_host_is_touched(tmp_path):
    controls = tmp_path / "controls.json"

    def say(run):
        freeze = Freeze(runbook="", host="", by="bob", reason="fair", since_ns=0, until_ns=0)
        controls.write_text(Controls(freezes=(freeze,)).model_dump_json())
        return True

    host = Host()
    run = run_of(tmp_path / "runs", HEAD + LOOK + LIMIT, host, say=say, controls=str(controls))
    assert (run.state, host.asked) == (RunState.UNDONE, [])
    assert "frozen by bob: fair" in run.reason


def test_a_tick_counts_for_one_step_of_one_plan_and_not_after_its_time(tmp_path):
    clock, runs = FakeClock(), []

    def say(run):
        runs.append(run)
        return True

    run_of(tmp_path, HEAD + DRAIN + LIMIT, Host(), say=say)
    directory, run = RunStore(str(tmp_path)).of(runs[0].run_id), runs[0]
    with pytest.raises(BadInput, match="waits for step 1, not for step 2"):
        write_tick(directory, run, 2, clock, done=True, by="ana", words="")
    clock.advance(300)
    with pytest.raises(BadInput, match="was waited for until"):
        write_tick(directory, run, 1, clock, done=True, by="ana", words="")
    ended = RunStore(str(tmp_path)).load(run.run_id)[0]
    with pytest.raises(BadInput, match="waits for no person"):
        write_tick(directory, ended, 1, FakeClock(), done=True, by="ana", words="")
    assert read_tick(directory, 1, run.plan.digest).by == "ana"
    assert read_tick(directory, 1, "another plan") is None
    assert read_tick(directory, 2, run.plan.digest) is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"done": true}', "\x00", "[" * 5000, '{"plan_digest": "", "done": true, "by": 7, "words": ""}'],
)
def test_a_tick_that_cannot_be_read_is_a_no(tmp_path, content):
    def say(run):
        with open(RunStore(str(tmp_path)).of(run.run_id).tick(1), "w", encoding="utf-8") as stream:
            stream.write(content)

    run = run_of(tmp_path, HEAD + DRAIN + LIMIT, Host(), say=say)
    assert (run.state, run.applied) == (RunState.REFUSED, ())
    assert "not a tick" in run.reason


@given(st.binary(max_size=200) | st.text().map(str.encode) | _DOCUMENTS.map(lambda each: json.dumps(each).encode()))
def test_whatever_lies_there_is_a_tick_or_an_error_with_its_place(content):
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(folder)
        Path(directory.tick(1)).write_bytes(content)
        try:
            tick = read_tick(directory, 1, "digest")
        except BadInput as error:
            assert error.where == directory.tick(1)
        else:
            assert tick is None or isinstance(tick.by, str)


def test_only_a_true_yes_is_a_yes(tmp_path):
    store = RunStore(str(tmp_path))

    def say(run):
        document = {"plan_digest": run.plan.digest, "done": "false", "by": "ana", "words": ""}
        with open(store.of(run.run_id).tick(1), "w", encoding="utf-8") as stream:
            json.dump(document, stream)

    run = run_of(tmp_path, HEAD + DRAIN + LIMIT, Host(), say=say)
    assert (run.state, run.answered[0].by) == (RunState.REFUSED, "ana")
    assert read_tick(store.of(run.run_id), 1, run.plan.digest).done is False


def test_people_are_told_what_to_do_and_a_second_question_is_another_message():
    plan = decided(by_hand(), by_hand("nothing"), step())
    first, second = (of_run(walk(*plan, *said)[0]) for said in ((), (yes(),)))
    assert "waits for a person" in first.title
    assert any("Drain n1" in line for line in first.lines)
    assert any("osremed runs tick" in line and line.endswith(" 1, or refuse") for line in first.lines)
    assert first.id != second.id


def test_a_kept_run_with_something_a_person_did_is_not_taken_back_by_itself(tmp_path):
    run = run_of(tmp_path, HEAD + DRAIN + LIMIT + TELL, Host(), say=lambda run: True)
    assert (run.state, len(run.answered)) == (RunState.SUCCEEDED, 2)
    with pytest.raises(BadInput, match="manual of run"):
        steps_back(run)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (DRAIN.replace("    timeout: 5m\n", ""), "waited for without a `timeout`"),
        (DRAIN.replace('instruction: "Drain {{ event.scope }}", ', ""), "is not told the instruction"),
        (DRAIN.replace('"Drain {{ event.scope }}"', "[drain]"), "is not told the instruction"),
        (DRAIN.replace(", take_back: Give the node back", ""), "needs one way back"),
        (DRAIN + "    irreversible: gone\n", "needs one way back"),
        (DRAIN + "    confirm_within: 5m\n", "`confirm_within` would promise it"),
        (DRAIN.replace("take_back", "takeback"), "manual has no argument 'takeback'"),
        (DRAIN.replace("event.scope", "nothing.here"), "nothing"),
        (LIMIT + DRAIN, "before it is verified"),
        (DRAIN.replace("5m", "20m") + LIMIT, "the next step comes too late to act"),
        (DRAIN + LIMIT + "escalate: call ann\n", "which cannot be undone, no other remedy"),
        (DRAIN + TELL.replace(", timeout: 5m", ""), "waited for without a `timeout`"),
        (DRAIN.replace("action: manual", "action: manul"), "did you mean 'manual'"),
    ],
)
def test_lint_refuses_a_persons_step_that_does_not_say_enough(text, what):
    errors = [str(error) for error in lint_text(parse_text((HEAD + text).encode(), "rb.yaml"))[1]]
    assert any(what in error for error in errors), errors


def test_lint_takes_an_irreversible_one_and_one_that_changes_nothing_before_others_of_a_chain():
    lasting = DRAIN.replace(", take_back: Give the node back", "") + "    irreversible: what was shipped is gone\n"
    for text in (lasting, LOOK + LIMIT + "escalate: call ann\n", DRAIN + LIMIT + TELL):
        assert lint_text(parse_text((HEAD + text).encode(), "rb.yaml"))[1] == ()


@pytest.mark.parametrize(
    ("person", "state"),
    [([True, True], "SUCCEEDED"), ([True, False], "SUCCEEDED"), ([False], "REFUSED"), ([], "REFUSED")],
)
def test_a_case_says_how_people_answer(tmp_path, person, state):
    case = tmp_path / "case.yaml"
    happened = person[:1] == [True]
    after = [{"action": "manual", "with": {"instruction": "Tell the team"}}] if happened else []
    told = {
        "event": {"name": "memory.near_oom", "attributes": {"scope": "/app"}},
        "evidence": {"fastoom": {}},
        "samples": {"memory.available_ratio": [[0, 0.4], [2, 0.4]]},
        "person": person,
    }
    args = {"instruction": "Drain /app", "take_back": "Give the node back"}
    plan = [{"action": "manual", "with": args}, {"action": "sysctl", "with": {"settings": {"vm.swappiness": 10}}}]
    expect = {"findings": ["asked"], "plan": plan, "after_success": after, "state": state}
    case.write_text(json.dumps({"given": told, "expect": expect}))
    assert run_case(entry_of(HEAD + DRAIN + LIMIT + TELL), str(case)).differences == ()


def test_a_step_of_the_host_that_fails_after_the_tick_calls_a_person(tmp_path):
    host = Host(sysctl=Outcome(Status.FAILED, detail="no"))
    run = run_of(tmp_path, HEAD + DRAIN + LIMIT, host, say=lambda run: True)
    assert run.state is RunState.UNDO_INCOMPLETE
    assert FAILED.detail in run.reason


def test_an_approval_is_asked_for_first_and_then_the_person(tmp_path):
    states = []

    def say(run):
        states.append(run.state)
        if run.state is RunState.AWAITING_APPROVAL:
            directory = RunStore(str(tmp_path)).of(run.run_id)
            write_approval(directory, run, approved=True, by="bob", reason="")
            return None
        return True

    asks = DRAIN + "    approval: {required: risk >= 'low', timeout: 5m}\n"
    run = run_of(tmp_path, HEAD + asks + LIMIT, Host(), say=say)
    assert states == [RunState.AWAITING_APPROVAL, RunState.AWAITING_PERSON]
    assert (run.state, run.approved_by, run.answered[0].by) == (RunState.SUCCEEDED, "bob", "ana")


def test_nobody_is_asked_to_do_nothing_or_what_the_evidence_does_not_call_for(tmp_path):
    blank = DRAIN.replace("Drain {{ event.scope }}", "{{ event.scope[99:] }}")
    run = run_of(tmp_path / "a", HEAD + blank + LIMIT, Host())
    assert (run.state, run.answered) == (RunState.REFUSED, ())
    assert "the instruction is empty" in run.reason
    unless = DRAIN.replace("finding('asked')", "not finding('asked')")
    run = run_of(tmp_path / "b", HEAD + unless + LIMIT, Host())
    assert (run.state, run.answered) == (RunState.SUCCEEDED, ())


def test_words_that_are_too_many_are_refused_and_not_cut(tmp_path):
    refused = []

    def say(run):
        directory = RunStore(str(tmp_path)).of(run.run_id)
        with pytest.raises(BadInput, match="at most 4096") as error:
            write_tick(directory, run, 1, FakeClock(), done=True, by="ana", words="x" * 4097)
        refused.append(error)
        return True

    assert run_of(tmp_path, HEAD + DRAIN + LIMIT, Host(), say=say).state is RunState.SUCCEEDED
    assert refused
