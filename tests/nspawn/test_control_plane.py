"""The control plane on a host with a real systemd, from one archive, no package index: one life, step after step."""

from __future__ import annotations

import base64
import json
import time
from types import SimpleNamespace

import pytest

from tests.nspawn.plane import NOTIFY, ODD, OSREMED, PASSWORD, TOKEN, ask, listen_to_prefect, make_plane, play, post
from tests.support import certificates
from tests.testbed.nspawn import WITH_NGINX

pytestmark = [pytest.mark.kernel, pytest.mark.ansible, pytest.mark.prefect, pytest.mark.timeout(900)]
CHECK = """import sqlite3
print(*sqlite3.connect("control/prefect/prefect.db").execute("pragma integrity_check").fetchone())"""
UNITS = ("osremed-prefect", "osremed-dispatcher", "osremed-standby", "osremed-console", "osremed-notify")
#: The most that `systemd-analyze security` may find, times ten.
MOST_EXPOSED = 40
#: shadow-utils keep what was before a change, and a lock.
ACCOUNTS = {"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid"}
SHADOW = {f"{name}-" for name in ACCOUNTS} | {"etc/.pwd.lock"}


@pytest.fixture(scope="module")
def plane(bed, nspawn_hosts, tmp_path_factory):
    if why := certificates.missing_here():
        pytest.skip(why)
    (host,) = nspawn_hosts(1, WITH_NGINX)
    directory = tmp_path_factory.mktemp("control")
    authority = certificates.Authority(directory)
    plane = make_plane(bed, host, directory, control_plane_tls=True, **shown_by(authority.issue("first", host.address)))
    plane.authority = authority
    return plane


def shown_by(files):
    return dict(zip(("control_plane_tls_certificate_from", "control_plane_tls_key_from"), map(str, files), strict=True))


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
        {"control_plane_tls_certificate_from": "/nowhere.pem"},
        {"control_plane_tls_key_from": ""},
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
def taken_over(plane, mismatched):
    """The dispatcher that led, killed: who leads before and after, and what the intake says then."""

    def leader():
        return plane.host.run("cat /var/lib/osremed/control/dispatcher.lock").stdout.split()[1]

    before = leader()
    plane.host.run(f"kill -9 {before}")
    answer = post(plane.host, TOKEN, until=time.monotonic() + 90)
    deadline, states = time.monotonic() + 60, ""
    while states != "active\nactive\n" and time.monotonic() < deadline:
        states = plane.host.run("systemctl is-active osremed-dispatcher osremed-standby", check=False).stdout
        time.sleep(0.5)
    return SimpleNamespace(before=before, after=leader(), answer=answer, states=states)


@pytest.fixture(scope="module")
def renewed(plane, again):
    """A play with another certificate: what was shown and which processes served, before and after."""
    before = shown(plane), processes(plane)
    plane.given.update(shown_by(plane.authority.issue("renewed", plane.host.address)))
    ended = play(plane)
    return SimpleNamespace(ended=ended, before=before, after=(shown(plane), processes(plane)))


@pytest.fixture(scope="module")
def mismatched(plane, renewed):
    """A play with a certificate and the key of another one."""
    certificate, _key = plane.authority.issue("mismatched", plane.host.address)
    ended = play(plane, control_plane_tls_certificate_from=str(certificate))
    return SimpleNamespace(ended=ended, before=renewed.after[0], after=shown(plane))


def shown(plane):
    """The certificate that others are shown."""
    asked = f"-connect {plane.host.address}:8443 -CAfile {plane.authority.certificate} -verify_return_error"
    said = plane.bed.controller(
        ["sh", "-c", f"openssl s_client {asked} < /dev/null | openssl x509 -noout -serial"]
    ).stdout
    assert said.startswith("serial="), said
    return said


def processes(plane):
    return plane.host.run(f"systemctl show -P MainPID {' '.join(UNITS)} osremed-proxy").stdout


@pytest.fixture(scope="module")
def unsound(plane, taken_over):
    """A policy of notifications that nobody could be told by, and what the host had and has of it."""

    def notifying():
        files = plane.host.run("cat /etc/osremed/notify.yaml; stat -c '%a %U %G' /etc/osremed/notify.yaml").stdout
        return files, plane.host.run("systemctl is-active osremed-notify; systemctl is-enabled osremed-notify").stdout

    before = notifying()
    policy = {**NOTIFY, "rules": [{"on": "run", "to": ["nobody"]}]}
    ended = play(plane, control_plane_notify=policy, control_plane_notify_secrets={"OPS_URL": "another"})
    read = "tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID osremed-notify)/environ | grep ^OPS_URL="
    return SimpleNamespace(ended=ended, before=before, after=notifying(), secret=plane.host.run(read).stdout)


@pytest.fixture(scope="module")
def broken(plane, unsound):
    """A setting that Prefect does not start with."""
    settings = {"PREFECT_ODD": ODD, "PREFECT_SERVER_DATABASE_TIMEOUT": "never"}
    ended = play(plane, control_plane_prefect_settings=settings, control_plane_start_s=6)
    ended.answers = post(plane.host, TOKEN, until=time.monotonic() + 90)
    return ended


@pytest.fixture(scope="module")
def removed(plane, broken):
    return play(plane, control_plane_state="absent")


def test_check_mode_on_a_fresh_host_makes_no_change(checked):
    assert checked.ended.code == 0, checked.ended.text
    assert checked.ended.recap["changed"] >= 3
    assert "+Description=osremed dispatcher" in checked.ended.text
    assert checked.after == checked.before


def test_what_cannot_end_well_is_refused_and_touches_nothing(checked, refused):
    assert refused.after == checked.before
    whys = (
        "expected 000000", "--redis", "inventory (the hosts that runbooks act on)",
        "/nowhere.pem is not on the controller", "/etc/osremed/tls.key: not on this host",
    )  # fmt: skip
    for ended, why in zip(refused.plays, whys, strict=True):
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


def test_secrets_of_notifications_reach_their_service_alone(plane, converged):
    for unit in UNITS:
        read = f"tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID {unit})/environ | grep ^OPS_URL= || true"
        assert plane.host.run(read).stdout == (f"OPS_URL={ODD}\n" if unit == "osremed-notify" else "")
    assert plane.host.run("stat -c '%a %U' /etc/osremed/notify.env").stdout == "600 root\n"
    assert ODD not in plane.host.run("cat /etc/osremed/notify.yaml").stdout


def test_the_running_services_are_exposed_no_more_than_agreed(plane, converged):
    for unit in (*UNITS, "osremed-proxy"):
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


def test_others_reach_console_intake_and_prefect_over_tls_on_one_port(plane, again):
    event = {
        "id": "by-proxy",
        "name": "nothing.asks.for.this",
        "host": "h9",
        "attributes": {},
        "time_ns": time.time_ns(),
    }
    body = json.dumps({"events": [event]})
    told = ask(plane, "/v1/events", f"Bearer {TOKEN}", body)
    assert (told.status, json.loads(told.text)) == (200, {"acked": ["by-proxy"], "refused": []})
    assert told.headers["Strict-Transport-Security"]
    assert ask(plane, "/v1/events", "Bearer another", body).status == 401

    assert ask(plane, "/v1/runs").status == 401
    made = plane.host.run(f"runuser -u osremed-control -- {OSREMED} console token ana --scopes read").stdout.strip()
    assert ask(plane, "/v1/runs", f"Bearer {made}").status == 200

    user = base64.b64encode(f"osremed:{PASSWORD}".encode()).decode()
    assert ask(plane, "/api/flows/filter", "", "{}").status == 401
    assert ask(plane, "/api/flows/filter", f"Basic {user}", "{}").status == 200


def test_prefects_pages_and_its_sockets_come_through_the_proxy(plane, again):
    page = ask(plane, "/prefect/")
    assert page.status == 200
    assert 'src="/prefect/' in page.text
    assert json.loads(ask(plane, "/prefect/ui-settings").text)["auth"] == "BASIC"
    assert listen_to_prefect(plane, f"osremed:{PASSWORD}")["type"] == "auth_success"


def test_the_key_is_read_by_root_and_the_proxys_own_user_alone(plane, again):
    user = plane.host.run("ps -o uid= -p $(systemctl show -P MainPID osremed-proxy)").stdout.strip()
    control = plane.host.run("id -u osremed-control").stdout.strip()
    assert user not in ("0", control)
    stated = plane.host.run("stat -L -c '%a %u' /etc/osremed/tls.key /run/osremed-proxy/key").stdout
    assert stated == f"600 0\n400 {user}\n"


def test_a_new_certificate_is_shown_and_no_service_is_started_anew(renewed):
    assert renewed.ended.code == 0, renewed.ended.text
    assert renewed.after[0] != renewed.before[0]
    assert renewed.after[1] == renewed.before[1]


def test_a_certificate_that_nginx_would_not_take_is_taken_back(mismatched):
    assert mismatched.ended.code != 0
    assert "key values mismatch" in mismatched.ended.told
    assert "the host has what it had before: release 0." in mismatched.ended.told
    assert mismatched.after == mismatched.before


def test_secrets_are_in_files_of_their_owner_alone_and_in_no_output(plane, again):
    files = "/etc/osremed/control.env /var/lib/osremed/control/intake.token"
    assert plane.host.run(f"stat -c '%a %U' {files}").stdout == "600 root\n600 osremed-control\n"
    assert not [text for text in plane.fleet.texts if TOKEN in text or PASSWORD in text]


def test_a_second_converge_changes_nothing(again):
    assert again.code == 0, again.text
    assert again.recap["changed"] == 0


def test_when_the_dispatcher_that_leads_is_killed_the_other_takes_over_and_it_stands_by(taken_over):
    assert taken_over.answer["acked"] == [taken_over.answer["event"]]
    assert taken_over.after != taken_over.before
    assert taken_over.states == "active\nactive\n"


def test_a_policy_of_notifications_that_is_refused_is_taken_back_with_its_secrets(unsound):
    assert unsound.ended.code != 0
    assert "there is no target 'nobody'" in unsound.ended.told
    assert "the host has what it had before: release 0." in unsound.ended.told
    assert unsound.after == unsound.before
    assert unsound.before[1] == "active\nenabled\n"
    assert unsound.secret == f"OPS_URL={ODD}\n"


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


def test_the_hosts_own_site_is_left_alone(plane, removed):
    assert plane.host.run("systemctl is-active nginx; systemctl is-enabled nginx").stdout == "active\nenabled\n"
    assert ":80 " in plane.host.run("ss -ltn").stdout


def test_no_play_gave_a_warning(plane, removed):
    lines = [line for text in plane.fleet.texts for line in text.splitlines()]
    assert not [line for line in lines if "WARNING" in line or "DEPRECAT" in line]
