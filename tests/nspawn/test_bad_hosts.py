"""Hosts that cannot take a rollout, in one play with one that can: each fails alone, says why, and stays as it was."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest

from tests.nspawn.fleet import EVERYWHERE, ROOT, Fleet, make_release

pytestmark = [pytest.mark.kernel, pytest.mark.ansible, pytest.mark.timeout(400)]

#: A Python that is the host's own but for one statement.
STANDIN = """#!/usr/bin/python3
import sys, time
{lie}
where = sys.argv.index("-c")
code, sys.argv = sys.argv[where + 1], ["-c", *sys.argv[where + 2:]]
exec(code)
"""
LIES = {
    "python-old": "sys.version_info = (3, 8, 18, 'final', 0)",
    "python-late": "real = time.time; time.time = lambda: real() - 7200",
}
OLD_SYSTEMCTL = """#!/bin/sh
[ "$1" = --version ] && echo systemd 219 || exec /usr/bin/systemctl "$@"
"""
RIVAL = "[Service]\\nExecStart=/bin/sleep 1000000\\n"


def user(name):
    home = f"/home/{name}/.ssh"
    key = f"install -o {name} -m 600 ~/.ssh/authorized_keys {home}/"
    return f"useradd -m -p '*' {name} && install -d -o {name} {home} && {key}"


#: What makes a host a bad one. The first is bad under other names only.
FAULTS = (
    f"{user('plain')} && printf '{RIVAL}' > /etc/systemd/system/earlyoom.service && systemctl start earlyoom",
    "mkdir -p /opt/osremed && mount -t tmpfs -o size=1m tmpfs /opt/osremed",
    "mount --bind /opt /opt && mount -o remount,ro,bind /opt",
    f"cat > /usr/local/bin/systemctl <<'EOF'\n{OLD_SYSTEMCTL}EOF\nchmod +x /usr/local/bin/systemctl",
    f"{user('deploy')} && echo 'deploy ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/deploy",
)
WHY = {
    "old_python": r"/usr/local/bin/python-old is Python 3\.8, osremed needs 3\.9 or newer.*set fastoom_python",
    "no_python": r"/usr/bin/python9 cannot run on this host.*set fastoom_python",
    "late_clock": r"The clock of the host is -7\d\d\d s from that of the controller",
    "no_sudo": r"[Mm]issing sudo password|a password is required",
    "rival": r"earlyoom\.service ends processes on this host too",
    "full": r"Only [\d.]+ [KM]i?B are free for /opt/osremed/host",
    "read_only": r"Not writable, or on a file system that is mounted read-only: /opt",
    "old_systemd": r"systemd is 219, the units need 239 or newer",
    "away": r"(No route to host|timed out)",
}


@pytest.fixture(scope="module")
def played(bed, nspawn_hosts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bad")
    make_release(directory, "1.0")
    hosts = nspawn_hosts(len(FAULTS))
    first, full, read_only, old_systemd, good = hosts
    for name, lie in LIES.items():
        text = STANDIN.format(lie=lie)
        first.run(f"cat > /usr/local/bin/{name} <<'EOF'\n{text}EOF\nchmod +x /usr/local/bin/{name}")
    for host, fault in zip(hosts, FAULTS):
        host.run(fault)
    here, nobody = {"ansible_host": first.address}, first.address.rpartition(".")[0] + ".250"
    aliases = {
        "old_python": {**here, "fastoom_python": "/usr/local/bin/python-old"},
        "no_python": {**here, "fastoom_python": "/usr/bin/python9"},
        "late_clock": {**here, "fastoom_python": "/usr/local/bin/python-late"},
        "no_sudo": {**here, "ansible_user": "plain", "ansible_remote_tmp": "~/.ansible"},
        "rival": here,
        "full": {"ansible_host": full.address},
        "read_only": {"ansible_host": read_only.address},
        "old_systemd": {"ansible_host": old_systemd.address},
        "away": {"ansible_host": nobody},
        "good": {"ansible_host": good.address, "ansible_user": "deploy", "ansible_remote_tmp": "/tmp/.ansible-deploy"},
    }
    fleet = Fleet(bed, hosts, directory, aliases)
    before = fleet.changes()
    ended = fleet.play("site", "--limit", ",".join(aliases), "--forks", "10", **EVERYWHERE)
    return SimpleNamespace(fleet=fleet, ended=ended, before=before, after=fleet.changes(), good=good)


def said_of(name, text):
    """All that a play said of a host, in one line."""
    return re.sub(r"\s+", " ", " ".join(re.findall(rf"(?ms)^fatal: \[{name}\].*?(?=^\S|\Z)", text)))


@pytest.mark.parametrize("name", WHY)
def test_a_host_that_cannot_take_it_fails_and_says_why(played, name):
    counts = played.ended.recap[name]
    assert counts["changed"] == 0
    assert counts["unreachable" if name == "away" else "failed"] >= 1
    assert re.search(WHY[name], said_of(name, played.ended.text)), said_of(name, played.ended.text)


def test_hosts_that_were_refused_are_as_before(played):
    for host in played.fleet.hosts[:-1]:
        assert played.after[host.name] == played.before[host.name], host.name


def test_the_good_host_in_the_same_play_has_everything(played):
    assert played.ended.recap["good"]["failed"] == 0, played.ended.text
    assert played.good.run("systemctl is-active osremed-fastoom osremed-agent").stdout == "active\nactive\n"


def test_starting_another_oom_daemon_later_does_not_end_the_guard(played):
    said = played.good.run(
        f"printf '{RIVAL}' > /run/systemd/system/earlyoom.service && systemctl start earlyoom &&"
        " systemctl is-active earlyoom osremed-fastoom; systemctl stop earlyoom"
    )
    assert said.stdout == "active\nactive\n"


def test_a_host_without_a_way_out_is_set_up_all_the_same(played):
    assert played.good.run("ip route show default; cat /etc/resolv.conf").stdout == ""


_CALL = """
import json, sys
from osremed.core.action import Call
from osremed.executor.runner import AnsibleExecutor
executor = AnsibleExecutor(*sys.argv[1:4])
outcome = executor.run(Call("osremed.host.proc_oom_score", json.loads(sys.argv[4]), "good", 100))
executor.close()
print(json.dumps(outcome.as_json()))
"""


def test_the_executor_acts_over_ssh_as_a_user_who_becomes_root(played, tmp_path):
    """What only root may do, on a process of root's."""
    fleet = played.fleet
    document = json.loads(fleet.inventory.read_text())
    document["osremed"]["vars"]["ansible_become"] = True
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps(document))
    pid = int(played.good.run("systemd-run --quiet --unit=held sleep 1000000 && systemctl show -P MainPID held").stdout)
    ticks = int(played.good.run(f"cut -d' ' -f22 /proc/{pid}/stat").stdout)
    arguments = json.dumps({"pid": pid, "value": 321, "start_time_ticks": ticks})
    argv = [sys.executable, "-c", _CALL, str(inventory), str(ROOT / "collections"), str(tmp_path / "work"), arguments]
    ended = fleet.bed.controller(argv, timeout_s=100, env={**fleet.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    outcome = json.loads(ended.stdout.strip().splitlines()[-1])
    assert (outcome["status"], outcome["changed"]) == ("ok", True), outcome
    assert played.good.run(f"cat /proc/{pid}/oom_score_adj").stdout == "321\n"
