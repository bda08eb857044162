"""The whole story, as `make demo` tells it: every part real."""

import glob
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.demo,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="control groups and signals need root"),
]


def groups():
    return set(glob.glob("/sys/fs/cgroup/memory/osremed-demo-*") + glob.glob("/sys/fs/cgroup/osremed-demo-*"))


def children_of_ours(state):
    """Command lines of processes that still use the state folder of this test."""
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
    state = str(tmp_path_factory.mktemp("demo"))
    before = groups()
    argv = [sys.executable, "-m", "osremed", "demo", "near-oom", "--state", state, "-o", "json"]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads(ended.stdout), state, before


def chapter(story, host):
    return next(each for each in story[0]["chapters"] if each["host"] == host)


def test_raising_the_sensitivity_helps_and_is_kept(story):
    peak = chapter(story, "demo-peak")
    assert peak["state"] == "SUCCEEDED"
    assert not peak["policy_unchanged"]


def test_a_change_that_does_not_help_is_undone_byte_for_byte_and_says_why(story):
    shared = chapter(story, "demo-shared")
    assert shared["state"] == "UNDONE"
    assert "verification FAILS" in shared["reason"]
    assert shared["policy_unchanged"]


def test_exporters_go_first_then_logcollect_and_the_service_never(story):
    peak = chapter(story, "demo-peak")
    names = peak["killed"]
    assert {name[:8] for name in names[:2]} == {"exporter"}
    assert names[2] == "logcollect"
    assert "ota-gateway" not in names
    assert peak["gateway_alive"]


def test_the_kernel_never_had_to_kill(story):
    assert [each["kernel_oom_kills"] for each in story[0]["chapters"]] == [0, 0]


def test_the_run_begins_within_seconds_of_the_kill(story):
    assert all(each["kill_to_run_s"] < 10 for each in story[0]["chapters"])  # target 2 s


def test_each_run_has_a_report_of_its_own(story):
    for each in story[0]["chapters"]:
        text = Path(each["report"]).read_text(encoding="utf-8")
        assert each["run_id"] in text
        assert "http://" not in text.replace("http://www.w3.org", "")


def test_nothing_is_left_behind(story):
    assert groups() == story[2]
    assert children_of_ours(story[1]) == []
