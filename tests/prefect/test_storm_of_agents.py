"""A whole fleet tells at once, over HTTP, through the spools of its agents, and the dispatcher is killed twice
meanwhile: every event is decided, in the order of its host, and no more runs begin than the rule says."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter

import pytest

from osremed.agent.config import AgentConfig, parse_endpoint
from osremed.agent.daemon import Agent
from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.core.journal import Journal, read_journal
from osremed.core.paths import host_paths
from osremed.runbook.cases import load_case
from osremed.runbook.catalog import load_catalog
from osremed.runbook.model import RunState
from osremed.runbook.store import RunStore
from tests.prefect.conftest import wait_for
from tests.prefect.test_two_dispatchers import CASES, Pair

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(900)]
CASE = f"{CASES}/policy-too-low.yaml"
EVENTS_EACH, SENDERS = 40, 8


class Host:
    """What a host has of the agent: journals, the spool and who sends what is in it."""

    def __init__(self, directory, name, pair):
        self.name, paths = name, host_paths(str(directory))
        intake = parse_endpoint(f"http://127.0.0.1:{pair.port}")
        self.agent = Agent(AgentConfig(intake, pair.paths.token, history=False), paths, SystemClock())
        self._journal = Journal(os.path.join(paths.events, "fastoom"))
        self.told = []

    def tell(self, attributes):
        event = Event(f"{self.name}-{len(self.told)}", "memory.near_oom", self.name, time.time_ns(), attributes)
        self._journal.append(event.as_json())
        self.told.append(event.id)

    @property
    def shipped(self):
        return self.agent.shipper.shipped

    def step(self):
        self.agent.shipper.step()


@pytest.fixture
def unflushed(monkeypatch):
    """The disks of a thousand hosts are one here: what the hosts write is not flushed. The dispatcher's is."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _fd: None)


@pytest.fixture
def storm(request, tmp_path, prefect_server, unflushed):
    pair = Pair(str(tmp_path / "control"), prefect_server.api_url, "quick", CASE)
    attributes = load_case(CASE).given.event["attributes"]
    hosts = [Host(tmp_path / f"host-{number}", f"case-{number}", pair) for number in range(request.param)]
    for host in hosts:
        for _ in range(EVENTS_EACH):
            host.tell(attributes)
    pair.start()
    wait_for(lambda: os.path.exists(pair.paths.lock), 60)
    yield pair, hosts
    for process in pair.processes:
        process.kill()
        process.wait(30)


@pytest.mark.parametrize("storm", [100, pytest.param(1000, marks=pytest.mark.long)], indirect=True)
def test_no_event_of_a_fleet_is_lost_or_decided_twice_and_runs_stay_bounded(storm):
    pair, hosts = storm
    wait_for(pair.leader, 120)
    over = threading.Event()

    def send(mine):
        while not over.is_set() and any(host.shipped < EVENTS_EACH for host in mine):
            for host in mine:
                host.step()

    senders = [threading.Thread(target=send, args=(hosts[number::SENDERS],)) for number in range(SENDERS)]
    shipped = lambda: sum(host.shipped for host in hosts)  # noqa: E731
    total = len(hosts) * EVENTS_EACH
    for sender in senders:
        sender.start()
    try:
        for share in (0.2, 0.6):
            wait_for(lambda share=share: shipped() >= share * total, 300)
            pair.processes[-1].kill()
            pair.processes[-1].wait(30)
            pair.start()
        wait_for(lambda: shipped() == total, 400)
    finally:
        over.set()
        for sender in senders:
            sender.join(60)

    taken = [(entry.record["host"], entry.record["id"]) for entry in read_journal(pair.paths.intake).entries]
    assert len(taken) == total
    by_host: dict[str, list[str]] = {}
    for host, event_id in taken:
        by_host.setdefault(host, []).append(event_id)
    assert by_host == {host.name: host.told for host in hosts}

    decisions = lambda: [entry.record for entry in read_journal(pair.paths.decisions).entries]  # noqa: E731
    answers = lambda: Counter(each["event"] for each in decisions() if each.get("runbook") == "near-oom")  # noqa: E731
    wait_for(lambda: len(answers()) == total, 300)
    assert set(answers().values()) == {1}
    store, rule = RunStore(pair.paths.runs), load_catalog("runbooks")["near-oom"].runbook.guards.storm
    wait_for(lambda: all(run.ended for run in store.runs()[0]), 300)
    let_in = [run for run in store.runs()[0] if run.admitted]
    assert 1 <= len(let_in) <= rule.max_runs
    for run in let_in:  # what was not proven when its dispatcher was killed is taken back; after some the breaker opens
        taken_back = run.state is RunState.UNDONE and "the controller stopped in" in run.reason
        held_back = run.state is RunState.REFUSED and run.reason.startswith("breaker")
        assert run.state is RunState.SUCCEEDED or taken_back or held_back, (run.state, run.reason)
    assert [host.name for host in hosts if host.agent.spool.spooled] == []
