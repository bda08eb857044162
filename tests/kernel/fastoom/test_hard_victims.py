"""Victims that do not go by themselves, many of them, and scopes that come and go; on real groups and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from osremed.core.journal import read_journal
from osremed.sensors import cgroup, procfs
from tests.kernel.fastoom.conftest import MIB, kernel_oom_kills, until

pytestmark = pytest.mark.kernel
EARLY = {"enter_percent": 40, "leave_percent": 45, "target_percent": 50}

_ZOMBIE_LEADER = """
import os, sys, threading, time, ctypes
with open(sys.argv[1] + "/cgroup.procs", "w") as f: f.write(str(os.getpid()))
memory = bytearray(int(sys.argv[2]) << 20)
for offset in range(0, len(memory), 4096): memory[offset] = 1
threading.Thread(target=lambda: time.sleep(600)).start()
print("ready", flush=True)
sys.stdin.readline()
ctypes.CDLL(None).syscall(60, 0)  # exit(2): this thread alone
"""


def start(guard, group, **overrides) -> None:
    guard.policy(scopes=[{"cgroup": group.path}], overrides={**EARLY, **overrides})
    guard.start()


def killed(guard) -> list[dict]:
    return [event for event in guard.events() if event["action"] == "killed"]


def test_a_stopped_process_dies_although_it_cannot_take_the_polite_signal(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    victim = workload.start(group, "victim", 82)
    victim.send_signal(signal.SIGSTOP)
    start(guard, group, grace_s=0.3)
    assert victim.wait(30) == -signal.SIGKILL
    guard.until(lambda: killed(guard), "no record of the kill")


def test_a_starved_process_is_gone_in_time(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        hog = workload.start(group, "hog", 82)
        os.sched_setscheduler(hog.pid, os.SCHED_IDLE, os.sched_param(0))
        start(guard, group, grace_s=0)
        assert hog.wait(30) == -signal.SIGKILL
        guard.until(lambda: killed(guard), "no record of the kill")
        assert killed(guard)[0]["killed"][0]["freed"] is True
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def test_a_leader_that_is_a_zombie_with_live_threads_is_still_ended_whole(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    argv = [sys.executable, "-ISc", _ZOMBIE_LEADER, group.directory, "40"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    workload.running.append(process)
    assert process.stdout.readline() == "ready\n"
    workload.go(process)
    until(lambda: procfs.stat(process.pid).value.state == "Z", "the leader did not leave")
    assert process.poll() is None, "its threads live"
    other = workload.start(group, "other", 60)
    start(guard, group, grace_s=0)
    guard.until(lambda: killed(guard), "no record of the kill")
    gone = {one["pid"] for event in killed(guard) for one in event["killed"]}
    assert gone <= {process.pid, other.pid}
    assert gone


def test_dozens_of_workers_die_in_one_decision(make_group, workload, guard) -> None:
    group = make_group(1024 * MIB)
    workers = [workload.start(group, "worker", 8) for _ in range(60)]
    guard.policy(
        scopes=[{"cgroup": group.path}],
        overrides={"warn_percent": 90, "enter_percent": 55, "leave_percent": 60, "target_percent": 90, "grace_s": 0},
    )
    guard.start()
    guard.until(lambda: killed(guard), "no record of the kill")
    first = killed(guard)[0]
    assert len(first["killed"]) >= 24, "the need is for about half of them"
    assert all(one["freed"] for one in first["killed"])
    dead = sum(worker.poll() is not None for worker in workers)
    assert dead == len(first["killed"])
    assert len(killed(guard)) == 1
    assert kernel_oom_kills(group) == 0


def test_levels_are_told_before_anybody_is_ended(make_group, workload, guard) -> None:
    group = make_group(160 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}])
    guard.start()
    hog = workload.start(group, "worker", kind="leak")
    workload.go(hog)
    until(lambda: hog.poll() is not None, "the hog outlived the guard")
    guard.until(lambda: "killed" in guard.actions(), "no record of the kill")
    levels = guard.told("memory.level")
    assert levels[0]["level"] == "low"
    assert levels[0]["previous"] == "none"
    assert levels[0]["available_ratio"] > killed(guard)[0]["available_ratio"]


def test_groups_that_a_glob_means_are_guarded_as_they_come(make_group, workload, guard, hierarchy) -> None:
    parent = make_group(512 * MIB)
    guard.policy(scopes=[{"cgroup": f"{parent.path}/*"}], overrides={**EARLY, "grace_s": 0})
    guard.start()
    assert guard.status()["scopes"] == []
    pod = cgroup.create(hierarchy, f"{parent.path}/pod", 128 * MIB)
    victim = workload.start(pod, "victim", 82)
    assert victim.wait(30) == -signal.SIGKILL
    guard.until(lambda: killed(guard), "no record of the kill")
    assert killed(guard)[0]["scope"] == pod.path


def test_a_group_is_ended_whole_when_the_policy_says_so(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path, "kill": "group"}], overrides={**EARLY, "grace_s": 0})
    companion = workload.start(group, "companion", 5)
    guard.start()
    victim = workload.run_victim(group)
    assert victim.wait(30) == -signal.SIGKILL
    assert companion.wait(30) == -signal.SIGKILL
    guard.until(lambda: killed(guard), "no record of the kill")
    assert {one["pid"] for one in killed(guard)[0]["killed"]} == {victim.pid, companion.pid}


def test_the_status_tells_what_footing_the_guard_has(make_group, guard) -> None:
    group = make_group(128 * MIB)
    start(guard, group)
    status = guard.status()
    assert status["self_test"] == "yes"
    assert os.sched_getscheduler(guard.pid) & os.SCHED_RR or status["real_time"] != "yes"
    metrics = (guard.prefix / "run/osremed/fastoom.prom").read_text()
    assert f'osremed_fastoom_scope_up{{scope="{group.path}"}} 1' in metrics


def test_an_event_carries_the_name_that_a_rollout_wrote_after_the_guard_had_started(
    make_group, workload, guard
) -> None:
    group = make_group(128 * MIB)
    start(guard, group)
    named = guard.prefix / "etc/osremed/host_name"
    named.write_text("web-17\n")
    seen = guard.status()["updated_ns"]
    guard.reload()
    guard.until(lambda: guard.status()["updated_ns"] > seen, "the guard did not look again")
    assert workload.run_victim(group).wait(30) < 0
    guard.until(lambda: killed(guard), "no record of the kill")
    contents = read_journal(str(guard.prefix / "var/lib/osremed/events/fastoom"))
    hosts = {entry.record["name"]: entry.record["host"] for entry in contents.entries}
    assert hosts["memory.near_oom"] == "web-17"
