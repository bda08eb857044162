"""`osremed runs case`: a run that there was becomes a case that replays it, without what makes no difference."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml

from osremed.cli.main import main
from osremed.runbook import casefrom, cases
from osremed.runbook.cases import Case, case_files, load_case, replay_case
from osremed.runbook.catalog import load_catalog
from osremed.runbook.store import RunStore

ENTRIES = load_catalog("runbooks")
SHIPPED = [(entry, path) for entry in ENTRIES.values() for path in case_files(entry)]
NEAR_OOM = Path("runbooks/near-oom/cases")


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Replays a case and keeps its run, as a dispatcher would: the state directory and the run, None if none began."""

    def run(path, entry):
        runs = tmp_path / "control/runs"
        runs.mkdir(parents=True)
        with monkeypatch.context() as patched:
            patched.setattr(cases.tempfile, "TemporaryDirectory", lambda **_: contextlib.nullcontext(str(runs)))
            cases.run_case(entry, str(path))
        kept = RunStore(str(runs)).runs()[0]
        return str(tmp_path / "control"), kept[0] if kept else None

    return run


@pytest.mark.parametrize(("entry", "path"), SHIPPED, ids=[path.removeprefix("runbooks/") for _, path in SHIPPED])
def test_the_case_of_any_run_tells_the_same_or_it_is_said_why_not(ran, capsys, entry, path) -> None:
    state, run = ran(path, entry)
    if run is None:
        assert load_case(path).expect.state == "NONE"
        return
    code = main(["runs", "case", run.run_id, "--state", state])
    told = capsys.readouterr()
    given = load_case(path).given
    if not run.bundle:
        assert "before evidence was collected" in told.err
        return
    if code:
        assert code == 2
        assert "ends otherwise" in told.err
        assert given.before or given.wait or given.as_wanted, "all that only a case by hand can tell"
        return
    case = yaml.safe_load(told.out)
    assert replay_case(entry, Case.model_validate(case), path).differences == ()
    assert set(case["given"].get("evidence", {})) <= set(given.evidence)
    assert len(str(case["given"].get("evidence", {}))) <= len(str(given.evidence))


def test_what_makes_no_difference_is_left_out_of_the_evidence_and_of_the_event(ran, tmp_path, capsys) -> None:
    case = yaml.safe_load((NEAR_OOM / "growing-group.yaml").read_text())
    panorama = case["given"]["evidence"]["panorama"]
    panorama["processes"] += [{"pid": pid, "name": "idle", "heap_bytes": 1, "cgroup": "/"} for pid in range(100, 130)]
    panorama["layers"] = [{"name": "balance", "rows": 3}]
    case["given"]["event"]["attributes"]["policy_sha256"] = "0" * 64
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump(case))
    state, run = ran(path, ENTRIES["near-oom"])
    assert main(["runs", "case", run.run_id, "--state", state]) == 0
    made = yaml.safe_load(capsys.readouterr().out)["given"]
    assert [each["pid"] for each in made["evidence"]["panorama"]["processes"]] == [51]
    assert set(made["evidence"]["panorama"]) == {"total_bytes", "processes", "files", "findings"}
    assert "policy_sha256" not in made["event"]["attributes"]


def test_however_much_was_collected_the_run_is_replayed_a_bounded_number_of_times() -> None:
    replays = []
    wide = {"given": {"event": {"attributes": {f"a{n}": n for n in range(9000)}}}, "expect": {}}
    made = casefrom._smaller(wide, lambda document: replays.append(0) or len(replays) < 1500)
    assert len(replays) < 1500
    assert len(made["given"]["event"]["attributes"]) == 9000 - casefrom._MOST_TRIES


def test_what_is_written_is_a_case_that_the_runbooks_tests_take(ran, tmp_path, capsys) -> None:
    state, run = ran(NEAR_OOM / "no-help.yaml", ENTRIES["near-oom"])
    assert main(["runs", "case", run.run_id, "--state", state]) == 0
    book = tmp_path / "books/near-oom"
    (book / "cases").mkdir(parents=True)
    (book / "runbook.yaml").write_text(Path("runbooks/near-oom/runbook.yaml").read_text())
    (book / "cases/recorded.yaml").write_text(capsys.readouterr().out)
    assert main(["runbook", "test", str(book)]) == 0
    assert "1 cases, 0 failed" in capsys.readouterr().out


def test_a_run_that_is_not_there_is_not_found(tmp_path, capsys) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["runs", "case", "0123456789abcdef", "--state", str(tmp_path)]) != 0
    assert "no run" in capsys.readouterr().err
