"""What a run decided and did cannot be changed afterwards without `osremed audit verify` saying so."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from osremed.core import journal
from osremed.core.clock import FakeClock
from osremed.core.errors import ExitCode
from osremed.core.journal import Journal, read_journal, written_lines
from osremed.flows import control_verbs, verbs
from osremed.flows.settings import ControlPaths
from osremed.runbook.audit import NOTED_VARIABLE, Audit
from osremed.runbook.controls import Freeze, change_controls
from osremed.runbook.model import Recovered, Refused, RunState
from osremed.runbook.retention import Keep, retire
from osremed.runbook.seals import sealed_by_hand, sealed_in
from osremed.runbook.store import RunStore
from tests.support.kept import ask, drive_answered, kept_run, operator_on
from tests.support.module_executor import ModuleExecutor
from tests.unit.runbook.conftest import ROOT, make_event
from tests.unit.runbook.test_deciding import Control, event

OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'
BOOK = str(ROOT / "runbooks/near-oom/runbook.yaml")


@pytest.fixture
def paths(tmp_path):
    return ControlPaths(str(tmp_path / "control"))


@pytest.fixture
def where(paths, tmp_path):
    host = tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    made = operator_on(paths.runs, host, clock=FakeClock())
    made.store.keep_seal = sealed_by_hand(paths.hands)
    return made


def lines_of(audit):
    return [entry.record for entry in read_journal(audit).entries]


def seals(paths):
    return [line["seal"]["state"] for line in lines_of(paths.hands) if "seal" in line]


def checked(paths):
    answer = control_verbs.audit(state=paths.state)
    return answer.exit_code, answer.document["runs"]["faults"], answer.text


def segment_of(store, run_id):
    return os.path.join(store.of(run_id).journal, f"{0:020d}.jsonl")


def forged(store, run_id, change):
    """Its journal written anew, with good checksums."""
    path, lines = segment_of(store, run_id), []
    for line in written_lines(store.of(run_id).journal):
        entry = journal._decode(line)
        lines.append(journal._encode(entry.seq, change(entry.record)))
    with open(path, "wb") as out:
        out.write(b"".join(lines))


def another_approver(record):
    happening = record["happening"]
    return {**record, "happening": {**happening, "by": "eve"}} if happening["kind"] == "approved" else record


def test_a_run_is_sealed_once_before_it_touches_its_host_and_once_at_its_end(where, entry, paths):
    run = kept_run(where, entry, make_event())
    assert seals(paths) == ["APPLYING", "SUCCEEDED"]
    first, last = (line["seal"] for line in lines_of(paths.hands))
    assert last["lines"] == len(where.store.happenings(run.run_id)) > first["lines"]
    assert checked(paths)[:2] == (ExitCode.OK, [])
    drive_answered(where, ask(where, run), by="ana")
    assert seals(paths)[2:] == ["UNDOING", "SUCCEEDED"]
    assert checked(paths)[:2] == (ExitCode.OK, [])


def test_a_journal_with_another_approvers_name_is_found_though_every_checksum_is_good(where, entry, paths):
    run = kept_run(where, entry, make_event())
    forged(where.store, run.run_id, another_approver)
    assert RunStore(paths.runs).load(run.run_id)[0].approved_by == "eve", "nothing else finds it"
    code, (fault,), text = checked(paths)
    assert code == ExitCode.FAILED
    assert fault.startswith(f"run {run.run_id}: its first ")
    assert "are not what was written (hands, entry 1)" in fault
    assert f"FAULT {fault}" in text


def test_a_journal_that_was_shortened_or_continued_after_its_end_is_found(where, entry, paths):
    run = kept_run(where, entry, make_event())
    whole = written_lines(where.store.of(run.run_id).journal)
    with open(segment_of(where.store, run.run_id), "wb") as out:
        out.write(b"".join(line + b"\n" for line in whole[:-1]))
    assert f"run {run.run_id}: 1 of its {len(whole)} lines are missing" in checked(paths)[1][0]
    with open(segment_of(where.store, run.run_id), "wb") as out:
        out.write(b"".join(line + b"\n" for line in [*whole, whole[-1]]))
    assert any("after its end lines were added: 1" in fault for fault in checked(paths)[1])


def test_a_run_that_somebody_took_away_is_found_and_one_that_retention_removed_is_no_fault(where, entry, paths):
    run, other = kept_run(where, entry, make_event(0)), where.store.create(make_event(1), entry, where.clock)
    other.record(Refused("storm", "enough"), where.clock)
    other.close()
    where.clock.advance(100 * 86400)
    assert retire(where, paths.hands, {}, Keep(age_s=1, undo_s=200 * 86400)) == 1
    code, faults, text = checked(paths)
    assert (code, faults) == (ExitCode.OK, [])
    assert "runs: 1 checked by their seals, 0 under way, 1 removed by retention" in text
    shutil.rmtree(where.store.of(run.run_id).path)
    assert checked(paths)[1] == [f"run {run.run_id}: it is gone, and nothing says that it was removed (hands, entry 0)"]


def test_a_run_under_way_grows_after_its_seal_and_one_cut_off_before_its_last_seal_is_no_fault(where, entry, paths):
    looks = []

    class Looking(ModuleExecutor):
        def run(self, call):
            if call.module == "osremed.host.probe":
                looks.append(checked(paths))
            return super().run(call)

    watched = replace(where, executor=Looking(where.executor.root, helps=True))
    opened = where.store.create(make_event(), entry, where.clock)
    keep = opened._keep_seal
    opened._keep_seal = lambda seal: None if seal.state is RunState.SUCCEEDED else keep(seal)  # killed before the last
    run = drive_answered(watched, opened)
    assert run.state is RunState.SUCCEEDED
    assert {each[0] for each in looks} == {ExitCode.OK}
    assert "runs: 1 checked by their seals, 1 under way" in looks[-1][2]
    code, faults, text = checked(paths)
    assert (code, faults) == (ExitCode.OK, [])
    assert f"run {run.run_id}: its end is in no audit: whoever drove it was cut off there" in text
    forged(where.store, run.run_id, another_approver)
    assert len(checked(paths)[1]) == 1, "what was sealed before stays sealed"


@pytest.mark.parametrize("full_at", ["APPLYING", "SUCCEEDED"])
def test_a_seal_that_the_disk_refused_is_made_before_anything_follows(where, entry, paths, full_at):
    opened = where.store.create(make_event(), entry, where.clock)
    keep, refused = opened._keep_seal, []

    def full_once(seal):
        if seal.state.value == full_at and not refused:
            refused.append(seal)
            raise OSError(28, "No space left on device")
        keep(seal)

    opened._keep_seal = full_once
    close, opened.close = opened.close, lambda: None
    with pytest.raises(OSError, match="No space"):
        drive_answered(where, opened)
    changed = (where.executor.calls.count(("fastoom_policy", False)), opened.ended)
    assert changed == ((0, False) if full_at == "APPLYING" else (1, False))
    assert drive_answered(where, opened).state is RunState.SUCCEEDED
    close()
    assert opened.ended
    assert seals(paths) == ["APPLYING", "SUCCEEDED"]


def test_who_goes_on_with_a_run_seals_it_too(where, entry, paths):
    opened = where.store.create(make_event(), entry, where.clock)
    opened.close()
    again = where.store.open(opened.run.run_id)
    again.record(Recovered("the dispatcher started again"), where.clock)
    assert drive_answered(where, again).state is RunState.SUCCEEDED
    assert seals(paths) == ["APPLYING", "SUCCEEDED"]


def test_what_the_guards_refuse_at_the_door_is_sealed_in_the_line_of_its_decision(tmp_path, entry):
    control = Control(tmp_path, entry)
    control.store.keep_seal = sealed_in(control.audit)
    frozen = Freeze(by="ann", reason="fair", since_ns=0)
    change_controls(control.operator.controls, lambda said: said.model_copy(update={"freezes": (frozen,)}))
    line = control.take(event(1))
    assert len(control.lines()) == 1, "one fsync for the decision and the seal"
    assert (line["seal"]["run_id"], line["seal"]["state"]) == (line["run_id"], "REFUSED")
    assert checked(ControlPaths(str(tmp_path)))[1] == []
    forged(control.store, line["run_id"], lambda rec: {**rec, "at_ns": rec["at_ns"] + 1})
    assert len(checked(ControlPaths(str(tmp_path)))[1]) == 1


def test_the_dispatchers_runs_are_sealed_among_its_decisions_and_a_run_it_let_in_cannot_vanish(tmp_path, entry):
    control = Control(tmp_path, entry)
    control.store.keep_seal = sealed_in(control.audit)
    run_id = control.take(event(1))["run_id"]
    paths = ControlPaths(str(tmp_path))
    assert checked(paths)[1] == []
    control.finish()
    assert [line["seal"]["state"] for line in control.lines() if "seal" in line] == ["APPLYING", "SUCCEEDED"]
    told = control_verbs._decisions(paths)
    assert [line["event"] for line in told] == ["e1"], "seals are no decisions"
    shutil.rmtree(control.store.of(run_id).path)
    assert "it is gone" in checked(paths)[1][0]


def test_a_seal_that_cannot_be_kept_stops_no_run(where, entry, paths, capfd):
    held = Journal(paths.hands)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("osremed.runbook.audit._WAIT_S", 0.05)
        run = kept_run(where, entry, make_event())
    held.close()
    assert (run.state, seals(paths)) == (RunState.SUCCEEDED, [])
    assert "a run is not sealed" in capfd.readouterr().err
    assert "1 ended runs are in no audit that is kept" in checked(paths)[2]


@pytest.mark.parametrize("noted", [False, True])
def test_a_run_by_hand_leaves_its_start_and_its_seals_in_the_audit_of_hands(where, paths, monkeypatch, noted):
    run_id = None

    def asked(*_places):
        return replace(where, store=RunStore(paths.runs, sealed_by_hand(paths.hands)))

    monkeypatch.setattr(verbs, "_operator", asked)
    monkeypatch.setattr(verbs, "publish_into", lambda *_: "")
    raised = make_event(at_ns=where.clock.wall_ns())
    monkeypatch.setattr(verbs, "_event_for", lambda *_: raised)
    run_id = verbs.run_id_for(raised, "near-oom")
    if noted:  # `runs start` wrote it before it began this process
        monkeypatch.setenv(NOTED_VARIABLE, run_id)
    answer = verbs.run(runbook=BOOK, host="node-1", state=paths.state, inventory="", collections="")
    assert answer.document["state"] == "SUCCEEDED"
    found = [(line["verb"], line.get("run_id")) for line in lines_of(paths.hands)]
    assert found == [*([] if noted else [("start", run_id)]), ("seal", None), ("seal", None)]


def test_a_long_audit_is_not_read_for_the_hash_of_its_last_entry(tmp_path, monkeypatch):
    path = str(tmp_path / "audit")
    audit = Audit(path)
    audit.append_all([{"number": number} for number in range(500)])
    audit.close()
    decoded = []
    real = journal._decode
    monkeypatch.setattr(journal, "_decode", lambda line: decoded.append(line) or real(line))
    again = Audit(path)
    assert len(decoded) < 10
    again.append({"number": 500})
    again.close()
    monkeypatch.undo()
    assert control_verbs.verify(path).faults == ()
