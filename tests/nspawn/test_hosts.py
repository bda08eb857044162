"""The namespace hosts themselves: separate, reachable, and gone when their session is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.nspawn.conftest import changes
from tests.testbed import nspawn
from tests.testbed.state import Session, cache_directory, open_session, poll, sweep

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def two(nspawn_hosts):
    began = time.monotonic()
    hosts = nspawn_hosts(2)
    print(f"2 namespace hosts started in {time.monotonic() - began:.1f} s")
    return hosts


def test_hosts_run_systemd_of_their_own(two):
    for host in two:
        assert host.run("cat /proc/1/comm; hostname; systemctl is-system-running").stdout.split() == [
            "systemd", host.name, "running",
        ]  # fmt: skip


def test_a_host_reaches_its_neighbour_and_nothing_else(two):
    first, second = two
    assert (
        first.run(f"python3 -c \"import socket; socket.create_connection(('{second.address}', 22), 5)\"").returncode
        == 0
    )
    assert first.run("ip route show default").stdout == ""


def test_what_one_host_writes_is_seen_in_its_upper_directory_alone(two):
    first, second = two
    other = changes(second)
    first.run("echo hello > /etc/new && rm /etc/debian_version")
    assert {"etc/new", "etc/debian_version"} <= set(changes(first))
    assert changes(second) == other
    assert second.run("test -e /etc/debian_version").returncode == 0


def test_a_failing_command_says_what_it_printed(two):
    with pytest.raises(RuntimeError, match=r"h\d+: .* ended with 3: .*too bad"):
        two[0].run("echo too bad; exit 3")


def test_a_command_that_takes_too_long_is_ended_with_its_children(bed):
    with pytest.raises(subprocess.TimeoutExpired):
        bed.controller(["sh", "-c", "sleep 987654 & wait"], timeout_s=1)
    assert b"987654" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout


_OWNER = """
import sys, time
from tests.testbed.nspawn import NspawnBed
from tests.testbed.state import open_session
bed = NspawnBed(open_session())
bed.start(1)
print(bed.session.id, flush=True)
time.sleep(600)
"""


def remains(document):
    """Which of a session's resources are still there."""
    left = []
    for resource in document["resources"]:
        if resource["kind"] == "process":
            there = os.path.exists(f"/proc/{resource['pid']}/cmdline") and _args(resource["pid"])
        elif resource["kind"] == "netns":
            there = os.path.exists(f"/run/netns/{resource['name']}")
        elif resource["kind"] == "mount":
            there = os.path.ismount(resource["path"])
        else:
            there = os.path.exists(resource["path"])
        left += [resource] if there else []
    return left


def _args(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_what_a_killed_session_left_is_cleaned_by_the_next(bed):
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        name = owner.stdout.readline().strip()
        document = json.loads((cache_directory() / "sessions" / name / "state.json").read_text())
        assert {each["kind"] for each in remains(document)} >= {"process", "netns", "mount", "cgroup"}
        assert name not in sweep(), "a living session was swept"
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    assert name in sweep()
    assert poll(lambda: not remains(document), 10), remains(document)
    assert not (cache_directory() / "sessions" / name).exists()


def test_living_sessions_have_networks_of_their_own(bed):
    other = open_session()
    try:
        assert other.subnet != bed.session.subnet
        assert other.id != bed.session.id
    finally:
        other.close()


def test_a_pid_that_was_given_to_another_process_is_left_alone(tmp_path):
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        session = open_session()
        session.record("process", pid=sleeper.pid, start_time_ticks=1, grace_s=1)
        session.close()
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_resource_nobody_knows_how_to_release_is_refused():
    session = open_session()
    try:
        with pytest.raises(ValueError, match="no way to release"):
            session.record("wish")
    finally:
        session.close()


def test_a_host_that_does_not_start_shows_its_console(bed, monkeypatch):
    monkeypatch.setattr(nspawn, "_BOOT_S", 0.0)
    with pytest.raises(RuntimeError, match="did not start within 0 s"):
        bed.start(1)
    bed.hosts.pop().stop()


def test_a_session_is_usable_from_its_record_alone():
    session = open_session(keep=True)
    session.note(asked=3)
    again = Session(session.directory, json.loads((session.directory / "state.json").read_text()))
    assert again.notes == {"asked": 3}
    again.close()
    assert not session.directory.exists()
