"""The launch event, as `osremed demo command-flood` tells it: every part real."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osremed.core.reading import Missing
from osremed.sensors.bpf import features

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.demo,
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="control groups, namespaces and BPF need root"),
]
CONFIG = {"cache_s": 0, "turbo": False}
HOSTS = ("demo-launch", "demo-placebo")


def groups():
    """Those of this story alone: others may be told at the same time."""
    mounts = ("/sys/fs/cgroup", "/sys/fs/cgroup/memory")
    return {path for mount in mounts for host in HOSTS for path in glob.glob(f"{mount}/osremed-demo-*-{host}")}


def still_running(state):
    """Command lines of processes that use the state folder of this test."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            text = Path(path).read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if state in text:
            found.append(text)
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """(document, state folder, control groups there are now that were not before)."""
    missing = features.absent()
    if isinstance(missing, Missing):
        pytest.skip(str(missing))
    state = str(tmp_path_factory.mktemp("flood"))
    before = groups()
    argv = [sys.executable, "-m", "osremed", "demo", "command-flood", "--state", state, "-o", "json"]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=840, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:] + ended.stdout[-4000:]
    return json.loads(ended.stdout), state, groups() - before


@pytest.fixture
def launch(story):
    return story[0]["launch"]


@pytest.fixture
def placebo(story):
    return story[0]["placebo"]


def config_of(story, host):
    return json.loads(Path(story[1], "hosts", host, "etc/ota-gateway.json").read_text())


def test_every_claim_held(story):
    assert all(story[0]["claims"].values()), story[0]["claims"]


def test_fastoom_ends_the_flood_and_nobody_else(launch):
    assert len(launch["killed"]) >= 2
    assert set(launch["killed"]) == {"ota-burst"}
    assert launch["gateway_alive"]
    assert launch["logcollect_alive"]
    assert launch["kernel_oom_kills"] == 0


def test_a_late_answer_is_told_with_its_second_and_the_service_is_named(launch):
    jitter = launch["jitter"]
    assert (jitter["source"], jitter["worst"]) == ("probe", "ota-gateway")
    assert jitter["second_ns"] >= launch["flood_ns"] - 10**9
    assert jitter["took_ms"] > launch["calm_ms"]


def test_the_look_back_to_that_second_names_the_trap_the_advice_and_the_gain(launch):
    lookback = launch["lookback"]
    assert lookback["trap"] == "frequent-proc-reads"
    assert lookback["who"].startswith("ota-gateway[")
    assert any(name.startswith("ota-gateway[") for name in lookback["names"])
    assert "keep the result" in lookback["fix"]
    assert "when cached for 1 s" in lookback["expected_gain"]


def test_the_switch_is_approved_makes_the_service_faster_and_is_kept(story, launch):
    assert (launch["state"], launch["actions"], launch["verdict"]) == ("SUCCEEDED", ["service_switch"], "HOLDS")
    assert launch["approved_by"]
    assert "can-be-cached" in launch["findings"]
    assert launch["p99_ratio"] <= 0.8
    assert config_of(story, "demo-launch") == {**CONFIG, "cache_s": 1}
    assert launch["undo_left"] == 0


def test_a_switch_that_does_nothing_is_not_believed_and_taken_back(story, placebo):
    assert (placebo["state"], placebo["actions"], placebo["verdict"]) == ("UNDONE", ["service_switch"], "FAILS")
    assert "verification FAILS" in placebo["reason"]
    assert placebo["undo"] == ["restored"]
    assert placebo["config_unchanged"]
    assert config_of(story, "demo-placebo") == CONFIG
    assert placebo["gateway_alive"]


def test_each_run_has_a_report_of_its_own(launch, placebo):
    for told in (launch, placebo):
        assert told["run_id"] in Path(told["report"]).read_text(encoding="utf-8")


def test_nothing_is_left_behind(story):
    assert story[2] == set()
    assert still_running(story[1]) == []
