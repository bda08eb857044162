"""A fake driver, and a watch that runs as a process of its own with short windows."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from osremed.core.journal import read_journal
from osremed.demo.fakenvml import Scenario, build

SETTINGS = {
    "interval_s": 0.2,
    "deadline_s": 15.0,  # sixteen children that load a library at once have not hung because the machine is slow
    "first_deadline_s": 15.0,
    "window_s": 1.0,
    "growth_window_s": 1.6,
    "stuck_s": 1.6,
    "vram_expected_ratio": 0.5,
}


#: A job: asks for a wish twice a second, and writes a trace when it gets one. argv: how to spell the socket.
JOB = r"""
import json, os, socket, struct, sys, time
directory = os.environ.get("KINETO_IPC_SOCKET_DIR", "")
def address(name):
    return directory + "/" + name if directory else b"\0" + name.encode() + b"\0"
client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
client.bind(address("dynoconfigclient%d" % os.getpid()))
client.settimeout(0.1)
print("ready", flush=True)
payload = struct.pack("<iiqi", 3, 1, 0, os.getpid())
while True:
    time.sleep(0.05)
    try:
        client.sendto(struct.pack("<Q32s", len(payload), b"req") + payload, address("dynolog"))
        data = client.recv(65536)
    except OSError:
        continue
    words = dict(line.split("=", 1) for line in data[40:].decode().splitlines())
    if words:
        path = words["ACTIVITIES_LOG_FILE"].replace(".json", "_%d.json" % os.getpid())
        event = {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 1.0, "dur": 5.0}
        with open(path, "w") as file:
            file.write('{"traceEvents": [' + json.dumps(event) + "], ")
            file.flush()
            time.sleep(0.5)
            file.write('"asked": ' + json.dumps(words) + "}")
"""


@pytest.fixture
def job(tmp_path):
    """Starts a job; its pid. Sockets lie in a directory of the test, so that no other daemon or test is in the way."""
    started = []

    def start(**environment):
        base = {key: value for key, value in os.environ.items() if not key.startswith("KINETO")}
        process = subprocess.Popen(
            [sys.executable, "-c", JOB], env={**base, **environment}, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process.pid

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        process.stdout.close()


def policy_text(**settings):
    return json.dumps({"apiVersion": "osremed/v1", "kind": "TimelinePolicy", **SETTINGS, **settings})


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory):
    try:
        return build(tmp_path_factory.mktemp("driver"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def scenario(tmp_path):
    return Scenario(tmp_path / "scenario")


@pytest.fixture
def environment(fake_driver, scenario, tmp_path):
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(fake_driver.parent),
        "OSREMED_FAKE_NVML": str(scenario.path),
        "OSREMED_PREFIX": str(tmp_path / "host"),
        "OSREMED_LOG": "error",
    }


class Watched:
    def __init__(self, process, prefix, policy):
        self.process, self.prefix, self.policy = process, prefix, policy

    def events(self):
        try:
            entries = read_journal(str(self.prefix / "var/lib/osremed/events/timeline")).entries
        except FileNotFoundError:
            return []
        return [entry.record for entry in entries]

    def wait_for(self, wanted, why, deadline_s=120.0):
        """Polls until `wanted(events)`; the events."""
        end = time.monotonic() + deadline_s
        while not wanted(self.events()):
            assert self.process.poll() is None, f"the watch ended with {self.process.returncode}"
            told = [
                (each["name"], each["attributes"].get("state"), each["attributes"].get("gpu")) for each in self.events()
            ]
            assert time.monotonic() < end, f"{why}: {told}"
            time.sleep(0.05)
        return self.events()

    def change_policy(self, **settings):
        """The hash of the policy it is told to read now."""
        self.policy.write_text(policy_text(**settings))
        self.process.send_signal(signal.SIGHUP)
        return self.policy_sha256()

    def policy_sha256(self):
        return hashlib.sha256(self.policy.read_bytes()).hexdigest()

    def status(self):
        return json.loads((self.prefix / "run/osremed/timeline.json").read_text())

    def wait_for_status(self, wanted, why, deadline_s=120.0):
        end = time.monotonic() + deadline_s
        while True:
            try:
                found = self.status()
            except FileNotFoundError:
                found = None
            if found and wanted(found):
                return found
            assert time.monotonic() < end, f"{why}: {found}"
            time.sleep(0.05)


@pytest.fixture
def watch(environment, tmp_path):
    started = []

    def start(**settings):
        config = tmp_path / "timeline.json"
        config.write_text(policy_text(**settings))
        command = [sys.executable, "-m", "osremed", "timeline", "run", "--policy", str(config)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        started.append(process)
        return Watched(process, tmp_path / "host", config)

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
