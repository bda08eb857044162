"""Two dispatchers on one state directory, the one that leads killed again and again: each event has its run once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request

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

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]
CASE = "runbooks/near-oom/cases/policy-too-low.yaml"
KILLS = 2


def event(number):
    document = {"id": f"e{number}", "host": f"case-{number}", "time_ns": time.time_ns()}
    return {**document, **load_case(CASE).given.event}


class Pair:
    def __init__(self, state, api_url):
        self.paths, self.port = ControlPaths(state), free_port()
        os.makedirs(state)
        self.token = ensure_token(self.paths.token)
        self._argv = [sys.executable, "-m", "tests.prefect.dispatcher_main", state, api_url, str(self.port), "slow"]
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
def pair(tmp_path, prefect_server):
    pair = Pair(str(tmp_path / "control"), prefect_server.api_url)
    pair.start()
    wait_for(lambda: os.path.exists(pair.paths.lock), 60)
    pair.start()
    yield pair
    for process in pair.processes:
        process.kill()
        process.wait(30)


def shown(server, run_id):
    """How many flow runs show it, but for those of a dispatcher that was killed."""
    body = {"flow_runs": {"tags": {"all_": [f"run:{run_id}"]}}}
    found = httpx.post(f"{server.api_url}/flow_runs/filter", json=body, timeout=30).json()
    return len([each for each in found if each["state"]["type"] != "CRASHED"])


def test_who_leads_is_killed_in_the_middle_of_runs_and_each_event_has_its_run_once(pair, prefect_server):
    store, sent = RunStore(pair.paths.runs), []
    for number in range(KILLS):
        leader = wait_for(pair.leader, 120)
        events = [event(2 * number), event(2 * number + 1)]
        assert pair.send(*events)[0] == 200
        sent += events
        collecting = lambda: [run for run in store.runs()[0] if run.state is RunState.COLLECTING]  # noqa: E731
        wait_for(collecting, 60)
        leader.kill()
        leader.wait(30)
        pair.start()  # as systemd would: it stands by
    wait_for(pair.leader, 120)
    assert pair.send(*sent)[1]["acked"] == [each["id"] for each in sent]  # hosts tell again what they saw no answer to
    wait_for(lambda: len([run for run in store.runs()[0] if run.ended]) == len(sent), 120)

    runs, damaged = store.runs()
    assert sorted(run.event.id for run in runs) == sorted(each["id"] for each in sent)
    assert damaged == ()
    assert [entry.record["id"] for entry in read_journal(pair.paths.intake).entries] == [each["id"] for each in sent]
    for run in runs:
        raised = [happening for _, happening in store.happenings(run.run_id) if happening.kind == "raised"]
        assert (run.state, len(raised), shown(prefect_server, run.run_id)) == (RunState.SUCCEEDED, 1, 1)
    assert verify(pair.paths.decisions).faults == ()
