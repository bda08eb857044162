"""`runs undo`: what cannot be taken back is refused before anything is written, and asking twice is asking once."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from osremed.cli.main import main
from osremed.core.errors import BadInput, NotFound
from osremed.core.journal import read_journal
from osremed.flows import undo_verbs
from osremed.flows.settings import ControlPaths
from osremed.runbook.audit import acting_as
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import RunState
from tests.support.kept import kept_run, operator_on
from tests.unit.runbook.conftest import ROOT, make_event
from tests.unit.spoken import spoken

OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A state directory; `there.keeps(path)` a run of it that was kept; `there.begun` what was begun."""
    paths, host, begun = ControlPaths(str(tmp_path / "control")), tmp_path / "host", []
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    monkeypatch.setattr(undo_verbs.subprocess, "Popen", lambda argv, **more: begun.append((argv, more["env"])))
    where = operator_on(paths.runs, host)

    def keeps(path):
        return kept_run(where, load_entry(str(ROOT / path)), make_event(at_ns=where.clock.wall_ns())).run_id

    places = {"state": paths.state, "inventory": "inventory", "collections": "collections"}
    return SimpleNamespace(keeps=keeps, begun=begun, places=places, paths=paths, store=where.store)


def test_two_who_ask_get_one_run_and_the_audit_says_who_was_first(there):
    run_id = there.keeps("runbooks/near-oom/runbook.yaml")
    with acting_as("bob"):
        first = undo_verbs.runs_undo(run_id=run_id, reason="not needed", **there.places)
    with acting_as("eve"):
        again = undo_verbs.runs_undo(run_id=run_id, **there.places)
    assert first.document["run_id"] == again.document["run_id"]
    assert (first.document["state"], first.document["requested_by"]) == ("RAISED", "bob")
    assert "somebody else than bob approves it" in first.text
    with spoken("zh_TW"):
        told = undo_verbs.runs_undo(run_id=run_id, **there.places).text
    assert told.startswith(f"執行 {run_id} 已由此執行撤回\n")
    ((argv, env),) = there.begun
    assert argv[3:6] == ["runs", "drive", first.document["run_id"]]
    assert env["OSREMED_ACTOR"] == "bob"
    (entry,) = [each.record for each in read_journal(there.paths.hands).entries]
    assert (entry["verb"], entry["by"], entry["undoes"], entry["reason"]) == ("undo", "bob", run_id, "not needed")


def test_what_cannot_be_taken_back_is_refused_in_words_and_nothing_is_written(there, capsys):
    run_id = there.keeps("tests/crash/cordons.yaml")
    places = [word for name, value in there.places.items() for word in (f"--{name}", value)]
    assert main(["runs", "undo", run_id, *places]) == 2
    assert "cannot be taken back" in capsys.readouterr().err
    assert there.begun == []
    assert there.store.run_ids() == (run_id,)
    assert not os.path.exists(there.paths.hands)


def test_a_run_that_is_not_there_is_not_found(there):
    there.keeps("runbooks/near-oom/runbook.yaml")
    with pytest.raises(NotFound):
        undo_verbs.runs_undo(run_id="0" * 16, **there.places)


def test_a_run_is_driven_by_one_process_and_not_after_its_end(there, tmp_path):
    run_id = there.keeps("runbooks/near-oom/runbook.yaml")
    where = operator_on(there.paths.runs, tmp_path / "host")
    with pytest.raises(BadInput, match="has ended: SUCCEEDED"):
        undo_verbs._drive(where, run_id)
    opened = where.store.create_undo(where.store.load(run_id)[0], where.clock, requested_by="bob", why="")
    with pytest.raises(BadInput, match="driven by another process"):
        undo_verbs._drive(where, opened.run.run_id)
    opened.close()
    assert where.store.load(opened.run.run_id)[0].state is RunState.RAISED
