"""Prefect is away: events wait in the journal of their host and arrive, once, when it is back."""

import json
import os
import socket
import subprocess
import sys

import pytest

from osremed.core.clock import SystemClock
from osremed.core.event import event_from_json
from osremed.core.journal import Journal
from osremed.flows.intake import ensure_token
from osremed.flows.server import free_port, prefect_is_up, start_server, stop_server
from osremed.flows.settings import ControlPaths
from osremed.flows.verbs import publish_into
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator
from osremed.runbook.store import RunStore
from tests.prefect.conftest import RunningDispatcher, post, wait_for
from tests.prefect.test_dispatcher import CASE, event
from tests.support.acting import acts

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(400)]


def start_agent(prefix, port, token_file):
    """The real agent of a host below `prefix`."""
    for directory in ("etc/osremed", "run/osremed", "var/lib/osremed/events"):
        (prefix / directory).mkdir(parents=True)
    config = {"intake_url": f"http://127.0.0.1:{port}", "token_file": token_file}
    (prefix / "etc/osremed/agent.json").write_text(json.dumps(config))
    environ = {**os.environ, "OSREMED_PREFIX": str(prefix)}
    return subprocess.Popen([sys.executable, "-m", "osremed", "agent", "run"], env=environ)


def status(prefix):
    try:
        return json.loads((prefix / "run/osremed/agent.json").read_text())
    except (FileNotFoundError, ValueError):
        return {"last_error": "", "spooled": None, "shipped": None}


def test_events_stay_spooled_while_prefect_is_down_and_arrive_once_it_is_back(tmp_path, prefect_server):
    from osremed.flows.dispatcher import DispatcherSettings

    assert prefect_server  # flows are shown there; the dispatcher watches a server of its own, which is down at first
    port, paths, prefix = free_port(), ControlPaths(str(tmp_path / "control")), tmp_path / "host"
    operator = Operator(
        ReplayedHost(load_case(CASE).given),
        RunStore(paths.runs),
        SystemClock(),
        frozenset({"case-host"}),
        restrict=acts,
    )
    settings = DispatcherSettings(paths, "runbooks", f"http://127.0.0.1:{port}/api", "127.0.0.1", free_port())
    running = RunningDispatcher(settings, operator, lambda run: publish_into(operator.store, run))
    agent = start_agent(prefix, settings.listen_port, paths.token)
    journal = Journal(str(prefix / "var/lib/osremed/events/fastoom"))
    journal.append(event_from_json(event(1)).as_json())
    server = None
    try:
        wait_for(lambda: "503" in status(prefix)["last_error"])
        assert status(prefix)["shipped"] == 0
        assert operator.store.runs() == ((), ())

        server = start_server(str(tmp_path / "prefect"), port=port)
        wait_for(lambda: status(prefix)["shipped"] == 1, 120)
        runs = wait_for(lambda: [run for run in operator.store.runs()[0] if run.ended], 120)
        assert [run.state for run in runs] == [RunState.SUCCEEDED]
        assert status(prefix)["spooled"] == 0
    finally:
        agent.terminate()
        agent.wait(30)
        running.stop()
        if server:
            stop_server(server)


def test_a_run_whose_prefect_dies_under_it_ends_as_if_nothing_had_happened(tmp_path):
    server = start_server(str(tmp_path / "prefect"))
    port, paths = free_port(), ControlPaths(str(tmp_path / "control"))
    argv = [sys.executable, "-m", "tests.prefect.dispatcher_main", paths.state, server.api_url, str(port)]
    dispatcher = subprocess.Popen([*argv, str(server.process.pid)])
    try:
        wait_for(lambda: prefect_is_up(f"http://127.0.0.1:{port}/v1"), 120)
        status_code, _ = post(f"http://127.0.0.1:{port}/v1/events", {"events": [event(1)]}, ensure_token(paths.token))
        assert status_code == 200
        store = RunStore(paths.runs)
        (run,) = wait_for(lambda: [run for run in store.runs()[0] if run.ended], 180)
        assert run.state is RunState.SUCCEEDED, run.reason
        assert "recovered" not in [happening.kind for _, happening in store.happenings(run.run_id)]
        wait_for(lambda: server.process.poll() is not None, 60)
        wait_for(lambda: os.path.exists(store.of(run.run_id).report), 60)
    finally:
        dispatcher.terminate()
        dispatcher.wait(60)
        stop_server(server)


def test_a_port_that_is_taken_is_an_error_and_not_a_dispatcher_that_listens_to_nobody(tmp_path, prefect_server):
    environ = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    argv = [sys.executable, "-m", "tests.prefect.dispatcher_main", str(tmp_path / "control"), prefect_server.api_url]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        argv += [str(taken.getsockname()[1]), "0"]
        ended = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "the intake cannot listen" in ended.stderr
