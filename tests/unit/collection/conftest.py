"""The collection's code as Ansible sees it, and a daemon that a test can steer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "collections"))

#: Keeps the contract of the real daemon's status file. argv: mode, status file, policy file.
DAEMON = r"""
import hashlib, json, os, signal, sys
mode, status_file, policy = sys.argv[1:]
def digest():
    with open(policy, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()
def start():
    with open("/proc/self/stat", "rb") as stream:
        text = stream.read()
    return int(text[text.rindex(b")") + 2:].split()[19])
status = {"pid": os.getpid(), "start_time_ticks": start(), "policy_path": policy, "policy_sha256": digest(),
          "policy_error": "", "policy_rejected_sha256": "", "level": "none"}
first = status["policy_sha256"]
def tell():
    with open(status_file + ".new", "w") as stream:
        json.dump(status, stream)
    os.rename(status_file + ".new", status_file)
def reload(*_):
    with open(status_file + ".hups", "a") as stream:
        stream.write("hup\n")
    now = digest() if os.path.exists(policy) else ""
    if mode == "dies" and now != first:
        os._exit(1)
    if mode == "silent" or not now:
        return
    if mode == "rejects" and now != first:
        status.update(policy_error="%s: line 3: no such key" % now, policy_rejected_sha256=now)
    else:
        status.update(policy_sha256=now, policy_error="", policy_rejected_sha256="")
    tell()
signal.signal(signal.SIGHUP, reload)
tell()
while True:
    signal.pause()
"""


class Daemon:
    def __init__(self, mode, status_file, policy):
        self.status_file = status_file
        self.process = subprocess.Popen([sys.executable, "-c", DAEMON, mode, status_file, policy])
        give_up = time.monotonic() + 20
        while not os.path.exists(status_file):
            assert time.monotonic() < give_up
            time.sleep(0.01)

    @property
    def status(self):
        return json.loads(Path(self.status_file).read_text())

    @property
    def hangups(self):
        path = Path(self.status_file + ".hups")
        return path.read_text().count("hup") if path.exists() else 0

    def end(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start_daemon(tmp_path):
    started = []

    def start(mode, policy):
        started.append(Daemon(mode, str(tmp_path / "status.json"), str(policy)))
        return started[-1]

    yield start
    for daemon in started:
        daemon.end()
