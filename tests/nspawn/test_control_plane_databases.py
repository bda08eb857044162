"""The control plane with PostgreSQL and Redis of another machine: kill any part, and nothing is lost or doubled."""

from __future__ import annotations

import json
import time

import pytest

from osremed.runbook.model import ENDED
from tests.nspawn.plane import OSREMED, TOKEN, make_plane, play, post
from tests.support import databases

pytestmark = [pytest.mark.kernel, pytest.mark.ansible, pytest.mark.prefect, pytest.mark.timeout(900)]
#: As the inventory has them, one for each event, so that no guard of a host refuses one.
HOSTS = iter(f"h{number}" for number in range(1, 10))


@pytest.fixture(scope="module")
def stores(bed):
    if why := databases.missing_here():
        pytest.skip(why)
    return databases.Databases(bed, f"10.77.{bed.session.subnet}.1")


@pytest.fixture(scope="module")
def plane(bed, stores, nspawn_hosts, tmp_path_factory):
    (host,) = nspawn_hosts(1)
    plane = make_plane(bed, host, tmp_path_factory.mktemp("control"), "--redis")
    urls = {"control_plane_database_url": stores.postgresql_url, "control_plane_redis_url": stores.redis_url}
    ended = play(plane, **urls)
    assert ended.code == 0, ended.text
    plane.again = play(plane, **urls)
    return plane


def send(plane):
    """A GPU that hangs on the next host; its id, once the intake has it on disk."""
    why = {"state": "raised", "source": "calls", "why": "rank 3 did not come"}
    told = {"name": "gpu.hang", "host": next(HOSTS), "attributes": why}
    said = post(plane.host, TOKEN, until=time.monotonic() + 120, told=told)
    assert said.get("acked") == [said["event"]], said
    return said["event"]


def runs_of(plane, event, timeout_s=150):
    """Its runs, once one has ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        said = plane.host.run(f"runuser -u osremed-control -- {OSREMED} runs list -o json", timeout_s=60).stdout
        found = [run for run in json.loads(said)["runs"] if run["event"]["id"] == event]
        if any(run["state"] in ENDED for run in found) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def flow_runs(stores, run):
    """How many show the run, but for those of a dispatcher that was killed: Prefect says of them that they crashed."""
    shown = f"tags::text like '%run:{run['run_id']}%' and state_type <> 'CRASHED'"
    return int(stores.sql(f"select count(*) from flow_run where {shown}"))


def test_prefect_keeps_its_runs_in_postgresql_and_its_messages_in_redis(plane, stores):
    (run,) = runs_of(plane, send(plane))
    assert flow_runs(stores, run) == 1
    assert int(stores.redis("dbsize")) > 0
    assert plane.host.run("ls /var/lib/osremed/control/prefect/*.db", check=False).returncode != 0


def test_a_second_converge_changes_nothing(plane):
    assert plane.again.code == 0, plane.again.text
    assert plane.again.recap["changed"] == 0


@pytest.mark.parametrize("part", ["osremed-prefect", "osremed-dispatcher", "postgresql", "redis"])
def test_a_part_that_is_killed_loses_and_doubles_nothing(plane, stores, part):
    """One event just before, one while it is away or just back."""
    before = send(plane)
    if part.startswith("osremed-"):
        plane.host.run(f"systemctl kill --signal=KILL {part}")
    else:
        stores.kill(part)
        time.sleep(3)
        stores.start(part)
    after = send(plane)
    for event in (before, after):
        (run,) = runs_of(plane, event)
        assert run["state"] in ENDED, run
        assert flow_runs(stores, run) <= 1
    said = plane.host.run(f"runuser -u osremed-control -- {OSREMED} audit verify", check=False)
    assert said.returncode == 0, said.stdout + said.stderr
