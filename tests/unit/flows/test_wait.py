"""Waiting for a run that another process drives: its outcome is the exit code, a time-out leaves it alone."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from osremed.cli.main import main
from osremed.console.binding import request_model
from osremed.core.errors import BadInput, ExitCode, NotFound
from osremed.core.event import event_from_json
from osremed.flows import start
from osremed.flows.settings import ControlPaths
from osremed.flows.verbs import runs_approve, runs_deny, runs_show
from osremed.runbook.audit import acting_as
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import RunState
from osremed.runbook.store import RunStore
from osremed.verbs.load import find
from tests.support import console_state


@pytest.fixture
def kept(tmp_path):
    with console_state.past(tmp_path) as found:
        yield found


def test_who_approves_and_waits_is_told_how_the_run_ended(kept):
    with acting_as("ben"):
        answer = runs_approve(run_id=kept.waiting, state=kept.state, wait=True, timeout="1m")
    assert (answer.exit_code, answer.document["state"]) == (ExitCode.OK, "SUCCEEDED")
    assert runs_show(run_id=kept.waiting, state=kept.state, wait=True).document == answer.document


def test_a_run_that_was_denied_ends_the_wait_with_its_own_exit_code(kept):
    ended = []
    waits = threading.Thread(
        target=lambda: ended.append(runs_show(run_id=kept.waiting, state=kept.state, wait=True, timeout="1m"))
    )
    waits.start()
    with acting_as("ben"):
        runs_deny(run_id=kept.waiting, state=kept.state, reason="no")
    waits.join(60)
    assert ended[0].exit_code == ExitCode.REFUSED


def test_a_time_out_has_its_own_exit_code_says_so_and_leaves_the_run_going(kept, capfd):
    words = ["runs", "show", kept.waiting, "--state", kept.state, "--wait", "--timeout", "300ms"]
    assert main(words) == 9 == ExitCode.TIMED_OUT
    told = capfd.readouterr()
    assert "not ended within 300ms: it goes on" in told.out
    assert told.err.count("AWAITING_APPROVAL") == 1
    assert main([*words, "-o", "json"]) == 9
    assert json.loads(capfd.readouterr().out)["state"] == "AWAITING_APPROVAL"
    assert RunStore(ControlPaths(kept.state).runs).load(kept.waiting)[0].state is RunState.AWAITING_APPROVAL


def test_an_ended_run_is_not_waited_for_and_one_that_is_not_there_is_an_error(kept):
    assert runs_show(run_id=kept.undone, state=kept.state, wait=True).exit_code == ExitCode.UNDONE
    with pytest.raises(NotFound):
        runs_show(run_id="nope", state=kept.state, wait=True)


@pytest.mark.parametrize("given", [{"timeout": "1m"}, {"wait": True, "timeout": "0s"}, {"wait": True, "timeout": "5"}])
def test_a_wrong_time_out_is_said_before_anything_is_done(kept, given):
    with acting_as("ben"), pytest.raises(BadInput):
        runs_approve(run_id=kept.waiting, state=kept.state, **given)
    assert RunStore(ControlPaths(kept.state).runs).load(kept.waiting)[0].state is RunState.AWAITING_APPROVAL
    with pytest.raises(BadInput):
        start.runs_start(
            runbook="no-such", host="x", state=kept.state, runbooks="/no", inventory="", collections="", **given
        )


def test_who_begins_a_run_and_waits_is_told_how_it_ended(tmp_path, monkeypatch):
    def begin(paths, run_id, words):
        event = event_from_json(json.loads(Path(words[words.index("--event") + 1]).read_text()), where="")
        operator = console_state._operator(tmp_path, paths.state, "web-9", helps=False)
        entry = load_entry(str(console_state.ROOT / "runbooks/near-oom/runbook.yaml"))
        console_state._run(operator, event, entry)

    monkeypatch.setattr(start, "_begin", begin)
    where = {
        "state": str(tmp_path / "control"),
        "runbooks": str(console_state.ROOT / "runbooks"),
        "inventory": "",
        "collections": "",
    }
    attributes = json.dumps(console_state.make_event("e", "x").attributes)
    answer = start.runs_start(**where, runbook="near-oom", host="web-9", attributes=attributes, wait=True, timeout="1m")
    assert (answer.exit_code, answer.document["state"]) == (ExitCode.UNDONE, "UNDONE")


def test_nobody_holds_a_request_over_the_network_open_with_it():
    for words in (["runs", "start"], ["runs", "show"], ["runs", "approve"]):
        assert not {"wait", "timeout"} & set(request_model(find(words)[0]).model_fields)
