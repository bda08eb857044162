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
from tests.support.fakenvml import Scenario, build

SETTINGS = {
    "interval_s": 0.2,
    "deadline_s": 1.0,
    "window_s": 1.0,
    "growth_window_s": 1.6,
    "stuck_s": 1.6,
    "vram_expected_ratio": 0.5,
}


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

    def wait_for(self, wanted, why, deadline_s=40.0):
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

    def wait_for_status(self, wanted, why, deadline_s=40.0):
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
        assert process.wait(20) == 0
