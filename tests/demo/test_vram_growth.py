"""The whole story of the published case: memory of two GPUs grows though the KV cache is not full."""

import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from osremed.demo.vram_stage import SERVER

ROOT = Path(__file__).resolve().parents[2]
THE_LINE = next(at for at, line in enumerate(Path(SERVER).read_text().splitlines(), 1) if line.endswith("# THE LINE"))
pytestmark = [
    pytest.mark.demo,
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="control groups and BPF probes need root"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the GPUs of the story are built with a C compiler"),
]


def groups():
    found = (glob.glob(f"{mount}/osremed-demo-*") for mount in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"))
    return {path for paths in found for path in paths}


def command_lines_with(text):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            line = Path(path).read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    state, before = str(tmp_path_factory.mktemp("vram")), groups()
    argv = [sys.executable, "-m", "osremed", "demo", "vram-growth", "--state", state, "-o", "json"]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=840, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:] + ended.stdout[-4000:]
    return json.loads(ended.stdout), state, before


@pytest.fixture(params=["demo-reserve", "demo-leak"])
def each_host(story, request):
    return next(each for each in story[0]["chapters"] if each["host"] == request.param)


def chapter(story, host):
    return next(each for each in story[0]["chapters"] if each["host"] == host)


def test_the_alert_names_the_python_line_its_stack_and_whose_memory_it_is(each_host):
    assert each_host["line"] == f"{SERVER}:{THE_LINE}"
    functions = [line.split(" ")[0] for line in each_host["stack"]]
    assert functions[:2] == ["GPUModelRunner.attention", "GPUModelRunner.execute_model"]
    assert functions[2].endswith("decorate_context")
    assert (each_host["verdict"], each_host["cause"]) == ("caching allocator", "inference-reserve")
    assert {"line-found", "caching-allocator", "full-soon"} <= set(each_host["findings"])


def test_each_marked_allocation_is_that_of_one_request_on_its_gpu(each_host):
    size = {0: 26, 1: 14}[each_host["gpu"]] << 20
    assert len(each_host["marks"]) >= 3
    assert {each[1] for each in each_host["marks"]} == {size}


def test_a_person_approved_before_anything_changed(each_host):
    moments = each_host["moments_ns"]
    assert each_host["approved_by"] == "ana"
    assert moments["alert"] < moments["approved"] < moments["limit set"] < moments["restarted"] < moments["verdict"]


def test_the_cache_that_everybody_looks_at_first_is_not_full(each_host):
    assert each_host["kv_cache_usage"] < 0.5


def test_the_alert_of_the_other_gpu_joins_the_run(each_host):
    assert any(each_host["run_id"] in why for why in each_host["others"])


def test_the_limit_makes_the_memory_flat_and_is_kept(story):
    reserve = chapter(story, "demo-reserve")
    assert reserve["state"] == "SUCCEEDED"
    assert 'Environment="PYTORCH_ALLOC_CONF=garbage_collection_threshold:0.8"' in reserve["drop_in"]
    for slope in reserve["slopes_bytes_per_s"]:
        assert abs(slope["after"]) <= 0.1 * slope["before"]


def test_where_the_limit_does_not_help_the_growth_is_back_and_the_limit_is_taken_back(story):
    leak = chapter(story, "demo-leak")
    for slope in leak["slopes_bytes_per_s"]:
        assert slope["after"] >= 0.5 * slope["before"] > 0
    assert "verification FAILS" in leak["reason"]
    assert {"action": "gpu_app_limits", "result": "restored"} in leak["undo"]
    assert leak["drop_in"] == ""


def test_every_claim_holds_and_says_what_it_rests_on(each_host):
    assert [claim["name"] for claim in each_host["claims"] if not claim["holds"]] == []
    assert all(claim["rests_on"] for claim in each_host["claims"])


def test_the_report_draws_the_memory_and_needs_nothing_from_elsewhere(story):
    page = Path(story[0]["page"])
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "http://" not in text.replace("http://127.0.0.1", "")
    for each in story[0]["chapters"]:
        drawing = (page.parent / f"{each['host']}.svg").read_text(encoding="utf-8")
        assert drawing.count("<circle") == len(each["marks"])
        assert each["run_id"] in Path(each["report"]).read_text(encoding="utf-8")


def test_nothing_is_left_behind(story):
    assert groups() == story[2]
    assert command_lines_with(story[1]) == []
