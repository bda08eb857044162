"""Many scopes with numbers of their own, whole groups, the storm breaker, the cooldown."""

from __future__ import annotations

import pytest

from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reason, Value
from osremed.fastoom import collect
from osremed.fastoom.guard import Storm, Watch, step
from osremed.fastoom.model import Scope
from osremed.fastoom.policy import SENSITIVITY
from osremed.sensors import cgroup, groups
from tests.unit.fastoom.conftest import policy, process

POD = "/kubepods/*"


def run(host, rules, share, watch=None):
    host.set_available(share)
    watch = watch or Watch(Scope("/kubepods/a"))
    return watch, step(watch, [watch], rules, host)


def victims(host):
    return [pid for pid, _ in host.sent]


def test_each_scope_has_numbers_of_its_own() -> None:
    rules = policy(
        sensitivity="low",
        scopes=[{"node": True}, {"cgroup": POD, "sensitivity": "high", "overrides": {"grace_s": 3}}],
    )
    assert rules.of(Scope()).thresholds == SENSITIVITY["low"]
    assert rules.of(Scope("/kubepods/a")).thresholds.enter_ratio == SENSITIVITY["high"].enter_ratio
    assert rules.of(Scope("/kubepods/a")).thresholds.grace_s == 3
    assert rules.of(Scope("/kubepods/a/b")).thresholds == SENSITIVITY["low"], "a * is one part of a path"


def test_a_glob_means_the_groups_that_are_there(tmp_path) -> None:
    for name in ("kubepods/a", "kubepods/b/inner", "other"):
        (tmp_path / name).mkdir(parents=True)
    source = collect.Source("/proc", Value(cgroup.Hierarchy(2, str(tmp_path))))
    assert collect.expand(Scope(POD), source) == (Scope("/kubepods/a"), Scope("/kubepods/b"))
    assert collect.expand(Scope("/none/*"), source) == ()
    assert collect.expand(Scope(), source) == (Scope(),)


@pytest.mark.parametrize(
    "scope",
    [
        {"node": True, "kill": "all"},
        {"cgroup": "/a", "node": True},
        {"cgroup": "/a", "overrides": {"enter_percent": 60}},
    ],
)
def test_a_wrong_scope_is_refused_with_its_place(scope) -> None:
    with pytest.raises(BadInput) as caught:
        policy(scopes=[scope])
    assert caught.value.where.startswith("policy.json:1:")


def test_a_group_whose_owner_wants_it_whole_dies_whole(world) -> None:
    host = world(process(10, 300), process(11, 2), process(12, 200))
    host.groups = {"/kubepods/a/job": (10, 11)}
    watch, _ = run(host, policy(overrides={"grace_s": 0}), 0.05)
    assert sorted(victims(host)) == [10, 11]
    watch.flight.killed_ns = 1
    host.die(10, 11)
    done = step(watch, [watch], policy(), host)
    assert host.ended == ["/kubepods/a/job"], "what forked meanwhile is ended too"
    assert "in one group with p10" in next(one for one in done.killed if one.candidate.process.pid == 11).candidate.why


def test_a_group_with_a_protected_process_loses_the_victim_alone(world) -> None:
    host = world(process(10, 300), process(11, 2, name="safe"))
    host.groups = {"/kubepods/a/job": (10, 11)}
    watch, _ = run(host, policy(protect=[{"name": "safe"}]), 0.05)
    assert victims(host) == [10]
    assert any("not ended as a whole" in gap for gap in watch.pending.missing)


def test_the_storm_breaker_holds_back_and_says_so_once(world) -> None:
    rules = policy(limits={"max_kills": 1, "window_s": 60}, overrides={"grace_s": 0})
    host = world(process(10, 20), process(11, 300))
    host.processes[10], host.processes[11] = process(10, 20, adj=999), process(11, 300)
    watch, _ = run(host, rules, 0.05)
    assert victims(host) == [10]
    host.die(10)
    assert run(host, rules, 0.05, watch)[1].action == "killed"
    held = run(host, rules, 0.05, watch)[1]
    assert held.action == "held_back"
    assert "storm breaker" in held.missing[-1]
    host.advance(1)
    assert run(host, rules, 0.05, watch)[1] is None
    assert victims(host) == [10]
    host.advance(61)
    run(host, rules, 0.05, watch)
    assert victims(host) == [10, 11]


def test_a_group_that_is_gone_and_comes_again_has_no_new_allowance(world) -> None:
    rules = policy(limits={"max_kills": 1, "window_s": 3600}, overrides={"grace_s": 0})
    host, storm = world(process(10, 300)), Storm()
    run(host, rules, 0.05, Watch(Scope("/kubepods/a"), storm))
    assert victims(host) == [10]
    host.die(10)
    host.processes[20] = process(20, 300)
    _, held = run(host, rules, 0.05, Watch(Scope("/kubepods/b"), storm))
    assert (held.action, victims(host)) == ("held_back", [10])


def test_a_group_larger_than_what_may_be_ended_loses_the_victim_alone(world) -> None:
    host = world(process(10, 300), *(process(pid, 2) for pid in range(11, 16)))
    host.groups = {"/kubepods/a/job": tuple(range(10, 16))}
    watch, _ = run(host, policy(limits={"max_kills": 5, "window_s": 60}), 0.05)
    assert victims(host) == [10]
    assert any("not ended as a whole: that would be 6 at once, 5 may be" in gap for gap in watch.pending.missing)


def test_who_comes_into_a_group_during_the_grace_and_must_live_saves_it(world) -> None:
    rules = policy(protect=[{"name": "safe"}], overrides={"grace_s": 3})
    host = world(process(10, 300), process(11, 2))
    host.groups = {"/kubepods/a/job": (10, 11)}
    watch, _ = run(host, rules, 0.08)
    assert sorted(victims(host)) == [10, 11]
    host.processes[12] = process(12, 2, name="safe")
    host.groups = {"/kubepods/a/job": (10, 11, 12)}
    watch.flight.killed_ns = 1
    host.die(10, 11)
    done = step(watch, [watch], rules, host)
    assert host.ended == []
    assert any("safe[12] in it is protected" in gap for gap in done.missing)


def test_a_cooldown_holds_back_but_not_when_it_is_critical(world) -> None:
    rules = policy(limits={"cooldown_s": 30}, overrides={"grace_s": 0})
    host = world(process(10, 100, adj=999), process(11, 300))
    watch, _ = run(host, rules, 0.08)
    host.die(10)
    run(host, rules, 0.079, watch)
    assert run(host, rules, 0.079, watch)[1].action == "held_back"
    assert victims(host) == [10]
    host.advance(1)
    run(host, rules, 0.03, watch)
    assert victims(host) == [10, 11]


def test_after_an_intervention_stalls_are_measured_anew(world) -> None:
    host = world(process(10, 300))
    watch, _ = run(host, policy(overrides={"grace_s": 0}), 0.05)
    host.die(10)
    step(watch, [watch], policy(), host)
    assert host.settled == [watch.scope]


def test_dying_together_is_the_wish_of_the_highest_group_that_says_so(tmp_path) -> None:
    hierarchy = cgroup.Hierarchy(2, str(tmp_path))
    for name, flag in (("a", "0"), ("a/b", "1"), ("a/b/c", "0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.oom.group").write_text(flag + "\n")
    assert groups.on_behalf_of(hierarchy, "/a/b/c").value.path == "/a/b"
    assert groups.on_behalf_of(hierarchy, "/a").reason is Reason.NO_DATA
    assert isinstance(groups.kill(cgroup.Group(hierarchy, "/a")), Missing)
