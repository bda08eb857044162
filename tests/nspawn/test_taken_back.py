"""What nobody confirms is taken back by the agent as it is rolled out: out of its own sandbox, through a real systemd,
with an intake to tell and without one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.nspawn.fleet import EVERYWHERE, Fleet, make_release

pytestmark = [pytest.mark.kernel, pytest.mark.ansible, pytest.mark.timeout(600)]
PLAY = Path(__file__).parent / "taken_back.yml"
#: Long enough for the play to see that the changes were made; and how long an agent may be late on two busy cores.
CONFIRM_WITHIN_S, LATE_S = 15, 60
KINDS = ("with_intake", "without_intake")


@pytest.fixture(scope="module")
def hosts(bed, nspawn_hosts, tmp_path_factory):
    """Name -> host, on which the deadlines of `taken_back.yml` have passed."""
    directory = tmp_path_factory.mktemp("taken_back")
    make_release(directory, "1.0")
    started = dict(zip(KINDS, nspawn_hosts(len(KINDS))))
    fleet = Fleet(bed, list(started.values()), directory)
    for kind, host in started.items():
        url = {"agent_intake_url": "https://192.0.2.1" if kind == "with_intake" else ""}
        rolled_out = fleet.play("site", "--limit", host.name, **EVERYWHERE, **url)
        assert rolled_out.code == 0, rolled_out.text
    changed = fleet.play(PLAY, confirm_within_s=CONFIRM_WITHIN_S)
    assert changed.code == 0, changed.text
    for host in started.values():
        wait_until_taken_back(host)
    return started


def wait_until_taken_back(host):
    """Until no undo record is left."""
    until = time.monotonic() + CONFIRM_WITHIN_S + LATE_S
    while host.run("ls /var/lib/osremed/undo").stdout:
        said = host.run("journalctl -u osremed-agent --no-pager | tail -40", check=False).stdout
        assert time.monotonic() < until, said
        time.sleep(1)


def told_of(host):
    """Undo id -> attributes of its event, as the agent wrote it."""
    read = (
        "import json; from osremed.core.journal import read_journal\n"
        "print(json.dumps([each.record for each in read_journal('/var/lib/osremed/events/agent').entries]))"
    )
    told = host.run(f'PYTHONPATH=/opt/osremed/agent/current/osremed python3 -c "{read}"').stdout
    events = [each for each in json.loads(told) if each["name"].startswith("change.")]
    assert len(events) == len({each["attributes"]["undo_id"] for each in events}), "a change was told twice"
    return {each["attributes"]["undo_id"]: each for each in events}


def asked(host, unit, name):
    return host.run(f"systemctl show --value -p {name} {unit}.service").stdout.strip()


@pytest.mark.parametrize("unit", ["stays", "fails"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_release_is_taken_back_and_its_unit_runs_the_one_before(hosts, kind, unit):
    """Also where the release had failed by then, so that there was nothing to restart."""
    host = hosts[kind]
    assert host.run(f"readlink /opt/osremed/{unit}/current").stdout == "releases/1\n"
    assert asked(host, unit, "ActiveState") == "active"
    assert host.run(f"cat /run/{unit}.runs").stdout == "first", "the unit was not started anew"
    event = told_of(host)[unit]
    assert (event["name"], event["attributes"]["result"]) == ("change.reverted", "reverted")
    assert event["attributes"]["reload"] == f"{unit}.service is being restarted"


@pytest.mark.parametrize("kind", KINDS)
def test_a_drop_in_is_taken_back_and_systemd_has_read_it(hosts, kind):
    host = hosts[kind]
    assert host.run("ls /etc/systemd/system/stays.service.d", check=False).stdout == ""
    assert (asked(host, "stays", "Environment"), asked(host, "stays", "NeedDaemonReload")) == ("", "no")
    assert told_of(host)["environment"]["attributes"]["reload"] == "systemd has read it"
