"""Rollout, upgrade, failure and removal on hosts with a real systemd: one fleet, step after step.

Each step is a fixture on the one before it, so that a play runs once however many tests look at what it did.
"""

from __future__ import annotations

import json
import re
import time
from types import SimpleNamespace

import pytest

from tests.nspawn.fleet import EVERYWHERE, FADING, TOKEN, Fleet, make_release

pytestmark = [pytest.mark.kernel, pytest.mark.ansible, pytest.mark.timeout(600)]
UNITS = ("osremed-fastoom", "osremed-agent")
RESTORECON = """#!/bin/sh
[ $1 = -V ] && exit
echo $* >> /run/selinux/labelled
[ $1 = -i ] && exit
for path; do case $path in -*) ;; *) [ -e $path ] || exit 255 ;; esac; done
"""
#: The most that `systemd-analyze security` may find, times ten.
MOST_EXPOSED = 25


@pytest.fixture(scope="module")
def fleet(bed, nspawn_hosts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("rollout")
    began = time.monotonic()
    hosts = nspawn_hosts(3)
    print(f"3 namespace hosts started in {time.monotonic() - began:.1f} s")
    make_release(directory, "1.0")
    # No kernel with SELinux here: two hosts that say they have it, one with a program that notes what it is told,
    # and ends as the real one does when a file is not there: 255, unless it was told -i.
    for host in hosts[:2]:
        host.run("mkdir /run/selinux && echo 1 > /run/selinux/enforce")
    hosts[0].run(f"printf %s '{RESTORECON}' > /usr/local/sbin/restorecon && chmod +x /usr/local/sbin/restorecon")
    # No driver here either: one host has the GPU watch all the same.
    return Fleet(bed, hosts, directory, {hosts[0].name: {"agent_timeline": "always"}})


@pytest.fixture(scope="module")
def checked(fleet):
    before = fleet.changes()
    return SimpleNamespace(
        before=before, ended=fleet.play("site", "--check", "--diff", **EVERYWHERE), after=fleet.changes()
    )


@pytest.fixture(scope="module")
def converged(fleet, checked):
    ended = fleet.play("site", **EVERYWHERE)
    assert ended.code == 0, ended.text
    return ended


@pytest.fixture(scope="module")
def again(fleet, converged):
    before = fleet.changes()
    return SimpleNamespace(before=before, ended=fleet.play("site", **EVERYWHERE), after=fleet.changes())


@pytest.fixture(scope="module")
def aside(fleet, again):
    """Under a directory of its own, where no unit is written, on the host with SELinux."""
    host = fleet.hosts[0]
    host.run("rm /run/selinux/labelled")
    ended = fleet.play("site", "--limit", host.name, osremed_prefix="/tmp/aside")
    ended.labelled = host.run("cat /run/selinux/labelled", check=False).stdout
    return ended


@pytest.fixture(scope="module")
def refused(fleet, again, aside):
    """Another file than the one that the checksum names."""
    ended = fleet.play("site", osremed_host_sha256="0" * 64)
    return SimpleNamespace(before=again.after, ended=ended, after=fleet.changes())


@pytest.fixture(scope="module")
def canary(fleet, refused):
    """A release whose agent does not run, on no host."""
    names = [host.name for host in fleet.hosts]
    make_release(fleet.directory, "1.1", breaks=names, words=("agent", "run"))
    ended = fleet.play("site", version="1.1")
    return SimpleNamespace(before=refused.after, ended=ended, after=fleet.changes())


@pytest.fixture(scope="module")
def faded(fleet, canary):
    """A release whose guard dies for good once the role has seen it well; the agent has that release already."""
    host = fleet.hosts[0]
    make_release(fleet.directory, "1.2", breaks=[host.name], how=FADING)
    agent = fleet.directory / "agent.yml"
    agent.write_text("- {hosts: osremed, gather_facts: false, become: true, roles: [osremed.host.agent]}\n")
    ended = fleet.play(agent, "--limit", host.name, version="1.2")
    assert ended.code == 0, ended.text
    drop_in = "/run/systemd/system/osremed-fastoom.service.d"
    host.run(f"rm /run/asked; mkdir -p {drop_in}; printf '[Service]\\nRestart=no\\n' > {drop_in}/once.conf")
    ended = fleet.play("site", version="1.2")
    host.run(f"rm -r {drop_in}; systemctl daemon-reload")
    return ended


@pytest.fixture(scope="module")
def upgraded(fleet, faded):
    """A release whose guard does not run on the second host."""
    make_release(fleet.directory, "2.0", breaks=[fleet.hosts[1].name])
    ended = fleet.play("upgrade", version="2.0", **EVERYWHERE)
    ended.releases = {host.name: releases(host)[0] for host in fleet.hosts}
    ended.active = fleet.hosts[1].run("systemctl is-active osremed-fastoom", check=False).stdout
    return ended


@pytest.fixture(scope="module")
def down(fleet, upgraded):
    """A third release while the third host is off."""
    fleet.hosts[2].stop()
    make_release(fleet.directory, "3.0")
    ended = fleet.play("site", version="3.0", release_keep=2, **EVERYWHERE)
    ended.running = {host.name: runs(host, "3.0") for host in fleet.hosts[:2]}
    ended.releases = [releases(host) for host in fleet.hosts[:2]]
    return ended


@pytest.fixture(scope="module")
def collected(fleet, down):
    """Evidence of the two hosts that are up."""
    fleet.play("collect", *_up(fleet), collect_into=str(fleet.directory / "evidence"))
    return fleet.directory / "evidence"


@pytest.fixture(scope="module")
def back(fleet, collected):
    """Each of the two hosts that are up goes back to the release it had before 3.0."""
    ended = fleet.play("rollback", *_up(fleet), version="", **EVERYWHERE)
    ended.running = [runs(host, version) for host, version in zip(fleet.hosts[:2], ("2.0", "1.0"))]
    return ended


@pytest.fixture(scope="module")
def too_far(fleet, back):
    """Once more: the second host has nothing older."""
    before = fleet.changes()
    ended = fleet.play("rollback", "--limit", fleet.hosts[1].name, version="")
    return SimpleNamespace(ended=ended, before=before, after=fleet.changes())


@pytest.fixture(scope="module")
def halves(fleet, too_far):
    """Plays that end before they start anything, each with the whole play after it, and which processes ran then."""
    host, where = fleet.hosts[0], ("--limit", fleet.hosts[0].name)
    elsewhere = {"agent_intake_url": "https://192.0.2.2"}
    seen = [main_pids(host)]
    for words, given in ((("--tags", "install"), {}), (("--tags", "configure"), elsewhere)):
        half = fleet.play("site", *where, *words, version="3.0", **given)
        assert (half.code, main_pids(host)) == (0, seen[-1]), half.text
        ended = fleet.play("site", *where, version="3.0", **given)
        assert ended.code == 0, ended.text
        seen.append(main_pids(host))
    again = fleet.play("site", *where, version="3.0", **elsewhere)
    return SimpleNamespace(seen=seen, again=again)


@pytest.fixture(scope="module")
def removed(fleet, halves):
    return fleet.play("uninstall", *_up(fleet), **EVERYWHERE)


def _up(fleet):
    return ("--limit", ",".join(host.name for host in fleet.hosts[:2]))


def main_pids(host):
    units = (*UNITS, "osremed-timeline")
    return {unit: host.run(f"systemctl show --value --property=MainPID {unit}").stdout.strip() for unit in units}


def releases(host, component="host"):
    """(the one in use, all of them)."""
    root = f"/opt/osremed/{component}"
    current, *names = host.run(f"readlink {root}/current && ls {root}/releases").stdout.split()
    return current.rpartition("/")[2], names


def runs(host, version):
    """Both services are up, with this release."""
    for component, unit in zip(("host", "agent"), UNITS):
        assert host.run(f"systemctl is-active {unit}").stdout == "active\n"
        assert releases(host, component)[0] == version
    said = host.run("/opt/osremed/host/current/osremed --version; /opt/osremed/host/current/osremed fastoom status")
    return said.stdout.startswith(f"osremed {version}\n")


def test_check_mode_on_fresh_hosts_tells_the_changes_and_makes_none(fleet, checked):
    assert checked.ended.code == 0, checked.ended.text
    assert [checked.ended.recap[host.name]["changed"] for host in fleet.hosts] == [5, 5, 5]
    assert '+  "sensitivity": "medium"' in checked.ended.text
    assert checked.after == checked.before


def test_a_rollout_brings_both_services_up_on_every_host(fleet, converged):
    for host in fleet.hosts:
        assert runs(host, "1.0")
        assert host.run("systemctl is-enabled " + " ".join(UNITS)).stdout == "enabled\nenabled\n"
        assert host.run("cat /etc/osremed/host_name").stdout == f"{host.name}\n"
        status = json.loads(host.run("/opt/osremed/agent/current/osremed agent status -o json").stdout)
        assert status["intake"]


def test_the_gpu_watch_runs_where_it_is_asked_for_and_the_play_says_where_there_is_no_driver(fleet, converged):
    watched, *others = fleet.hosts
    assert watched.run("systemctl is-active osremed-timeline").stdout == "active\n"
    status = json.loads(watched.run("/opt/osremed/agent/current/osremed timeline status -o json").stdout)
    assert status["policy_path"] == "/etc/osremed/timeline.json"
    for host in others:
        assert host.run("systemctl is-active osremed-timeline", check=False).stdout == "inactive\n"
    assert converged.told.count("so the GPU watch is not set up") == len(others)


def test_the_running_services_are_exposed_no_more_than_agreed(fleet, converged):
    for unit in UNITS:
        argv = f"systemd-analyze security --threshold={MOST_EXPOSED} --no-pager {unit}"
        said = fleet.hosts[0].run(argv, check=False)
        assert said.returncode == 0, said.stdout[-600:]


def test_where_selinux_is_the_files_get_its_labels_or_the_play_says_that_they_cannot(fleet, converged, again):
    told = fleet.hosts[0].run("cat /run/selinux/labelled").stdout
    assert told.count("-i -R ") == 2, "once for each component, and not again when nothing changed"
    for path in (
        "/opt/osremed/host",
        "/opt/osremed/agent",
        "/etc/osremed",
        "/etc/systemd/system/osremed-agent.service",
    ):
        assert path in told
    said = re.findall(r"ok: \[(\w+)\] =>[^\[]*SELinux is enforcing and restorecon is not on this host", converged.text)
    assert said == [fleet.hosts[1].name] * 2


def test_the_token_is_in_a_file_of_root_alone_and_in_no_output(fleet, converged, again):
    found = fleet.hosts[0].run("stat -c '%a %U' /etc/osremed/agent.token; cat /etc/osremed/agent.token").stdout
    assert found == f"600 root\n{TOKEN}\n"
    assert not [text for text in fleet.texts if TOKEN in text]


def test_a_second_rollout_changes_nothing(fleet, again):
    assert again.ended.code == 0, again.ended.text
    assert [each["changed"] for each in again.ended.recap.values()] == [0, 0, 0]
    assert _but_daemons_own(again.after) == _but_daemons_own(again.before)


def test_where_selinux_is_and_no_unit_is_written_the_rest_gets_its_labels(aside):
    assert aside.code == 0, aside.text
    assert "/tmp/aside/opt/osremed/host" in aside.labelled
    assert "/tmp/aside/opt/osremed/agent" in aside.labelled
    assert ".service" not in aside.labelled


def test_a_wrong_checksum_touches_nothing(refused):
    assert refused.ended.code != 0
    assert "Nothing was touched" in refused.ended.told
    assert [each["changed"] for each in refused.ended.recap.values()] == [0]
    assert _but_daemons_own(refused.after) == _but_daemons_own(refused.before)


def test_a_broken_release_ends_at_the_canary_which_gets_its_old_one_back(fleet, canary):
    first, *others = (host.name for host in fleet.hosts)
    assert canary.ended.code != 0
    assert canary.ended.recap[first]["failed"] == 1
    assert not set(others) & set(canary.ended.recap), "the rest of the fleet was touched"
    assert "The agent answers" in canary.ended.told
    assert "the host has what it had before: release 1.0" in canary.ended.told
    assert "All components have what they had before" in canary.ended.told
    for component, unit in zip(("host", "agent"), UNITS):
        assert releases(fleet.hosts[0], component) == ("1.0", ["1.0"]), "one component stayed on the new release"
        assert fleet.hosts[0].run(f"systemctl is-active {unit}").stdout == "active\n"


def test_a_guard_that_dies_after_its_own_verification_ends_the_rollout_at_the_canary(fleet, faded):
    first, *others = (host.name for host in fleet.hosts)
    assert faded.code != 0
    assert faded.recap[first]["failed"] == 1
    assert not set(others) & set(faded.recap), "the rest of the fleet was touched"
    assert "Health gate | All services run, and are still the ones that were started" in faded.told
    assert "All components have what they had before" in faded.told
    assert releases(fleet.hosts[0]) == ("1.0", ["1.0"])
    assert fleet.hosts[0].run("systemctl is-active " + " ".join(UNITS)).stdout == "active\nactive\n"


def test_an_upgrade_fails_on_the_broken_host_alone_and_it_keeps_the_old_release(fleet, upgraded):
    first, second, third = fleet.hosts
    assert upgraded.code != 0
    assert {name: each["failed"] for name, each in upgraded.recap.items()} == {
        first.name: 0, second.name: 1, third.name: 0,
    }  # fmt: skip
    assert "the host has what it had before: release 1.0" in upgraded.told
    assert upgraded.releases == {first.name: "2.0", second.name: "1.0", third.name: "2.0"}
    assert upgraded.active == "active\n"


def test_a_host_that_is_down_fails_alone(fleet, down):
    first, second, third = fleet.hosts
    assert down.recap[third.name]["unreachable"] == 1
    for host in (first, second):
        assert down.recap[host.name]["failed"] == down.recap[host.name]["unreachable"] == 0
        assert down.running[host.name]


def test_old_releases_go_but_for_the_last_ones(fleet, down):
    assert down.releases == [("3.0", ["2.0", "3.0"]), ("3.0", ["1.0", "3.0"])]


def test_evidence_of_each_host_is_on_the_controller_for_its_owner_alone(fleet, collected):
    for host in fleet.hosts[:2]:
        kept = collected / f"{host.name}.json"
        assert kept.stat().st_mode & 0o777 == 0o600
        document = json.loads(kept.read_text())
        assert document["host"] == host.name
        assert document["items"]["panorama"]["total_bytes"] > 0
        assert document["gaps"] == {}


def test_going_back_takes_each_host_to_the_release_it_had_before(back):
    assert back.code == 0, back.text
    assert back.running == [True, True]


def test_a_host_without_an_older_release_stays_as_it_is(too_far):
    assert too_far.ended.code != 0
    assert "No older release is on this host, in use is 1.0. Nothing was touched" in too_far.ended.told
    assert _but_daemons_own(too_far.after) == _but_daemons_own(too_far.before)


def test_what_an_earlier_play_put_in_place_and_did_not_start_is_started_by_the_next_one(halves):
    before, installed, configured = halves.seen
    assert not set(before.values()) & set(installed.values()), "a daemon of the older release runs on"
    changed = {unit for unit in before if configured[unit] != installed[unit]}
    assert changed == {"osremed-agent"}, "the agent alone reads where the intake is"
    assert [each["changed"] for each in halves.again.recap.values()] == [0]


def test_removal_leaves_no_residue(fleet, checked, removed):
    assert removed.code == 0, removed.text
    after = fleet.changes()
    for host in fleet.hosts[:2]:
        assert after[host.name] == checked.before[host.name]
        assert (
            host.run("systemctl list-unit-files 'osremed*' --no-legend; ls -A /run/osremed", check=False).stdout == ""
        )
        assert host.run("systemctl is-system-running").stdout == "running\n"
        left = host.run(
            "find /sys/fs/cgroup -name '*osremed*'; getent passwd | grep osremed; ls -d /tmp/.ansible/*", check=False
        )
        assert left.stdout == ""


def test_no_play_gave_a_warning(fleet, removed):
    assert not [line for text in fleet.texts for line in text.splitlines() if "WARNING" in line or "DEPRECAT" in line]


def _but_daemons_own(found):
    """Without what the running daemons write by themselves."""
    own = "var/lib/osremed/"
    return {
        host: {path: facts for path, facts in each.items() if not path.startswith(own)} for host, each in found.items()
    }
