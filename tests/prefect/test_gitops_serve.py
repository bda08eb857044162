"""Looks at Git as runs of a real Prefect; and without it."""

import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import httpx
import pytest

from osremed.flows.server import free_port
from osremed.gitops.scaffold import SCAFFOLD
from tests.prefect.conftest import wait_for
from tests.unit.gitops.conftest import Author, Control, Repository

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]
RUNBOOK = "runbooks/near-oom/runbook.yaml"


@pytest.fixture
def alice(tmp_path):
    return Author(tmp_path, "alice")


@pytest.fixture
def repository(tmp_path, alice):
    made = Repository(tmp_path / "rules")
    for path, content in SCAFFOLD.items():
        made.write(path, content)
    made.commit("First rules", alice)
    return made


class Serving:
    """`osremed gitops serve` as a process of its own; looks are an hour apart, so it acts when woken."""

    def __init__(self, directory, repository, alice, api_url, interval="1h"):
        signers = directory / "signers"
        signers.write_text(alice.allowed)
        self.control = Control(directory, f"file://{repository.directory}", signers)
        self.owner, self.api_url, self.port = f"t{os.getpid()}-{free_port()}", api_url, free_port()
        document = {**self.control.document, "interval": interval, "owner": self.owner}
        (directory / "gitops.yaml").write_text(json.dumps(document))
        self.secret = directory / "hook.secret"
        self.log = open(directory / "log", "wb")  # noqa: SIM115 closed in stop
        argv = ["gitops", "serve", "--source", str(directory / "gitops.yaml"), "--state", str(directory)]
        argv += ["--api-url", api_url, "--webhook", str(self.secret), "--port", str(self.port)]
        self.hold, self.held = directory / "hold", directory / "held"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "osremed", *argv], stdout=self.log, stderr=self.log, env=self._environment(directory)
        )

    def _environment(self, directory):
        """With a git that tells by a file `held` that it waits, and waits while there is a file `hold`."""
        git = directory / "bin/git"
        git.parent.mkdir()
        wait = f'if [ -e "{self.hold}" ]; then : > "{self.held}"; fi\nwhile [ -e "{self.hold}" ]; do sleep 0.1; done'
        git.write_text(f'#!/bin/sh\n{wait}\nexec {shutil.which("git")} "$@"\n')
        git.chmod(0o755)
        return {**os.environ, "PATH": f"{git.parent}:{os.environ['PATH']}"}

    def status(self):
        path = self.control.home.status
        return json.loads(open(path).read()) if os.path.exists(path) else {}

    def wake(self, secret=None, body=b'{"ref": "refs/heads/main"}'):
        signature = hmac.new((secret or self.secret.read_text().strip()).encode(), body, hashlib.sha256).hexdigest()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/wake", data=body, method="POST")
        request.add_header("X-Hub-Signature-256", f"sha256={signature}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())["woken"]
        except urllib.error.HTTPError as error:
            return error.code, None

    def ended(self, name):
        return [each for each in self.runs() if each["state"]["name"] == name]

    def runs(self):
        body = {"deployments": {"name": {"any_": [self.owner]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return httpx.post(f"{self.api_url}/flow_runs/filter", json=body, timeout=30).json()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.hold.unlink(missing_ok=True)
        code = self.process.wait(60)
        self.log.close()
        return code


def test_a_call_of_the_code_host_makes_a_look_that_prefect_shows(tmp_path, prefect_server, repository, alice):
    serving = Serving(tmp_path, repository, alice, prefect_server.api_url)
    try:
        first = wait_for(lambda: serving.status().get("ready") and serving.status(), 120)
        repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
        commit = repository.commit("Slower", alice)
        assert serving.wake(secret="not the secret") == (401, None)
        assert serving.wake() == (202, True)
        assert serving.wake() == (202, False)
        wait_for(lambda: serving.status()["commit"] == commit, 120)
        (run,) = wait_for(lambda: serving.ended("Applied"), 120)
        assert "woken" in run["tags"]
        assert "Slower" in run["state"]["message"]
        body = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
        (artifact,) = httpx.post(f"{prefect_server.api_url}/artifacts/filter", json=body, timeout=30).json()
        assert "| Ready | True | Applied |" in artifact["data"]
        assert "| changed | runbooks/near-oom |" in artifact["data"]
        assert first["commit"] != commit
    finally:
        assert serving.stop() == 0


def test_every_interval_is_a_run_and_a_refusal_is_not_green(tmp_path, prefect_server, repository, alice):
    serving = Serving(tmp_path, repository, alice, prefect_server.api_url, interval="2s")
    try:
        wait_for(lambda: serving.ended("Applied"), 120)
        good = serving.status()["commit"]
        repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 1s")
        repository.commit("Trust me")
        (run, *_more) = wait_for(lambda: serving.ended("NotVouched"), 120)
        assert run["state"]["type"] == "FAILED"
        status = serving.status()
        assert status["commit"] == good
        assert [each["status"] for each in status["conditions"]] == ["False", "False", "True"]
        assert b"cooldown: 10m" in serving.control.live()
    finally:
        assert serving.stop() == 0


def test_without_prefect_the_rules_go_live_all_the_same(tmp_path, repository, alice):
    serving = Serving(tmp_path, repository, alice, f"http://127.0.0.1:{free_port()}/api", interval="2s")
    try:
        wait_for(lambda: serving.status().get("ready"), 120)
        repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
        commit = repository.commit("Slower", alice)
        wait_for(lambda: serving.status()["commit"] == commit, 120)
    finally:
        assert serving.stop() == 0


def test_told_to_stop_in_the_middle_of_a_look_it_ends_it_and_goes_quietly(tmp_path, prefect_server, repository, alice):
    serving = Serving(tmp_path, repository, alice, prefect_server.api_url)
    try:
        wait_for(lambda: serving.status().get("ready"), 120)
        serving.hold.touch()
        wait_for(lambda: serving.wake()[0] == 202, 120)
        wait_for(serving.held.exists, 120)
        assert [each["state"]["type"] for each in serving.runs() if each["state"]["type"] != "SCHEDULED"] == ["RUNNING"]
    finally:
        assert serving.stop() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    (run,) = (each for each in serving.runs() if each["state"]["type"] != "SCHEDULED")  # those are of times to come
    assert run["state"]["type"] in {"CRASHED", "COMPLETED"}
