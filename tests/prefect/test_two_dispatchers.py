"""Two dispatchers on one state directory, the one that leads killed again and again: each event has its run once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import httpx
import pytest

from osremed.core.journal import read_journal
from osremed.flows.intake import ensure_token
from osremed.flows.server import free_port
from osremed.flows.settings import ControlPaths
from osremed.runbook.audit import verify
from osremed.runbook.cases import load_case
from osremed.runbook.model import RunState
from osremed.runbook.store import RunStore
from tests.prefect.conftest import post, wait_for

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(900)]
CASES = "runbooks/near-oom/cases"
KILLS = 2
#: The state in which the leader is killed -> (what takes its time there, the case of the host, how its runs may end).
KILLED_IN = {
    RunState.COLLECTING: ("slow", "policy-too-low", {RunState.SUCCEEDED}),
    RunState.APPLYING: ("slow-change", "policy-too-low", {RunState.SUCCEEDED, RunState.UNDONE}),
    RunState.UNDOING: ("slow-undo", "no-help", {RunState.UNDONE}),
}


def event(number, pair):
    document = {"id": f"{pair.slow}-{number}", "host": f"case-{number}", "time_ns": time.time_ns()}
    return {**document, **load_case(pair.case).given.event}


class Pair:
    def __init__(self, state, api_url, slow, case):
        self.slow, self.case = slow, case  # the events of each slow host have names of their own: one Prefect for all
        self.paths, self.port = ControlPaths(state), free_port()
        os.makedirs(state)
        self.token = ensure_token(self.paths.token)
        self._argv = [sys.executable, "-m", "tests.prefect.dispatcher_main", state, api_url, str(self.port), slow, case]
        self.processes = []

    def start(self):
        self.processes.append(subprocess.Popen(self._argv))

    def leader(self):
        """The process that has written itself down, once it is ready."""
        with open(self.paths.lock, encoding="utf-8") as stream:
            told = stream.read().split()
        found = [each for each in self.processes if told and str(each.pid) == told[1] and each.poll() is None]
        return found[0] if found and self._ready() else None

    def _ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def send(self, *events):
        return post(f"http://127.0.0.1:{self.port}/v1/events", {"events": list(events)}, self.token)


@pytest.fixture
def pair(request, tmp_path, prefect_server):
    slow, case, _ends = KILLED_IN[request.param]
    pair = Pair(str(tmp_path / "control"), prefect_server.api_url, slow, f"{CASES}/{case}.yaml")
    pair.start()
    wait_for(lambda: os.path.exists(pair.paths.lock), 60)
    pair.start()
    yield pair
    for process in pair.processes:
        process.kill()
        process.wait(30)


def shown(server, run_id):
    """What flow runs say of it, but for those that say that their dispatcher was killed."""
    body = {"flow_runs": {"tags": {"all_": [f"run:{run_id}"]}}}
    found = httpx.post(f"{server.api_url}/flow_runs/filter", json=body, timeout=30).json()
    return [each["state"]["name"] for each in found if each["state"]["type"] != "CRASHED"]


@pytest.mark.parametrize(("pair", "state"), [(each, each) for each in KILLED_IN], indirect=["pair"])
def test_who_leads_is_killed_in_the_middle_of_runs_and_each_event_has_its_run_once(pair, state, prefect_server):
    store, sent = RunStore(pair.paths.runs), []
    for number in range(KILLS):
        leader = wait_for(pair.leader, 120)
        events = [event(2 * number, pair), event(2 * number + 1, pair)]
        assert pair.send(*events)[0] == 200
        sent += events
        names = [each["id"] for each in events]
        wait_for(lambda: [run for run in store.runs()[0] if run.state is state and run.event.id in names], 120)  # noqa: B023
        leader.kill()
        leader.wait(30)
        pair.start()  # as systemd would: it stands by
    (Path(pair.paths.state) / "go").touch()  # until now nothing went beyond the state in which its leader was killed
    wait_for(pair.leader, 120)
    assert pair.send(*sent)[1]["acked"] == [each["id"] for each in sent]  # hosts tell again what they saw no answer to
    wait_for(lambda: len([run for run in store.runs()[0] if run.ended]) == len(sent), 120)

    runs, damaged = store.runs()
    assert sorted(run.event.id for run in runs) == sorted(each["id"] for each in sent)
    assert damaged == ()
    assert [entry.record["id"] for entry in read_journal(pair.paths.intake).entries] == [each["id"] for each in sent]
    for run in runs:
        raised = [happening for _, happening in store.happenings(run.run_id) if happening.kind == "raised"]
        assert len(raised) == 1
        wait_for(lambda run=run: shown(prefect_server, run.run_id) == [run.state.value], 120)
        assert run.state in KILLED_IN[state][2], run.reason
    assert verify(pair.paths.decisions).faults == ()
