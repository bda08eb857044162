"""Modules that change the running kernel, through the real executor: check -> real -> again -> diff -> undo.

Only on what belongs to the test: its own control group, processes and files; one harmless sysctl is put back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from osremed.agent import undo
from osremed.core.action import Call, Status
from osremed.core.clock import SystemClock
from osremed.core.paths import host_paths
from osremed.sensors import cgroup, procfs

pytestmark = [
    pytest.mark.ansible,
    pytest.mark.skipif(os.geteuid() != 0, reason="sysctls and control groups need root"),
]
SLEEPER = "import signal, sys, time; print(flush=True); time.sleep(600)"
RATELIMIT = Path("/proc/sys/kernel/printk_ratelimit")


@pytest.fixture
def host(real_executor, tmp_path):
    paths = host_paths(str(tmp_path))
    os.makedirs(paths.events)

    def run(module, check=False, **args):
        return real_executor.run(Call(f"osremed.host.{module}", args, "here", 60.0, check))

    def ask(module, check=False, **args):
        outcome = run(module, check, **args)
        assert outcome.status is Status.OK, outcome.detail
        return outcome

    def change(module, **args):
        """check -> real -> again; what they have in common is held against each other."""
        args = {"undo_dir": paths.undo, **args}
        preview = ask(module, check=True, **args)
        assert preview.changed
        assert not os.path.exists(os.path.join(paths.undo, f"{args['undo_id']}.json"))
        real = ask(module, **args)
        again = ask(module, **args)
        assert (real.changed, again.changed, again.diff) == (True, False, "")
        assert real.diff == preview.diff
        assert real.result["previous"] == preview.result["previous"] == again.result["previous"]
        return real

    return SimpleNamespace(paths=paths, run=run, ask=ask, change=change, root=tmp_path)


@pytest.fixture
def sleeper():
    argv = [sys.executable, "-c", SLEEPER, "sleeper-of-the-test"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        yield {"pid": child.pid, "start_time_ticks": procfs.stat(child.pid).value.start_time_ticks}, child
        child.kill()


def test_a_sysctl_of_the_running_kernel_is_set_kept_and_undone(host):
    drop_in = host.root / "etc/sysctl.d/90-test.conf"
    drop_in.parent.mkdir(parents=True)
    before = RATELIMIT.read_text()
    wanted = str(int(before) + 3)
    try:
        real = host.change(
            "sysctl",
            settings={"kernel.printk_ratelimit": wanted},
            file=str(drop_in),
            undo_id="s1",
            confirm_within=600.0,
        )
        assert RATELIMIT.read_text().strip() == wanted
        assert drop_in.read_text().endswith(f"kernel.printk_ratelimit = {wanted}\n")
        assert f"+kernel.printk_ratelimit = {wanted}" in real.diff
        preview = host.ask("undo", check=True, id="s1", state="reverted", undo_dir=host.paths.undo)
        undone = host.ask("undo", id="s1", state="reverted", undo_dir=host.paths.undo)
        assert undone.diff == preview.diff
        assert (RATELIMIT.read_text(), drop_in.exists()) == (before, False)
        again = host.ask("sysctl", check=True, **real.result["previous"])
        assert not again.changed
        missing = host.run("sysctl", settings={"kernel.no_such_thing": 1}, file=str(drop_in))
        assert missing.status is Status.FAILED
        assert "Hint" in missing.detail
    finally:
        RATELIMIT.write_text(before)


def test_limits_of_a_control_group_are_set_and_undone(host):
    hierarchy = cgroup.memory_hierarchy()
    name = f"/osremed-test-limits-{os.getpid()}"
    group = cgroup.create(hierarchy.value, name, 256 << 20)
    v1 = hierarchy.value.version == 1
    limit = Path(group.directory, "memory.limit_in_bytes" if v1 else "memory.max")
    try:
        host.change("cgroup_limits", cgroup=name, memory_max="128MiB", undo_id="c1")
        assert limit.read_text().strip() == str(128 << 20)
        done = host.ask("cgroup_limits", cgroup=name, memory_max="64MiB", undo_dir=host.paths.undo, undo_id="c2")
        assert done.changed
        host.ask("cgroup_limits", **done.result["previous"])
        assert limit.read_text().strip() == str(128 << 20)
        assert host.ask("undo", id="c1", state="reverted", undo_dir=host.paths.undo).result["result"] == "restored"
        assert limit.read_text().strip() == str(256 << 20)
        if v1:
            refused = host.run("cgroup_reclaim", cgroup=name, bytes="1MiB")
            assert (refused.status, "UNSUPPORTED" in refused.detail) == (Status.FAILED, True)
        else:
            assert host.ask("cgroup_reclaim", check=True, cgroup=name, bytes="1MiB").result["steps"] == 0
        info = host.ask("memory_info", cgroups=[name]).result
        assert info["cgroups"][name]["limit_bytes"] == 256 << 20
        assert info["meminfo"]["MemTotal"] > 0
    finally:
        with contextlib.suppress(FileNotFoundError):
            cgroup.remove(group)


def test_an_oom_score_is_set_and_taken_back_by_the_agent(host, sleeper):
    process, child = sleeper
    score = Path(f"/proc/{child.pid}/oom_score_adj")
    before = score.read_text()
    host.change("proc_oom_score", value=700, undo_id="o1", cmdline="sleeper-of-the-test", **process)
    assert score.read_text().strip() == "700"
    undo.revert(host.paths, "o1", why="deadline", clock=SystemClock())
    assert score.read_text() == before
    again = host.ask("undo", id="o1", state="reverted", undo_dir=host.paths.undo)
    assert again.result["result"] == "absent"


def test_exactly_one_process_is_ended_unless_it_is_protected(host, sleeper):
    process, child = sleeper
    policy = host.root / "fastoom.json"
    policy.write_text('{"protect": [{"cmdline": "sleeper-of-the-test"}]}')
    refused = host.run("proc_signal", policy_file=str(policy), **process)
    assert (refused.status, child.poll()) == (Status.FAILED, None)
    assert "protects it" in refused.detail
    policy.unlink()
    preview = host.ask("proc_signal", check=True, policy_file=str(policy), **process)
    assert (preview.changed, child.poll()) == (True, None)
    real = host.ask("proc_signal", policy_file=str(policy), escalate=True, **process)
    assert (real.changed, real.result["ended"], real.diff) == (True, True, preview.diff)
    again = host.ask("proc_signal", policy_file=str(policy), **process)
    assert (again.changed, again.result["gone"]) == (False, True)


def test_cached_pages_of_a_file_are_dropped(host):
    path = host.root / "cached"
    path.write_bytes(b"x" * (8 << 20))
    path.read_bytes()
    preview = host.ask("page_cache", check=True, paths=[str(path)], sync=True)
    assert (preview.changed, preview.result["dropped_bytes"]) == (True, 8 << 20)
    real = host.ask("page_cache", paths=[str(path)], sync=True)
    assert real.result["dropped_bytes"] >= 6 << 20
    again = host.ask("page_cache", paths=[str(path)], sync=True)
    assert (again.changed, again.result["files"][0]["result"]) == (False, "skipped")


@pytest.mark.parametrize("check", [True, False])
def test_modules_that_only_look_never_change_anything(host, check):
    psi = host.ask("psi_info", check=check)
    fastoom = host.ask("fastoom_info", check=check, path=str(host.root / "p.json"), status_file=str(host.root / "s"))
    assert (psi.changed, fastoom.changed) == (False, False)
    assert set(psi.result["node"]) == {"cpu", "memory", "io"}
    assert (fastoom.result["running"], fastoom.result["policy_sha256"]) == (False, "")
