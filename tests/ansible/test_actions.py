"""Every action of a runbook, through the engine and the real executor, on this machine: previewed, changed, verified or
not, and taken back. Only what belongs to the test is touched; one harmless sysctl is put back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.executor.runner import AnsibleExecutor
from osremed.runbook.actions import ACTIONS
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from tests.support import an_agent
from tests.support.acting import acts

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.ansible,
    pytest.mark.skipif(os.geteuid() != 0, reason="sysctls and control groups need root"),
]
_spec = importlib.util.spec_from_file_location("osremed_tests_targets", Path(__file__).parent / "test_targets.py")
targets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(targets)

HEAD = """
apiVersion: osremed/v1
kind: Runbook
metadata: {name: %s, title: Every action, owners: [sre]}
on: [{event: test.asked}]
guards: {cooldown: 1m, concurrency: {per_host: 1, fleet: 1}, storm: {max_runs: 9, per: 1m}}
collect: [{fastoom: {}}]
diagnose: [{finding: asked, when: "true", summary: somebody asked}]
remediate:
"""
TAIL = """
verify: [{probe: memory.available_ratio, expect: value > %s, within: 2s, for: 0s}]
"""
REVERSIBLE = """
  - when: finding('asked')
    action: sysctl
    with: {settings: {kernel.printk_ratelimit: "{{ event.ratelimit }}"}, persist: false}
    confirm_within: 5m
  - when: finding('asked')
    action: cgroup_limits
    with: {cgroup: "{{ event.cgroup }}", memory_max: 128MiB}
    confirm_within: 5m
  - when: finding('asked')
    action: proc_oom_score
    with: {pid: "{{ event.pid }}", start_time_ticks: "{{ event.start_time_ticks }}", cmdline: sleeper, value: 500}
    confirm_within: 5m
  - when: finding('asked')
    action: wheel_release
    with: {component: demo, version: "2", artifact: "{{ event.artifact }}", sha256: "{{ event.sha256 }}"}
    approval: {required: "false", timeout: 30s}
    confirm_within: 5m
  - when: finding('asked')
    action: gpu_app_limits
    with: {unit: demo.service, environment: {PYTORCH_ALLOC_CONF: "garbage_collection_threshold:0.8"}}
    confirm_within: 5m
  - when: finding('asked')
    action: gpu_cordon
    with: {scheduler: slurm, node: gpu-18}
    approval: {required: "false", timeout: 30s}
  - when: finding('asked')
    action: service_switch
    with: {name: demo-cache, state: "on"}
    confirm_within: 5m
"""
IRREVERSIBLE = """
  - when: finding('asked')
    action: page_cache
    with: {paths: ["{{ event.cached }}"], sync: true}
    irreversible: what is read again is cached again
  - when: finding('asked')
    action: service_restart
    with: {name: demo.service, min_interval_s: 0, timeout_s: 5, health: {hold_s: 0}}
    approval: {required: "false", timeout: 30s}
    irreversible: what it held in memory is gone
  - when: finding('asked')
    action: proc_signal
    with: {pid: "{{ event.pid }}", start_time_ticks: "{{ event.start_time_ticks }}"}
    approval: {required: "false", timeout: 30s}
    irreversible: the process ends
  - when: finding('asked')
    action: gpu_drain
    with: {scheduler: slurm, node: gpu-17}
    approval: {required: "false", timeout: 30s}
    irreversible: jobs that ended do not come back
  - when: finding('asked')
    action: gpu_reset
    with: {uuid: "{{ event.uuid }}", timeout_s: 30}
    approval: {required: "false", timeout: 30s}
    irreversible: a reset GPU has forgotten everything
  - when: finding('asked') and event.reclaims
    action: cgroup_reclaim
    with: {cgroup: "{{ event.cgroup }}", bytes: 1MiB}
    irreversible: what is read again is cached again
"""


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A lab of the targets as two hosts; `run(name, steps, node, passing, **attributes)` is the ended run."""
    targets.put_files(tmp_path)
    for directory in ("etc/osremed", "etc/systemd/system", "var/lib/osremed/undo", "opt/osremed/demo/releases/1"):
        (tmp_path / "host" / directory).mkdir(parents=True)
    (tmp_path / "host/opt/osremed/demo/current").symlink_to("releases/1")
    (tmp_path / "host/etc/demo.json").write_text('{"cache_s": 0}')
    (tmp_path / "host/etc/osremed/switches.json").write_text(targets.switches_of(tmp_path / "host/etc/demo.json"))
    facts = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "osremed_prefix": str(tmp_path / "host"),
        "osremed_command": [str(Path(sys.executable).parent / "osremed")],
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"here": facts, "there": facts}}}))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name, value in targets.gpu_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    work = str(tmp_path / "work")
    made = AnsibleExecutor(str(tmp_path / "hosts.json"), str(ROOT / "collections"), work)
    with an_agent.running(tmp_path / "host"), contextlib.closing(made) as executor:

        def run(name, steps, node, *, passing, **attributes):
            path = tmp_path / name / "runbook.yaml"
            path.parent.mkdir()
            path.write_text(HEAD % name + steps + TAIL % (0.0001 if passing else 0.9999))
            clock = SystemClock()
            store, hosts = RunStore(str(tmp_path / "runs" / name)), frozenset({"here", "there"})
            operator = Operator(executor, store, clock, hosts, restrict=acts)
            entry = load_entry(str(path))
            opened = operator.store.create(Event(name, "test.asked", node, clock.wall_ns(), attributes), entry, clock)
            try:
                return asyncio.run(drive(operator, opened, entry.runbook))
            finally:
                opened.close()

        run.lab = tmp_path
        yield run


def test_both_runbooks_name_every_action():
    named = {line.split()[-1] for line in (REVERSIBLE + IRREVERSIBLE).splitlines() if "action:" in line}
    assert named == set(ACTIONS) - {"fastoom_policy"}  # that one is in the shipped runbook


@pytest.fixture
def runs(host):
    """The two runs side by side, as each waits for Ansible most of the time: (undone, kept, what was there before)."""
    lab, artifact = host.lab, host.lab / "wheel_release/two.pyz"
    ratelimit = targets.RATELIMIT.read_text()
    with targets.sleeper() as spared, targets.sleeper() as ended, targets.control_group() as group:
        undone = {
            "ratelimit": str(int(ratelimit) + 3),
            "cgroup": group["cgroup"],
            "artifact": str(artifact),
            "sha256": hashlib.sha256(artifact.read_bytes()).hexdigest(),
            **identity(spared),
        }
        kept = {
            "cached": str(lab / "page_cache/cached"),
            "cgroup": group["cgroup"],
            "uuid": targets.RESETTABLE,
            "reclaims": group["cgroup_version"] == 2,
            **identity(ended),
        }
        try:
            with kept_warm(lab / "page_cache/cached"), ThreadPoolExecutor(2) as pool:
                first = pool.submit(host, "undone", REVERSIBLE, "here", passing=False, **undone)
                second = pool.submit(host, "kept", IRREVERSIBLE, "there", passing=True, **kept)
                told = SimpleNamespace(undone=first.result(), kept=second.result(), lab=lab)
            told.left = {
                "sysctl": targets.RATELIMIT.read_text() == ratelimit,
                "cgroup_limits": Path(group["cgroup_limit_file"]).read_text().strip() == str(256 << 20),
                "proc_oom_score": score_of(spared) == spared["oom_score_adj"],
                "gpu_cordon": (lab / "slurm.gpu-18").read_text() == "IDLE",
                "gpu_app_limits": not list((lab / "host/etc/systemd/system").rglob("*.conf")),
                "service_switch": (lab / "host/etc/demo.json").read_text() == '{"cache_s": 0}',
                "wheel_release": os.readlink(lab / "host/opt/osremed/demo/current") == "releases/1",
            }
            yield told
        finally:
            targets.RATELIMIT.write_text(ratelimit)


@contextlib.contextmanager
def kept_warm(path):
    """Read again and again: a kernel with proactive reclaim would drop it before the run does."""
    enough = threading.Event()

    def read():
        while not enough.wait(1):
            path.read_bytes()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        enough.set()
        reader.join()


def identity(process):
    return {"pid": process["pid"], "start_time_ticks": process["start_time_ticks"]}


def score_of(process):
    return Path(f"/proc/{process['pid']}/oom_score_adj").read_text().strip()


def test_what_can_be_undone_is_undone_when_it_did_not_help_and_the_rest_is_done_once_and_told(runs):
    undone, kept = runs.undone, runs.kept
    assert undone.state is RunState.UNDONE, undone.reason
    assert all(runs.left.values()), runs.left
    assert {step.action for step in undone.plan.steps} == set(runs.left)
    assert [(step.action, bool(step.expect), bool(step.diff)) for step in undone.plan.steps] == [
        (step.action, True, True) for step in undone.plan.steps
    ]
    assert [applied.changed for applied in undone.applied] == [True] * len(runs.left)
    assert [undo.result for undo in undone.undo] == ["restored"] * len(runs.left)
    assert list((runs.lab / "host/var/lib/osremed/undo").glob("*.json")) == []

    assert kept.state is RunState.SUCCEEDED, kept.reason
    done = dict(zip((step.action for step in kept.plan.steps), kept.applied, strict=True))
    assert done["page_cache"].result["dropped_bytes"] >= 6 << 20
    assert done["service_restart"].result["healthy"]
    assert done["gpu_reset"].result["healthy"]
    assert done["gpu_drain"].result["after"]["state"] == "IDLE+DRAIN"
    assert done["proc_signal"].result["ended"]
    assert all(step.irreversible for step in kept.plan.steps)
