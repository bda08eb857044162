"""The control plane on a host with a real systemd, from one archive, no package index: one life, step after step."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.nspawn.fleet import ROOT, Fleet

pytestmark = [pytest.mark.kernel, pytest.mark.ansible, pytest.mark.prefect, pytest.mark.timeout(900)]
TOKEN = "a-token-that-is-not-to-be-seen-anywhere-8d1f"
PASSWORD = "and-no-more-than-this-one-27c5"
ODD = 'p"a\\s$s`x y'
CHECK = """import sqlite3
print(*sqlite3.connect("control/prefect/prefect.db").execute("pragma integrity_check").fetchone())"""
UNITS = ("osremed-prefect", "osremed-dispatcher", "osremed-console")
#: The most that `systemd-analyze security` may find, times ten.
MOST_EXPOSED = 40
#: shadow-utils keep what was before a change, and a lock.
ACCOUNTS = {"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid"}
SHADOW = {f"{name}-" for name in ACCOUNTS} | {"etc/.pwd.lock"}
#: Asks the intake from the host itself: words are the URL, the token and the event.
POST = """import json, sys, urllib.error, urllib.request
url, token, event = sys.argv[1:]
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
request = urllib.request.Request(url, json.dumps({"events": [json.loads(event)]}).encode(), headers)
try:
    print(urllib.request.urlopen(request, timeout=20).read().decode())
except urllib.error.HTTPError as error:
    print(json.dumps({"status": error.code}))
"""


@pytest.fixture(scope="module")
def plane(bed, nspawn_hosts, tmp_path_factory):
    """One host in the group osremed_control; `play()` runs the playbook on it."""
    directory = tmp_path_factory.mktemp("control")
    (host,) = nspawn_hosts(1)
    asked = ["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    there = host.run(f"/usr/bin/python3 {asked[0]} {json.dumps(asked[1])}").stdout.strip()
    python = sys.executable if there == "{}.{}".format(*sys.version_info) else f"python{there}"
    archive = directory / "control.tar"
    argv = [sys.executable, str(ROOT / "tools/build_wheelhouse.py"), "--python", python, "--output", str(archive)]
    subprocess.run(argv, check=True, timeout=300, stdout=subprocess.DEVNULL)
    fleet = Fleet(bed, [host], directory)
    document = json.loads(fleet.inventory.read_text())
    fleet.inventory.write_text(json.dumps({"osremed_control": document["osremed"]}))
    runbooks = directory / "runbooks"
    shutil.copytree(ROOT / "runbooks", runbooks)
    inventory = directory / "fleet.yml"
    inventory.write_text("osremed: {hosts: {h9: {ansible_host: 192.0.2.9}}}\n")
    return SimpleNamespace(host=host, fleet=fleet, archive=archive, runbooks=runbooks, inventory=inventory)


def play(plane, *words, **variables):
    given = {
        "control_plane_wheelhouse": str(plane.archive), "control_plane_token": TOKEN,
        "control_plane_prefect_settings": {"PREFECT_ODD": ODD}, "control_plane_prefect_auth": f"osremed:{PASSWORD}",
        "control_plane_runbooks_from": str(plane.runbooks), "control_plane_inventory_from": str(plane.inventory),
        **variables,
    }  # fmt: skip
    ended = plane.fleet.play("control_plane", *words, version="", timeout_s=400, **given)
    return SimpleNamespace(code=ended.code, text=ended.text, told=ended.told, recap=ended.recap[plane.host.name])


@pytest.fixture(scope="module")
def checked(plane):
    before = plane.fleet.changes()
    return SimpleNamespace(before=before, ended=play(plane, "--check", "--diff"), after=plane.fleet.changes())


@pytest.fixture(scope="module")
def refused(plane, checked):
    wrong = (
        {"control_plane_sha256": "0" * 64},
        {"control_plane_redis_url": "redis://192.0.2.1:6379/0"},
        {"control_plane_inventory_from": ""},
    )
    refused = [play(plane, **each) for each in wrong]
    return SimpleNamespace(plays=refused, after=plane.fleet.changes())


@pytest.fixture(scope="module")
def converged(plane, refused):
    ended = play(plane)
    assert ended.code == 0, ended.text
    return ended


@pytest.fixture(scope="module")
def posted(plane, converged):
    return {token: post(plane.host, token) for token in (TOKEN, "another")}


@pytest.fixture(scope="module")
def again(plane, posted):
    return play(plane)


@pytest.fixture(scope="module")
def broken(plane, again):
    """A setting that Prefect does not start with."""
    settings = {"PREFECT_ODD": ODD, "PREFECT_SERVER_DATABASE_TIMEOUT": "never"}
    ended = play(plane, control_plane_prefect_settings=settings, control_plane_start_s=6)
    ended.answers = post(plane.host, TOKEN, until=time.monotonic() + 90)
    return ended


@pytest.fixture(scope="module")
def removed(plane, broken):
    return play(plane, control_plane_state="absent")


def post(host, token, *, until=0.0):
    """What the intake says to an event, asked again while it is not there or does not take events yet."""
    event = {"id": f"test-{time.monotonic_ns()}", "name": "nothing.asks.for.this", "host": "h9", "attributes": {}}
    event["time_ns"] = time.time_ns()
    words = [POST, "http://127.0.0.1:4280/v1/events", token, json.dumps(event)]
    script = "/usr/bin/python3 -c " + " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    while True:
        ended = host.run(script, check=False, timeout_s=40)
        said = json.loads(ended.stdout) if ended.returncode == 0 else {"status": ended.stderr[-300:]}
        if "status" not in said or time.monotonic() > until:
            return {**said, "event": event["id"]}
        time.sleep(1)


def test_check_mode_on_a_fresh_host_makes_no_change(checked):
    assert checked.ended.code == 0, checked.ended.text
    assert checked.ended.recap["changed"] >= 3
    assert "+Description=osremed dispatcher" in checked.ended.text
    assert checked.after == checked.before


def test_what_cannot_end_well_is_refused_and_touches_nothing(checked, refused):
    assert refused.after == checked.before
    for ended, why in zip(refused.plays, ("expected 000000", "--redis", "inventory (the hosts that runbooks act on)")):
        assert ended.code != 0
        assert why in ended.told
        assert "Nothing was touched" in ended.told
        assert ended.recap["changed"] == 0


def test_the_services_run_as_a_user_of_their_own(plane, converged):
    for unit in UNITS:
        pid = plane.host.run(f"systemctl show --value --property=MainPID {unit}").stdout.strip()
        assert plane.host.run(f"ps -o user:20= -p {pid}").stdout.strip() == "osremed-control"


def test_what_a_service_is_told_arrives_as_it_was_written(plane, converged):
    read = "tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID osremed-prefect)/environ | grep ^PREFECT_ODD="
    assert plane.host.run(read).stdout == f"PREFECT_ODD={ODD}\n"


def test_the_running_services_are_exposed_no_more_than_agreed(plane, converged):
    for unit in UNITS:
        argv = f"systemd-analyze security --threshold={MOST_EXPOSED} --no-pager {unit}"
        said = plane.host.run(argv, check=False)
        print(said.stdout.splitlines()[-1])
        assert said.returncode == 0, said.stdout[-600:]


def test_the_intake_takes_an_event_with_the_token_and_no_other(posted):
    assert posted[TOKEN]["acked"] == [posted[TOKEN]["event"]]
    assert posted["another"]["status"] == 401


def test_a_backup_holds_a_whole_database_and_no_other_backup(plane, again):
    for _ in range(2):
        plane.host.run("systemctl start osremed-backup", timeout_s=60)
    assert plane.host.run("systemctl is-active osremed-backup.timer").stdout == "active\n"
    last = plane.host.run("ls -1 /var/lib/osremed/control/backups | tail -1").stdout.strip()
    names = plane.host.run(f"tar tzf /var/lib/osremed/control/backups/{last}").stdout.splitlines()
    assert {"control/prefect/prefect.db", "control/intake.token"} <= set(names)
    assert not [name for name in names if "backups" in name or name.endswith("-wal")]
    look = f"cd $(mktemp -d) && tar xzf /var/lib/osremed/control/backups/{last} && python3 -c '{CHECK}'"
    assert plane.host.run(look).stdout == "ok\n"


def test_secrets_are_in_files_of_their_owner_alone_and_in_no_output(plane, again):
    files = "/etc/osremed/control.env /var/lib/osremed/control/intake.token"
    assert plane.host.run(f"stat -c '%a %U' {files}").stdout == "600 root\n600 osremed-control\n"
    assert not [text for text in plane.fleet.texts if TOKEN in text or PASSWORD in text]


def test_a_second_converge_changes_nothing(again):
    assert again.code == 0, again.text
    assert again.recap["changed"] == 0


def test_a_setting_that_prefect_does_not_start_with_is_taken_back(broken):
    assert broken.code != 0
    assert "the host has what it had before: release 0." in broken.told
    assert broken.answers.get("acked") == [broken.answers["event"]]


def test_removal_leaves_no_residue(plane, checked, removed):
    assert removed.code == 0, removed.text
    before, after = checked.before[plane.host.name], plane.fleet.changes()[plane.host.name]
    differ = {path for path in before | after if before.get(path) != after.get(path)}
    assert differ <= SHADOW | ACCOUNTS | {"var/lib/systemd/timers"}  # systemd's own, for the stamps of timers
    accounts = " ".join(f"/{path}" for path in sorted(ACCOUNTS))
    left = plane.host.run(f"grep osremed {accounts}; systemctl list-unit-files 'osremed*' --no-legend", check=False)
    assert left.stdout == ""


def test_no_play_gave_a_warning(plane, removed):
    lines = [line for text in plane.fleet.texts for line in text.splitlines()]
    assert not [line for line in lines if "WARNING" in line or "DEPRECAT" in line]
