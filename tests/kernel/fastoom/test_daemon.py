"""The daemon on real groups: grace, reload, what it says when it can do nothing, and what it costs."""

from __future__ import annotations

import hashlib
import signal

import pytest

from osremed.core.errors import Unavailable
from osremed.fastoom import verbs
from osremed.sensors import cgroup
from tests.kernel.fastoom.conftest import MIB, until

pytestmark = pytest.mark.kernel
EARLY = {"enter_percent": 40, "leave_percent": 45, "target_percent": 50}  # HIGH, which ends a grace, is at 20 %


def test_a_victim_that_ignores_sigterm_dies_by_time(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], overrides={**EARLY, "grace_s": 0.3})
    guard.start()
    stubborn = workload.run_victim(group, kind="ignores-term")
    assert stubborn.wait(30) == -signal.SIGKILL
    guard.until(lambda: "killed" in guard.actions(), "no record of the kill")
    event = guard.events()[0]
    assert event["killed"][0]["freed"] is True
    assert event["freed_ns"] - event["signalled_ns"] >= 0.3e9


def test_a_polite_victim_is_given_its_grace(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], overrides={**EARLY, "grace_s": 20})
    guard.start()
    polite = workload.run_victim(group)
    assert polite.wait(15) == -signal.SIGTERM


def test_without_a_grace_it_is_sigkill_at_once(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], overrides={**EARLY, "grace_s": 0})
    guard.start()
    victim = workload.run_victim(group)
    assert victim.wait(30) == -signal.SIGKILL


def test_a_broken_policy_on_reload_keeps_the_last_good_one_and_says_so(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], overrides={**EARLY, "grace_s": 0})
    guard.start()
    good = guard.status()["policy_sha256"]
    assert good == hashlib.sha256(guard.policy_path.read_bytes()).hexdigest()
    broken = guard.policy_path.read_bytes().replace(b"sensitivity", b"sensitivty")
    guard.policy_path.write_bytes(broken)
    guard.reload()
    guard.until(lambda: guard.status()["policy_error"], "the rejection was not told")
    status = guard.status()
    assert status["policy_sha256"] == good
    assert status["policy_rejected_sha256"] == hashlib.sha256(broken).hexdigest()
    assert "fastoom.json:1:" in status["policy_error"]
    assert "sensitivty" in status["policy_error"]
    victim = workload.run_victim(group)
    assert victim.wait(30) == -signal.SIGKILL, "the last good policy is not obeyed"

    guard.policy(scopes=[{"cgroup": group.path}], sensitivity="high")
    guard.reload()
    guard.until(lambda: guard.status()["sensitivity"] == "high", "the good policy was not taken")
    assert guard.status()["policy_error"] == guard.status()["policy_rejected_sha256"] == ""


def test_a_guard_that_starts_beside_a_broken_policy_takes_the_last_good_one(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], overrides={**EARLY, "grace_s": 0})
    guard.start()
    good = guard.status()["policy_sha256"]
    assert guard.stop() == 0
    guard.policy_path.write_bytes(b'{"torn')
    guard.start()
    assert guard.status()["policy_sha256"] == good
    assert "fastoom.json:1:" in guard.status()["policy_error"]
    victim = workload.run_victim(group)
    assert victim.wait(30) == -signal.SIGKILL


def test_while_nothing_can_be_killed_there_is_one_event_for_the_episode(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], protect=[{"name": "holder"}], overrides=EARLY)
    guard.start()
    holder = workload.start(group, "holder", 82)
    guard.until(lambda: guard.actions() == ["nothing_to_kill"], "the need was not told")
    polls = guard.status()["polls"]

    def polled_often() -> bool:
        guard.reload()  # also rewrites the status
        return guard.status()["polls"] > polls + 50

    guard.until(polled_often, "the guard stopped looking")
    assert guard.actions() == ["nothing_to_kill"]
    assert holder.poll() is None
    holder.kill()
    guard.until(lambda: guard.actions() == ["nothing_to_kill", "recovered"], "the end of the need was not told")


def test_a_dry_run_records_what_it_would_do_and_signals_nobody(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], overrides=EARLY)
    guard.start(dry_run=True)
    holder = workload.start(group, "holder", 82)
    guard.until(lambda: guard.actions() == ["dry_run"], "no decision was recorded")
    assert guard.events()[0]["killed"] == []
    assert holder.poll() is None


def test_once_makes_one_decision_and_ends(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], overrides={**EARLY, "grace_s": 0})
    victim = workload.run_victim(group)
    until(lambda: cgroup.usage(group).value > 82 * MIB, "the victim does not hold its memory")
    guard.spawn(once=True)
    assert guard.process.wait(30) == 0
    assert victim.wait(10) == -signal.SIGKILL
    assert guard.actions() == ["killed"]


def test_a_group_that_vanished_is_named_unknown_and_never_fine(make_group, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}])
    guard.start()
    assert guard.status()["level"] == "none"
    cgroup.remove(group)
    guard.until(lambda: guard.status()["level"] == "unknown", "a vanished group counts as fine")
    assert "gone" in guard.status()["scopes"][0]["missing"][0]
    cgroup.create(group.hierarchy, group.path, 128 * MIB)
    guard.until(lambda: guard.status()["level"] == "none", "the group is back, and is not seen")


def test_a_second_guard_with_the_same_paths_refuses_to_start(make_group, guard, monkeypatch) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}])
    guard.start()
    monkeypatch.setenv("OSREMED_PREFIX", str(guard.prefix))
    with pytest.raises(Unavailable, match="another fastoom"):
        verbs.run()
    assert verbs.status().document["pid"] == guard.pid


def test_status_of_a_dead_guard_is_unavailable(make_group, guard, monkeypatch) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}])
    guard.start()
    monkeypatch.setenv("OSREMED_PREFIX", str(guard.prefix))
    assert guard.stop() == 0
    with pytest.raises(Unavailable, match="does not run"):
        verbs.status()


def test_the_daemon_stays_within_its_memory_budget_fully_locked(make_group, workload, guard) -> None:
    group = make_group(128 * MIB)
    guard.policy(scopes=[{"cgroup": group.path}], overrides={**EARLY, "grace_s": 0})
    guard.start()
    victim = workload.run_victim(group)
    victim.wait(30)
    until(lambda: "recovered" in guard.actions(), "no record of the end of the need")
    assert guard.status()["rss_bytes"] <= 16_000_000
    assert guard.status()["memory_locked"] == "yes"


def test_explain_names_who_would_die_and_why_the_others_live(make_group, workload, guard, monkeypatch) -> None:
    group = make_group(128 * MIB)
    hog = workload.start(group, "worker", 40)
    kept = workload.start(group, "gateway", 20)
    guard.policy(scopes=[{"cgroup": group.path}], protect=[{"name": "gateway"}])
    monkeypatch.setenv("OSREMED_PREFIX", str(guard.prefix))
    answer = verbs.explain()
    scope = answer.document["scopes"][0]
    assert [(one["pid"], one["dies"]) for one in scope["candidates"]] == [(hog.pid, True)]
    assert [one["pid"] for one in scope["spared"]] == [kept.pid]
    assert scope["near_oom"] is False
    assert "protected by name 'gateway'" in answer.text
    assert hog.poll() is None
