"""`escalate`: the next remedy only after the one before failed its verification and was taken back; then a human.

On real files: the collection's own change code, a real store, no Ansible start.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from osremed.core.action import Outcome, Status
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput
from osremed.core.probe import Verdict
from osremed.runbook.approvals import write_approval
from osremed.runbook.catalog import CatalogEntry
from osremed.runbook.controls import Freeze, change_controls
from osremed.runbook.lint import lint_text
from osremed.runbook.model import Recovered, RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.preview import preview
from osremed.runbook.store import OpenRun, RunStore
from osremed.runbook.text import parse_text
from tests.support.acting import acts
from tests.support.module_executor import ModuleExecutor
from tests.unit.runbook.conftest import make_event, plain

OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'
SOURCE = plain((Path(__file__).resolve().parents[3] / "runbooks/near-oom/runbook.yaml").read_text())
SECOND = """  - when: finding('policy-too-low')
    action: fastoom_policy
    with: {sensitivity: high}
    confirm_within: 5m

escalate: move something to another host

verify:
"""
CHAIN = SOURCE.replace("verify:\n", SECOND, 1)


def entry_of(text):
    content = text.encode()
    book, errors = lint_text(parse_text(content, "near-oom/runbook.yaml"))
    assert errors == ()
    return CatalogEntry(book, content, "d" * 64, "near-oom/runbook.yaml")


class Host(ModuleExecutor):
    """The probe holds while the policy has the sensitivity that helps."""

    def __init__(self, root, helps=""):
        super().__init__(str(root), helps=False)
        self.wanted, self.seen, self.tried = helps, [], []

    def run(self, call):
        if "sensitivity" in call.args and not call.check:
            self.tried.append(call.args["sensitivity"])
        return super().run(call)

    def sensitivity(self):
        return json.loads(Path(self.policy).read_text())["sensitivity"]

    def _probe(self, args, check):
        self.seen.append(self.sensitivity())
        told = super()._probe(args, check)
        return {**told, "verdict": "HOLDS" if self.sensitivity() == self.wanted else "FAILS"}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "host"
    root.mkdir()
    (root / "fastoom.json").write_bytes(OLD)
    return root


def operator(tmp_path, executor, **more):
    return Operator(
        executor, RunStore(str(tmp_path / "runs")), FakeClock(), frozenset({"node-1"}), restrict=acts, **more
    )


def run_once(where, text=CHAIN, event=None):
    entry = entry_of(text)
    opened = where.store.create(event or make_event(), entry, where.clock)
    try:
        return asyncio.run(drive(where, opened, entry.runbook))
    finally:
        opened.close()


def deadlines(root):
    return [name for name in os.listdir(root / "undo") if name.endswith(".json")]


def kinds(where):
    return [happening.kind for _, happening in where.store.happenings(where.store.run_ids()[0])]


def test_what_helps_at_once_ends_the_chain(tmp_path, root):
    host = Host(root, "medium")
    run = run_once(operator(tmp_path, host))
    assert (run.state, run.attempted, host.seen) == (RunState.SUCCEEDED, 1, ["medium"])
    assert host.sensitivity() == "medium"
    assert deadlines(root) == []


def test_the_second_is_tried_after_the_first_was_taken_back_and_alone_is_kept(tmp_path, root):
    host = Host(root, "high")
    where = operator(tmp_path, host)
    run = run_once(where)
    assert (run.state, run.attempted, host.seen) == (RunState.SUCCEEDED, 2, ["medium", "high"])
    assert host.sensitivity() == "high"
    assert deadlines(root) == [], "each deadline on the host is settled"
    chain = ["approved", "applied", "verified"]
    assert kinds(where) == ["raised", "admitted", "collected", "decided", *chain, "undone", *chain, "confirmed"]


def test_when_none_is_left_a_human_is_told_and_the_host_is_as_before(tmp_path, root):
    host = Host(root)
    run = run_once(operator(tmp_path, host))
    assert (run.state, run.attempted, host.seen) == (RunState.UNDONE, 2, ["medium", "high"])
    assert "2 of 2 remedies tried; escalate: move something to another host" in run.reason
    assert (root / "fastoom.json").read_bytes() == OLD
    assert [each.result for each in run.undo] == ["restored", "restored"]
    assert run.bundle


def test_the_same_steps_in_a_chain_are_another_plan_to_approve(tmp_path, root):
    together = CHAIN.replace("escalate: move something to another host\n", "")
    plans = [
        run_once(operator(tmp_path / name, Host(root)), text).plan for name, text in (("a", CHAIN), ("b", together))
    ]
    assert plans[0].steps == plans[1].steps
    assert plans[0].digest != plans[1].digest


def test_a_probe_that_gives_no_answer_ends_the_chain(tmp_path, root):
    class Blind(Host):
        def _probe(self, args, check):
            return {**super()._probe(args, check), "verdict": Verdict.UNKNOWN.value}

    run = run_once(operator(tmp_path, Blind(root)))
    assert (run.state, run.attempted) == (RunState.UNDONE, 1)
    assert "1 of 2 remedies tried; escalate" in run.reason


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMED_OUT, Status.UNREACHABLE])
def test_a_remedy_that_did_not_succeed_ends_the_chain(tmp_path, root, status):
    class Fails(Host):
        def run(self, call):
            if call.module.endswith("fastoom_policy") and not call.check and "sensitivity" in call.args:
                return Outcome(status, detail="no")
            return super().run(call)

    run = run_once(operator(tmp_path, Fails(root)))
    assert (run.state, run.attempted) == (RunState.UNDONE, 1)
    assert (root / "fastoom.json").read_bytes() == OLD


def test_what_cannot_be_taken_back_ends_the_chain_and_pages_a_human(tmp_path, root):
    human = OLD.replace(b'"low"', b'"low" ')

    class Human(Host):
        def _probe(self, args, check):
            told = super()._probe(args, check)
            (root / "fastoom.json").write_bytes(human)
            return told

    host = Human(root)
    run = run_once(operator(tmp_path, host))
    assert (run.state, run.attempted) == (RunState.UNDO_INCOMPLETE, 1)
    assert "escalate: move something" in run.reason
    assert (root / "fastoom.json").read_bytes() == human


def test_the_guards_are_asked_before_each_remedy(tmp_path, root):
    controls = str(tmp_path / "controls.json")

    class Frozen(Host):
        def _probe(self, args, check):
            freeze = Freeze(by="ann", reason="lunch", since_ns=0)
            change_controls(controls, lambda now: now.model_copy(update={"freezes": (freeze,)}))
            return super()._probe(args, check)

    run = run_once(operator(tmp_path, Frozen(root), controls=controls))
    assert (run.state, run.attempted) == (RunState.UNDONE, 1)
    assert "the next remedy was refused by freeze" in run.reason
    assert (root / "fastoom.json").read_bytes() == OLD


def test_one_approval_is_for_the_whole_chain(tmp_path, root):
    host = Host(root, "high")
    asked = []

    async def answer(_seconds):
        asked.append(1)
        (run_id,) = where.store.run_ids()
        write_approval(where.store.of(run_id), where.store.load(run_id)[0], approved=True, by="ann", reason="")

    where = operator(tmp_path, host, pause=answer)
    run = run_once(where, CHAIN.replace("risk >= 'high'", "risk >= 'low'"))
    assert (run.state, run.approved_by, len(asked)) == (RunState.SUCCEEDED, "ann", 1)


class Killed(BaseException):
    """The controller is gone."""


@pytest.mark.parametrize("helps", ["high", "nothing"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("line", range(1, 12))
def test_a_controller_killed_at_any_line_leaves_one_remedy_kept_or_none(tmp_path, root, monkeypatch, helps, when, line):
    """Recovery takes back what is open, never tries anything again, and never goes on to the next remedy."""
    real, seen = OpenRun.record, []

    def record(self, happening, clock):
        seen.append(happening)
        if len(seen) == line and when == "before":
            raise Killed
        real(self, happening, clock)
        if len(seen) == line:
            raise Killed

    host = Host(root, helps)
    where = operator(tmp_path, host)
    with monkeypatch.context() as patched:
        patched.setattr(OpenRun, "record", record)
        with pytest.raises(Killed):
            run_once(where)
    tried = list(host.tried)
    again = operator(tmp_path, host)
    (run_id,) = again.store.run_ids()
    if not again.store.load(run_id)[0].ended:
        opened = again.store.open(run_id)
        acted = opened.run.acted
        opened.record(Recovered("killed"), again.clock)
        asyncio.run(drive(again, opened, again.store.runbook_of(run_id)))
        opened.close()
        assert not acted or host.tried == tried
    run = RunStore(again.store.directory).load(run_id)[0]
    assert run.state in (RunState.SUCCEEDED, RunState.UNDONE), run.reason
    assert deadlines(root) == []
    if run.state is RunState.SUCCEEDED:
        assert host.sensitivity() == helps
    else:
        assert (root / "fastoom.json").read_bytes() == OLD
        assert "escalate: move something to another host" in run.reason


def test_a_dry_run_says_that_they_are_tried_one_at_a_time(tmp_path, root):
    told = asyncio.run(preview(operator(tmp_path, Host(root)), entry_of(CHAIN).runbook, make_event()))
    assert "one at a time, each only if the one before did not help; then escalate: move something" in told.text
    assert (root / "fastoom.json").read_bytes() == OLD


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            "action: fastoom_policy\n    with: {sensitivity: medium}\n    confirm_within: 5m",
            "action: page_cache\n    with: {paths: [/x]}\n    irreversible: it fills again",
            "after page_cache, which cannot be undone, no other remedy is tried",
        ),
        ("max_event_age: 15m", "max_event_age: 615s", "the last remedy would come too late to act"),
    ],
)
def test_a_remedy_that_could_never_be_reached_is_a_fault(old, new, what):
    assert old in CHAIN
    _book, errors = lint_text(parse_text(CHAIN.replace(old, new, 1).encode(), "rb.yaml"))
    assert [(error.rule, error.what) for error in errors] == [("dead-end", what)]


def test_escalate_without_a_remedy_is_a_fault():
    head, _, tail = CHAIN.partition("remediate:\n")
    text = head + "remediate: []\n" + tail[tail.index("\nescalate:") :]
    errors = lint_text(parse_text(text.encode(), "rb.yaml"))[1]
    assert any("`escalate` without remedies" in error.what for error in errors)
    assert all(isinstance(error, BadInput) for error in errors)
