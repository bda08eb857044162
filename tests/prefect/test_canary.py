"""A canary with a real Prefect server: shown there as one flow run, driven on whether it answers or not."""

import os

import httpx
import pytest

from osremed.flows.server import free_port
from osremed.flows.settings import flow_run_in
from osremed.runbook.canary import Planned
from osremed.runbook.cases import load_case
from osremed.runbook.catalog import load_entry
from osremed.runbook.fanout import begin, load, place_of
from tests.prefect.conftest import wait_for
from tests.prefect.test_dispatcher import CASE, CONSOLE, make

__all__ = ["make"]
pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]
ID = "0123456789abcdef"
HOSTS = tuple(f"case-{number}" for number in range(60))


def left_by_a_killed_driver(paths):
    """On disk, and nobody drives it."""
    entry = load_entry("runbooks/near-oom/runbook.yaml")
    attributes = load_case(CASE).given.event["attributes"]
    begin(paths.canaries, Planned(ID, "near-oom", entry.digest, HOSTS[:3], attributes, 0.0, 0.0, "ann", 1), entry)


def of_prefect(server, what, body):
    return httpx.post(f"{server.api_url}/{what}/filter", json=body, timeout=30).json()


def test_a_canary_nobody_drives_is_driven_on_and_prefect_shows_its_waves_and_its_end(make, prefect_server):
    running = make(hosts=HOSTS)
    left_by_a_killed_driver(running.paths)
    running.wait_ready()
    canary = wait_for(lambda: (found := load(running.paths.canaries, ID)).ended and found, 120)
    assert canary.stopped == ""
    assert [len(wave) for wave in canary.waves] == [1, 2]

    def shown():
        found = of_prefect(prefect_server, "flow_runs", {"flow_runs": {"tags": {"all_": [f"canary:{ID}"]}}})
        return [each for each in found if each["state"]["name"] == "DONE"]

    (flow_run,) = wait_for(shown)
    assert flow_run["name"] == f"near-oom canary {ID}"
    assert flow_run["id"] == flow_run_in(place_of(running.paths.canaries, ID, "flow_run"))
    tasks = of_prefect(prefect_server, "task_runs", {"flow_runs": {"id": {"any_": [flow_run["id"]]}}})
    told = {each["name"].rsplit("-", 1)[0]: each["state"]["type"] for each in tasks}
    assert told == {"wave 1": "COMPLETED", "wave 2": "COMPLETED"}
    (artifact,) = of_prefect(prefect_server, "artifacts", {"artifacts": {"key": {"any_": [f"canary-{ID}"]}}})
    for ended in canary.outcomes.values():
        assert f"({CONSOLE}/runs/{ended.run_id})" in artifact["data"]
    wait_for(lambda: os.path.exists(place_of(running.paths.canaries, ID, "shown")))


def test_a_canary_goes_on_when_prefect_does_not_answer(make):
    running = make(hosts=HOSTS, api_url=f"http://127.0.0.1:{free_port()}/api")
    left_by_a_killed_driver(running.paths)
    canary = wait_for(lambda: (found := load(running.paths.canaries, ID)).ended and found, 120)
    assert canary.stopped == ""
    assert not os.path.exists(place_of(running.paths.canaries, ID, "flow_run"))
