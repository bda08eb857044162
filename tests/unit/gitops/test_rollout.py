"""A roll-out brings one set and remembers which; what is live meanwhile, and who else would roll out, it sees."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from osremed.core.errors import BadInput
from osremed.gitops import live
from osremed.gitops.live import Home
from osremed.gitops.rollout import bring, is_due
from osremed.gitops.scaffold import SCAFFOLD
from tests.unit.gitops.conftest import NAMES

PATH = "policies/all.yaml"


def go_live(home, sensitivity):
    files = {PATH: SCAFFOLD[PATH].replace("sensitivity: medium", f"sensitivity: {sensitivity}").encode()}
    with live.alone(home):
        name = live.adopt(home, live.stage(home, files), files)
        live.swap(home, name)
    return name


class During:
    """The fleet; before the call that confirms on `host`, `happens` is called once."""

    def __init__(self, fleet, host, happens):
        self.fleet, self.host, self.happens = fleet, host, happens
        self.hosts, self.groups = fleet.hosts, fleet.groups

    def run(self, call):
        if call.host == self.host and call.args.get("state") == "confirmed" and self.happens:
            happens, self.happens = self.happens, None
            happens()
        return self.fleet.run(call)


@pytest.fixture
def home(tmp_path):
    return Home(str(tmp_path / "gitops"))


def due(home):
    return {how: is_due(home, how, 3600) for how in ("check", "apply")}


def test_a_set_that_was_rolled_back_while_it_was_brought_stops_there_and_the_hosts_are_due(home, fleet):
    good, bad = go_live(home, "low"), go_live(home, "high")
    done = bring(home, During(fleet, "web-01", lambda: live.swap(home, good)))
    assert done.set == bad == live.read_json(home.hosts)["set"]
    assert [each.outcome for each in done.results] == ["changed"] * 3 + ["not_tried"] * 9
    assert done.results[3].detail == f"set {good[:12]} is live now, and {bad[:12]} no more"
    assert fleet.policy("web-03") is None
    assert due(home) == {"check": True, "apply": True}
    assert {each.outcome for each in bring(home, fleet).results} == {"changed"}
    assert {fleet.policy(name)["sensitivity"] for name in NAMES} == {"low"}
    assert due(home) == {"check": False, "apply": False}


def test_a_set_that_was_rolled_back_in_the_last_wave_is_not_taken_for_the_one_that_was_brought(home, fleet):
    good, bad = go_live(home, "low"), go_live(home, "high")
    done = bring(home, During(fleet, "web-11", lambda: live.swap(home, good)))
    assert {each.outcome for each in done.results} == {"changed"}
    assert done.set == bad
    assert due(home) == {"check": True, "apply": True}


def test_a_check_is_not_taken_for_a_roll_out(home, fleet):
    first = go_live(home, "low")
    bring(home, fleet)
    brought = live.read_json(home.hosts)
    second = go_live(home, "high")
    assert bring(home, fleet, check=True).set == second
    told = live.read_json(home.hosts)
    assert (told["set"], told["at_ns"], told["brought"]) == (first, brought["at_ns"], brought["brought"])
    assert due(home) == {"check": False, "apply": True}
    go_live(home, "low")
    assert due(home) == {"check": True, "apply": False}


def test_after_a_roll_out_there_is_nothing_to_compare(home, fleet):
    go_live(home, "low")
    bring(home, fleet)
    assert due(home) == {"check": False, "apply": False}


def test_two_roll_outs_are_never_at_work_at_once_and_the_second_says_so(home, fleet):
    go_live(home, "low")
    refused = []

    def again():
        with pytest.raises(BadInput, match="another roll-out to the hosts is at work") as raised:
            bring(home, fleet)
        refused.append(raised.value.hint)

    bring(home, During(fleet, "web-00", again))
    assert refused == ["try again when it has ended"]
    assert {each.outcome for each in bring(home, fleet).results} == {"unchanged"}


def test_a_roll_out_that_was_killed_holds_up_no_other(home, fleet):
    go_live(home, "low")
    script = "import fcntl, os, sys\nfd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)\n"
    script += "fcntl.flock(fd, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()\n"
    argv = [sys.executable, "-c", script, os.path.join(home.directory, "hosts.lock")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BadInput, match="another roll-out"):
            bring(home, fleet)
        other.kill()
    assert {each.outcome for each in bring(home, fleet).results} == {"changed"}
