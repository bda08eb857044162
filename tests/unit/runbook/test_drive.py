"""The engine on real files: the collection's own change code, a real store, no Ansible start."""

import asyncio
import json
import os
from dataclasses import replace

import pytest

from osremed.core.action import Call, Outcome, Status
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput, NotFound
from osremed.core.journal import Journal
from osremed.runbook import store
from osremed.runbook.approvals import write_approval
from osremed.runbook.catalog import CatalogEntry, load_catalog
from osremed.runbook.lint import lint_text
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.preview import preview
from osremed.runbook.store import DamagedRun, RunStore, open_unfinished
from osremed.runbook.text import parse_text
from tests.support.acting import acts
from tests.support.module_executor import ModuleExecutor, evidence
from tests.unit.runbook.conftest import make_event

OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'


@pytest.fixture
def host(tmp_path):
    root = tmp_path / "host"
    root.mkdir()
    (root / "fastoom.json").write_bytes(OLD)
    return root


def operator(tmp_path, executor, clock=None):
    store, hosts = RunStore(str(tmp_path / "runs")), frozenset({"node-1"})
    return Operator(executor, store, clock or FakeClock(), hosts, restrict=acts)


def run_once(where, entry, event=None):
    opened = where.store.create(event or make_event(), entry, where.clock)
    try:
        return asyncio.run(drive(where, opened, entry.runbook))
    finally:
        opened.close()


def test_a_change_that_helps_is_kept_and_confirmed(tmp_path, host, entry):
    run = run_once(operator(tmp_path, ModuleExecutor(str(host), helps=True)), entry)
    assert run.state is RunState.SUCCEEDED
    assert json.loads((host / "fastoom.json").read_text())["sensitivity"] == "medium"
    assert [name for name in os.listdir(host / "undo") if name.endswith(".json")] == []


def test_a_change_that_does_not_help_is_taken_back_byte_for_byte(tmp_path, host, entry):
    run = run_once(operator(tmp_path, ModuleExecutor(str(host), helps=False)), entry)
    assert run.state is RunState.UNDONE
    assert (host / "fastoom.json").read_bytes() == OLD


def test_a_change_whose_deadline_nobody_on_the_host_would_keep_is_refused_in_its_plan(tmp_path, host, entry):
    executor = ModuleExecutor(str(host), helps=True)
    os.unlink(executor.agent)
    run = run_once(operator(tmp_path, executor), entry)
    assert run.state is RunState.REFUSED
    assert run.reason.startswith("preview: fastoom_policy cannot be previewed (failed): nobody would take this back")
    assert ("fastoom_policy", False) not in executor.calls
    assert (host / "fastoom.json").read_bytes() == OLD


def test_the_undo_is_on_disk_before_the_change_is_tried(tmp_path, host, entry):
    seen = []

    class Watching(ModuleExecutor):
        def run(self, call):
            if call.module.endswith("fastoom_policy") and not call.check:
                run, _ = where.store.load(where.store.run_ids()[0])
                seen.append(run.plan.steps[0].previous["content_b64"])
            return super().run(call)

    where = operator(tmp_path, Watching(str(host), helps=True))
    run_once(where, entry)
    assert len(seen) == 1
    assert seen[0]


def test_a_file_changed_by_a_human_after_the_preview_is_left_alone(tmp_path, host, entry):
    class Human(ModuleExecutor):
        def run(self, call):
            outcome = super().run(call)
            if call.check:
                (host / "fastoom.json").write_bytes(OLD.replace(b"low", b"high"))
            return outcome

    run = run_once(operator(tmp_path, Human(str(host), helps=True)), entry)
    assert b'"high"' in (host / "fastoom.json").read_bytes()
    assert run.state in (RunState.UNDONE, RunState.UNDO_INCOMPLETE)
    assert "changed by someone else" in run.reason


def test_a_file_changed_by_a_human_after_the_act_is_a_conflict_and_left_alone(tmp_path, host, entry):
    class Human(ModuleExecutor):
        def _probe(self, args, check):
            (host / "fastoom.json").write_bytes(OLD.replace(b"low", b"high"))
            return super()._probe(args, check)

    run = run_once(operator(tmp_path, Human(str(host), helps=True)), entry)
    assert run.state is RunState.UNDO_INCOMPLETE
    assert b'"high"' in (host / "fastoom.json").read_bytes()


@pytest.mark.parametrize("status", [Status.UNREACHABLE, Status.TIMED_OUT, Status.FAILED, Status.REFUSED])
def test_without_any_evidence_nothing_is_changed(tmp_path, host, entry, status):
    class Blind(ModuleExecutor):
        def run(self, call):
            if call.module.endswith("evidence"):
                return Outcome(status, detail="no answer")
            return super().run(call)

    run = run_once(operator(tmp_path, Blind(str(host), helps=True)), entry)
    assert run.state is RunState.REFUSED
    assert run.reason.startswith("evidence: panorama: ")
    assert "no answer" in run.reason
    assert (host / "fastoom.json").read_bytes() == OLD


def test_collectors_that_are_all_slow_have_the_time_they_are_given(tmp_path, host, entry):
    """A call that is cut off before the last of them ends gives nothing of the others either."""
    asked = []

    class Slow(ModuleExecutor):
        def run(self, call):
            if call.module.endswith("evidence"):
                asked.append(call)
            return super().run(call)

    names = ("panorama", "fastoom", "psi", "timeline")
    runbook = entry.runbook.model_copy(update={"collect": [{name: {}} for name in names]})
    run_once(operator(tmp_path, Slow(str(host), helps=True)), replace(entry, runbook=runbook))
    (call,) = asked
    assert set(call.args["collectors"]) == set(names)
    assert call.timeout_s > len(names) * call.args["timeout_s"]


def test_a_gap_in_the_evidence_is_told_and_its_findings_are_not_made(tmp_path, host, entry):
    class HalfBlind(ModuleExecutor):
        def _evidence(self, args, _check):
            gap = {"missing": "timed_out", "source": "panorama", "detail": "5 s"}
            hostile = {"event": {"sensitivity": "high"}, "host": "other"}
            return evidence({"fastoom": {}, **hostile}, {"panorama": gap})

    run = run_once(operator(tmp_path, HalfBlind(str(host), helps=True)), entry)
    assert run.gaps == {"panorama": "timed_out: panorama (5 s)"}
    assert [finding.name for finding in run.findings] == ["policy-too-low"], "a host cannot rewrite the event"
    assert any("has no value" in note for note in run.notes)


@pytest.mark.parametrize(
    ("change", "gap"),
    [
        (lambda told: told["items"]["panorama"].update(total_bytes=1), "what arrived is not what"),
        (lambda told: told["items"]["panorama"].update(total_bytes=float("nan")), "what arrived is not what"),
        (lambda told: told.update(manifest=[]), "what arrived is not what"),
        (lambda told: told.pop("manifest"), "what arrived is not what"),
    ],
)
def test_evidence_that_was_altered_on_its_way_is_a_gap_and_nothing_is_done_on_it(tmp_path, host, entry, change, gap):
    class Altering(ModuleExecutor):
        def _evidence(self, args, check):
            told = super()._evidence(args, check)
            change(told)
            return told

    run = run_once(operator(tmp_path, Altering(str(host), helps=True)), entry)
    assert gap in run.gaps.get("panorama", run.reason)
    assert "malformed" in run.gaps.get("panorama", run.reason)


@pytest.mark.parametrize("answer", [{}, {"verdict": "HOLDS", "samples": ["x"]}, {"verdict": "FINE"}, {"verdict": None}])
def test_an_answer_of_a_probe_that_cannot_be_read_is_unknown_and_undone(tmp_path, host, entry, answer):
    class Odd(ModuleExecutor):
        def _probe(self, args, _check):
            return {"changed": False, **answer}

    where = operator(tmp_path, Odd(str(host), helps=True))
    run = run_once(where, entry)
    assert run.state is RunState.UNDONE
    assert "UNKNOWN" in run.reason
    assert RunStore(where.store.directory).load(run.run_id)[0] == run, "the journal can be read back"


def test_an_answer_the_disk_would_not_keep_is_not_tried_again_but_undone(tmp_path, host, entry):
    executor = ModuleExecutor(str(host), helps=True)
    where = operator(tmp_path, executor)
    opened = where.store.create(make_event(), entry, where.clock)
    keep = opened.record

    def full(happening, clock):
        if happening.kind == "applied":
            raise OSError(28, "No space left on device")
        keep(happening, clock)

    opened.record = full
    with pytest.raises(OSError, match="No space"):
        asyncio.run(drive(where, opened, entry.runbook))
    opened.record = keep
    run = asyncio.run(drive(where, opened, entry.runbook))
    opened.close()
    assert run.state is RunState.UNDONE
    assert (host / "fastoom.json").read_bytes() == OLD
    assert executor.calls.count(("fastoom_policy", False)) == 1


def test_a_run_that_was_cut_off_is_finished_by_the_next_one_that_looks(tmp_path, host, entry):
    where = operator(tmp_path, ModuleExecutor(str(host), helps=False))
    where.store.create(make_event(), entry, where.clock).close()
    (left,) = open_unfinished(where.store, where.clock, "test")
    assert asyncio.run(drive(where, left, entry.runbook)).state is RunState.UNDONE
    left.close()
    assert list(open_unfinished(where.store, where.clock, "test")) == []


def test_a_run_that_its_driver_ends_just_before_it_is_opened_stays_as_it_ended(tmp_path, host, entry, monkeypatch):
    """By hand, in another process: what that has proven is not taken back."""
    where = operator(tmp_path, ModuleExecutor(str(host), helps=True))
    driven = where.store.create(make_event(), entry, where.clock)

    def ended_first(*args, **kwargs):
        monkeypatch.undo()
        asyncio.run(drive(where, driven, entry.runbook))
        driven.close()
        return Journal(*args, **kwargs)

    other = operator(tmp_path, ModuleExecutor(str(host), helps=True))
    monkeypatch.setattr(store, "Journal", ended_first)
    assert list(open_unfinished(other.store, other.clock, "test")) == []
    run, _effect = RunStore(other.store.directory).load(driven.run.run_id)
    assert run.state is RunState.SUCCEEDED
    Journal(driven.directory.journal).close()  # and nobody holds it


def test_while_a_run_cannot_be_read_no_other_is_let_in(tmp_path, host, entry):
    where = operator(tmp_path, ModuleExecutor(str(host), helps=True))
    damaged = run_once(where, entry)
    journal = where.store.of(damaged.run_id).journal
    (segment,) = [name for name in os.listdir(journal) if name.endswith(".jsonl")]
    with open(os.path.join(journal, segment), "r+b") as stream:
        stream.seek(40)
        stream.write(b"XX")
    fresh = operator(tmp_path, ModuleExecutor(str(host), helps=True))
    run = run_once(fresh, entry, make_event(2))
    assert run.reason.startswith("journals: 1 runs cannot be read")


def test_a_host_already_as_wanted_is_not_touched(tmp_path, host, entry):
    (host / "fastoom.json").write_bytes(OLD.replace(b"low", b"medium"))
    executor = ModuleExecutor(str(host), helps=True)
    run = run_once(operator(tmp_path, executor), entry)
    assert run.state is RunState.REFUSED
    assert "already as wanted" in run.reason
    assert ("fastoom_policy", False) not in executor.calls


def test_the_same_event_has_one_run(tmp_path, host, entry):
    where = operator(tmp_path, ModuleExecutor(str(host), helps=True))
    run_once(where, entry)
    assert where.store.create(make_event(), entry, where.clock) is None


def test_a_run_keeps_the_runbook_it_began_with(tmp_path, host, entry):
    where = operator(tmp_path, ModuleExecutor(str(host), helps=True))
    run = run_once(where, entry)
    with open(where.store.of(run.run_id).runbook, "rb") as stream:
        assert stream.read() == entry.content
    assert where.store.runbook_of(run.run_id) == entry.runbook


def test_a_damaged_journal_is_named_and_left_and_hides_no_other_run(tmp_path, host, entry):
    where = operator(tmp_path, ModuleExecutor(str(host), helps=True))
    run = run_once(where, entry)
    second = run_once(where, entry, make_event(2, at_ns=where.clock.wall_ns()))
    journal = where.store.of(run.run_id).journal
    (segment,) = [name for name in os.listdir(journal) if name.endswith(".jsonl")]
    path = os.path.join(journal, segment)
    with open(path, "r+b") as stream:
        stream.seek(40)
        stream.write(b"XX")
    fresh = RunStore(where.store.directory)
    runs, damaged = fresh.runs()
    assert [each.run_id for each in runs] == [second.run_id]
    assert path in damaged[0]
    with pytest.raises(DamagedRun):
        fresh.load(run.run_id)


@pytest.mark.parametrize("name", ["../../etc", "", "0123456789abcdeF", "0" * 15])
def test_only_the_id_of_a_run_names_a_run(tmp_path, name):
    with pytest.raises(NotFound):
        RunStore(str(tmp_path)).of(name)


def asking(entry):
    text = entry.content.replace(b"risk >= 'high'", b"risk >= 'medium'").replace(b"timeout: 10m", b"timeout: 5s")
    runbook, errors = lint_text(parse_text(text, "asking"))
    assert errors == ()
    return CatalogEntry(runbook, text, entry.digest, entry.path)


async def drive_with_answer(where, entry, answer):
    opened = where.store.create(make_event(), entry, where.clock)
    task = asyncio.create_task(drive(where, opened, entry.runbook))
    try:
        while opened.run.state is not RunState.AWAITING_APPROVAL:
            await asyncio.sleep(0.01)
        answer(opened)
        return await asyncio.wait_for(task, 30)
    finally:
        opened.close()


@pytest.mark.parametrize(("approved", "state"), [(True, RunState.SUCCEEDED), (False, RunState.REFUSED)])
def test_a_person_decides_and_is_named(tmp_path, host, entry, approved, state):
    where = operator(tmp_path, ModuleExecutor(str(host), helps=True))

    def answer(opened):
        write_approval(opened.directory, opened.run, approved=approved, by="ana", reason="seen")

    run = asyncio.run(drive_with_answer(where, asking(entry), answer))
    assert run.state is state
    assert "ana" in (run.approved_by if approved else run.reason)
    assert ((host / "fastoom.json").read_bytes() == OLD) is not approved


def test_silence_is_a_no(tmp_path, host, entry):
    where = operator(tmp_path, ModuleExecutor(str(host), helps=True))
    run = asyncio.run(drive_with_answer(where, asking(entry), lambda _opened: where.clock.advance(6)))
    assert run.state is RunState.REFUSED
    assert "nobody answered within 5 s" in run.reason
    assert (host / "fastoom.json").read_bytes() == OLD


def test_a_run_that_does_not_wait_takes_no_approval(tmp_path, host, entry):
    where = operator(tmp_path, ModuleExecutor(str(host), helps=True))
    run = run_once(where, entry)
    with pytest.raises(BadInput, match="awaits no approval"):
        write_approval(where.store.of(run.run_id), run, approved=True, by="eve", reason="")


def test_a_dry_run_shows_the_diff_and_changes_and_keeps_nothing(tmp_path, host, entry):
    executor = ModuleExecutor(str(host), helps=True)
    where = operator(tmp_path, executor)
    shown = asyncio.run(preview(where, entry.runbook, make_event()))
    assert not shown.refused
    assert "medium" in shown.text
    assert (host / "fastoom.json").read_bytes() == OLD
    assert where.store.runs() == ((), ())
    assert [call for call in executor.calls if not call[1]] == [("evidence", False)]


def test_a_catalog_without_runbooks_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="no runbooks"):
        load_catalog(str(tmp_path))


def test_a_step_that_changed_nothing_after_all_is_neither_confirmed_nor_undone(tmp_path, host, entry):
    """Somebody made the very same change between the preview and the act: it is theirs."""

    class Human(ModuleExecutor):
        def run(self, call):
            if call.module.endswith("fastoom_policy") and not call.check:
                super().run(Call(call.module, {"sensitivity": "medium"}, call.host, 60))
            return super().run(call)

    run = run_once(operator(tmp_path, Human(str(host), helps=False)), entry)
    assert run.state is RunState.UNDONE
    assert [undo.result for undo in run.undo] == ["nothing_to_do"]
    assert b'"medium"' in (host / "fastoom.json").read_bytes()
