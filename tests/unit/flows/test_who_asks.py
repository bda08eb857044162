"""Nobody approves what they asked for, whatever name they give: the kernel knows whose login it is."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from osremed.core.errors import ExitCode
from osremed.core.journal import read_journal
from osremed.flows import undo_verbs
from osremed.flows.settings import ControlPaths
from osremed.runbook import audit
from osremed.runbook.audit import acting_as, caller, caller_uid, written_by_hand
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import RunState
from osremed.runbook.operate import drive
from osremed.runbook.store import RunStore
from tests.support.kept import kept_run, operator_on
from tests.unit.runbook.conftest import ROOT, make_event

OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'
ASKED, OTHER = 54321, 54322


class Left(Exception):
    """Who drove the run went away when it began to wait."""


@pytest.fixture
def waiting(tmp_path):
    """(state, run id) of one that `bob`, whose login is that of uid ASKED, wants taken back."""
    paths, host = ControlPaths(str(tmp_path / "control")), tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    where = operator_on(paths.runs, host)
    entry = load_entry(str(ROOT / "runbooks/near-oom/runbook.yaml"))
    old = kept_run(where, entry, make_event(at_ns=where.clock.wall_ns()))
    opened = where.store.create_undo(old, where.clock, requested_by="bob", why="", requested_uid=ASKED)

    async def leave(_seconds):
        raise Left

    with pytest.raises(Left):
        asyncio.run(drive(replace(where, pause=leave), opened, entry.runbook))
    opened.close()
    assert opened.run.state is RunState.AWAITING_APPROVAL
    return paths.state, opened.run.run_id


def approved_as(name, login, state, run_id):
    """`osremed runs approve` under this name, in a login of that user (None: in none)."""
    words = shlex.join([sys.executable, "-m", "osremed", "runs", "approve", run_id, "--state", state])
    begin = f"echo {login} > /proc/self/loginuid && " if login else ""
    env = {**os.environ, "OSREMED_ACTOR": name, "OSREMED_LANG": "en"}
    return subprocess.run(
        ["bash", "-c", f"{begin}exec {words}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
        cwd=ROOT,
        check=False,
    )


def can_log_in():
    tried = subprocess.run(["bash", "-c", f"echo {OTHER} > /proc/self/loginuid"], capture_output=True, check=False)
    return tried.returncode == 0


needs_login = pytest.mark.skipif(not can_log_in(), reason="this process may not begin logins (root without one may)")


def noted(state):
    return [entry.record for entry in read_journal(ControlPaths(state).hands).entries]


@needs_login
def test_who_asked_does_not_approve_under_another_name(waiting):
    state, run_id = waiting
    told = approved_as("someone-else", ASKED, state, run_id)
    assert told.returncode == ExitCode.BAD_INPUT
    assert f"{ASKED} (uid {ASKED}) asked for run {run_id}, as bob: somebody else approves it" in told.stderr
    assert not os.path.exists(RunStore(ControlPaths(state).runs).of(run_id).approval)
    (line,) = noted(state)
    assert (line["verb"], line["by"], line["who"]["login_uid"]) == ("approve", "someone-else", ASKED)
    assert "somebody else approves it" in line["refused"]


@needs_login
def test_another_login_approves_and_the_audit_and_the_answer_say_whose_it_is(waiting):
    state, run_id = waiting
    told = approved_as("carol", OTHER, state, run_id)
    assert told.returncode == ExitCode.OK, told.stderr
    assert told.stdout.startswith(f"approved by carol ({OTHER}, uid {OTHER}): plan ")
    (line,) = noted(state)
    assert line["who"] == {
        "via": "cli",
        "uid": os.getuid(),
        "user": audit.user_of(os.getuid()),
        "login_uid": OTHER,
        "login": str(OTHER),
    }
    assert "refused" not in line


@pytest.mark.skipif(audit.login_uid() is not None or os.getuid() != 0, reason="needs root without a login")
def test_without_a_login_root_is_nobody_in_particular_and_names_are_compared(waiting):
    state, run_id = waiting
    assert approved_as("bob", None, state, run_id).returncode == ExitCode.BAD_INPUT
    assert approved_as("carol", None, state, run_id).returncode == ExitCode.OK
    assert noted(state)[-1]["who"]["uid"] == 0


@pytest.fixture
def login(tmp_path, monkeypatch):
    """Says whose login this is."""
    path = tmp_path / "loginuid"
    monkeypatch.setattr(audit, "_LOGIN_UID", str(path))
    return lambda uid: path.write_text(str(uid))


@pytest.mark.parametrize(
    ("written", "known"), [("1000", 1000), ("0", 0), ("4294967295", None), ("x", None), ("", None)]
)
def test_a_login_that_is_not_told_is_none(login, written, known):
    login(written)
    assert audit.login_uid() == known
    assert caller_uid() == (known if known is not None else os.getuid() or None)


def test_a_caller_with_a_token_is_known_by_that_and_a_local_agent_by_its_owners_login(login):
    login(1000)
    with acting_as("ana"):
        assert (caller_uid(), caller()["via"]) == (None, "token")
    with acting_as("agent of ana", by_token=False):
        assert (caller_uid(), caller()["via"]) == (1000, "cli")
    assert caller_uid() == 1000


def test_every_line_a_person_leaves_says_which_user_that_was(login, tmp_path):
    login(1000)
    with written_by_hand(str(tmp_path / "hands")) as hands:
        hands.append({"verb": "freeze", "by": "whoever", "who": "nobody"})
    (line,) = (entry.record for entry in read_journal(str(tmp_path / "hands")).entries)
    assert (line["by"], line["who"]["login_uid"], line["who"]["uid"]) == ("whoever", 1000, os.getuid())
    assert audit.verify(str(tmp_path / "hands")).faults == ()


def test_who_asks_for_an_undo_is_kept_with_the_run(login, tmp_path, monkeypatch):
    login(1000)
    paths, host = ControlPaths(str(tmp_path / "control")), tmp_path / "host"
    host.mkdir()
    (host / "fastoom.json").write_bytes(OLD)
    where = operator_on(paths.runs, host)
    run = kept_run(
        where, load_entry(str(ROOT / "runbooks/near-oom/runbook.yaml")), make_event(at_ns=where.clock.wall_ns())
    )
    monkeypatch.setattr(undo_verbs.subprocess, "Popen", lambda *_, **__: None)
    monkeypatch.setenv("OSREMED_ACTOR", "someone-else")
    told = undo_verbs.runs_undo(run_id=run.run_id, state=paths.state, inventory="i", collections="c").document
    assert (told["requested_by"], told["requested_uid"]) == ("someone-else", 1000)
