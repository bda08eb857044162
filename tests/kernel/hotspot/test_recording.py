"""The recorder on this kernel, against programs that know how their time was spent."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osremed.hotspot.detect import detect
from osremed.hotspot.ring import entries
from osremed.sensors.pyframes import LAYOUTS
from tests.kernel.hotspot.conftest import TRUTH

pytestmark = pytest.mark.kernel
VERSIONS = Path.home() / ".pyenv/versions"
PYTHONS = [sys.executable, *(str(each) for a, b in LAYOUTS for each in VERSIONS.glob(f"{a}.{b}.*/bin/python"))]


def shares(profile, pid):
    """Weight of each function anywhere on the stacks of a process on the CPU, over all of it, and the samples."""
    own = [each for each in profile.samples if each.pid == pid and each.state == "cpu"]
    found = {}
    for sample in own:
        for name in {part.name for part in sample.stack}:
            found[name] = found.get(name, 0) + 1
    return {name: count / max(len(own), 1) for name, count in found.items()}, own


@pytest.mark.parametrize("python", PYTHONS)
def test_python_functions_have_their_share_and_their_line(record, python: str) -> None:
    profile, printed = record([python, str(TRUTH), "cpu", "10"])
    truth = json.loads(printed)
    found, own = shares(profile, truth["pid"])
    assert len(own) >= 15
    for name in ("alpha", "beta"):
        expected = truth[name] / truth["all"]
        error = math.sqrt(expected * (1 - expected) / len(own))
        assert abs(found[name] - expected) <= 3 * error + 0.02, (name, found[name], expected, len(own))
    lines = {part.line for each in own for part in each.stack if part.name == "alpha"}
    assert lines & {14, 15}
    assert lines <= {0, *range(11, 17)}


_DEEP = """
import os, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
def descend(depth):
    if depth: descend(depth - 1)
    else: burn(4)
def handler(): descend(%d)
handler()
print(os.getpid())
"""


@pytest.mark.parametrize("python", PYTHONS)
def test_a_deep_python_stack_has_its_root_or_says_that_it_has_not(record, python: str) -> None:
    profile, printed = record([python, "-c", _DEEP % 100])
    found, own = shares(profile, int(printed))
    assert len(own) >= 15
    assert found["handler"] >= 0.9 * found["burn"]
    assert "[deeper]" not in found
    profile, printed = record([python, "-c", _DEEP % 300])
    found, own = shares(profile, int(printed))
    assert len(own) >= 15
    assert "handler" not in found
    assert found["[deeper]"] >= 0.9 * found["burn"]
    assert any("deeper than" in gap for gap in profile.gaps)


_NAMES_ITSELF = """
import os, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
burn(0.5)
with open("/proc/self/comm", "w") as name: name.write("ota-gateway")
burn(4)
print(os.getpid())
"""


def test_a_service_that_names_itself_is_told_by_that_name(record) -> None:
    profile, printed = record([sys.executable, "-c", _NAMES_ITSELF])
    own = [each for each in profile.samples if each.pid == int(printed)]
    assert {each.process for each in own} == {"ota-gateway"}
    assert len({each.thread for each in own}) == 2, "it was met by its first name"


def test_waited_seconds_and_the_waiting_line(record) -> None:
    """Totals are exact; who waited where is a sample of some dozen stacks, scaled to them."""
    profile, printed = record([sys.executable, str(TRUTH), "lock", "12"])
    truth = json.loads(printed)
    exact = [each for each in profile.blocked if each.pid == truth["pid"] and each.syscall == "futex"]
    assert sum(each.total_s for each in exact) == pytest.approx(truth["waited_s"] + truth["joined_s"], rel=0.03)
    waits = [each for each in profile.samples if each.pid == truth["pid"] and each.syscall == "futex"
             and any(part.name.endswith("contend") for part in each.stack)]  # fmt: skip
    assert sum(each.weight_ns for each in waits) / 1e9 == pytest.approx(truth["waited_s"], rel=0.2)
    traps = [trap for trap in detect(profile) if f"[{truth['pid']}]" in trap.who]
    assert "lock-contention" in [trap.finding.name for trap in traps]
    assert any("contend (truth.py:44)" in trap.where for trap in traps)


def test_the_recorder_says_its_cost_and_leaves_nothing_behind(record, prefix: Path) -> None:
    profile, _ = record([sys.executable, "-c", "import time; time.sleep(2)"])
    cost = profile.cost.value
    assert 0 < cost.cores < profile.mode.cpus
    assert not (prefix / "run/osremed/hotspot.json").exists()
    assert len(entries(str(prefix / "var/lib/osremed/hotspot"))) >= 2
    held = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True).stdout
    assert "bpf" not in held


def test_a_recorder_can_follow_another_at_once(prefix: Path) -> None:
    """While the first one ends, its child may be at work on a table: it must not keep the place."""
    command = [sys.executable, "-m", "osremed", "hotspot", "run", "--segment", "2s", "--ceiling", "90%"]
    status = prefix / "run/osremed/hotspot.json"
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recorder:
            deadline = time.monotonic() + 60
            while not status.exists() and time.monotonic() < deadline:
                assert recorder.poll() is None, "the recorder ended"
                time.sleep(0.05)
            assert status.exists()
            recorder.terminate()
        assert recorder.returncode == 0


def test_the_budget_of_a_changed_policy_counts_at_once_and_a_wrong_one_changes_nothing(prefix: Path) -> None:
    status, policy = prefix / "run/osremed/hotspot.json", prefix / "etc/osremed/hotspot.json"
    policy.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "osremed", "hotspot", "run", "--segment", "2s", "--ceiling", "3%"]
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_for(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while True:
            found = json.loads(status.read_text()) if status.exists() else {}
            if found and wanted(found):
                return found
            assert recorder.poll() is None, "the recorder ended"
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    try:
        assert wait_for(bool)["ceiling"] == 0.03
        head = {"apiVersion": "osremed/v1", "kind": "HotspotPolicy"}
        policy.write_text(json.dumps({**head, "ceiling_percent": 5, "ring_bytes": 2 << 20, "keep_s": 600}))
        recorder.send_signal(signal.SIGHUP)
        good = wait_for(lambda found: found["ceiling"] == 0.05)["policy_sha256"]
        policy.write_text(json.dumps({**head, "ceiling_percent": 99}))
        recorder.send_signal(signal.SIGHUP)
        told = wait_for(lambda found: found["policy_error"] != "")
        assert (told["ceiling"], told["policy_sha256"]) == (0.05, good)
        policy.unlink()
        recorder.send_signal(signal.SIGHUP)
        assert wait_for(lambda found: found["ceiling"] == 0.03)["policy_sha256"] == ""
    finally:
        recorder.terminate()
        assert recorder.wait(timeout=60) == 0
