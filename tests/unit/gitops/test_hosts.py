"""Host policies reach hosts wave by wave; where one refuses, its wave is as before and the rest is not tried."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from math import ceil

import pytest

from osremed.core.errors import BadInput
from osremed.executor.inventory import hosts_of
from osremed.gitops import hosts
from osremed.gitops.hosts import Wish, abandoned, assigned, brought_by, roll_out, waves
from osremed.gitops.policy import PARTS, parse_host_policy
from osremed.gitops.scaffold import SCAFFOLD
from tests.unit.gitops.conftest import NAMES

PATH = "policies/all.yaml"


@pytest.fixture
def policy():
    return parse_host_policy(SCAFFOLD[PATH].encode(), PATH)


def everywhere(policy):
    return [Wish(name, part, policy) for name in NAMES for part in policy.parts]


def outcomes(results):
    return [result.outcome for result in results]


def test_a_host_where_nobody_keeps_the_deadline_is_told_in_check_mode_too_and_nothing_is_changed(fleet, policy):
    for host in fleet.of.values():
        os.unlink(host.agent)
    for check in (True, False):
        told = roll_out(fleet, everywhere(policy), name="one", check=check)
        assert told[0].outcome == "failed"
        assert told[0].detail.startswith("nobody would take this back after confirm_within: no agent runs")
    assert fleet.policy("web-01") is None


def test_every_host_has_the_policy_after_a_roll_out_and_a_second_one_changes_nothing(fleet, policy):
    wanted = everywhere(policy)
    assert outcomes(roll_out(fleet, wanted, name="one")) == ["changed"] * 12
    found = fleet.policy("web-07")
    assert found["sensitivity"] == "medium"
    assert found["protect"] == [{"name": "sshd"}, {"name": "postgres"}]
    assert outcomes(roll_out(fleet, wanted, name="two")) == ["unchanged"] * 12
    assert fleet.undo_records() == []


def test_a_check_tells_the_drift_and_changes_nothing(fleet, policy):
    results = roll_out(fleet, everywhere(policy), name="x", check=True)
    assert outcomes(results) == ["would_change"] * 12
    assert fleet.policy("web-00") is None
    assert fleet.undo_records() == []


@pytest.mark.parametrize(("refusing", "taken_back", "untried"), [("web-00", 0, 11), ("web-02", 1, 9), ("web-11", 8, 0)])
def test_the_first_host_that_refuses_ends_it_and_its_wave_is_as_before(fleet, policy, refusing, taken_back, untried):
    elsewhere = os.path.join(fleet.of[refusing].root, "elsewhere")
    open(elsewhere, "w").close()
    os.symlink(elsewhere, fleet.of[refusing].policy)
    results = roll_out(fleet, everywhere(policy), name="x")
    counts = {word: outcomes(results).count(word) for word in ("failed", "taken_back", "not_tried", "changed")}
    assert counts == {
        "failed": 1,
        "taken_back": taken_back,
        "not_tried": untried,
        "changed": 11 - taken_back - untried,
    }
    for result in results:
        if result.host != refusing:
            assert (fleet.policy(result.host) is not None) == (result.outcome == "changed")
    assert fleet.undo_records() == []


def test_a_change_that_its_host_took_back_before_the_confirm_came_has_failed_and_ends_it(fleet, policy):
    """The confirm finds no record then: that is no leave to go on."""

    class Late:
        def run(self, call):
            if call.args.get("state") == "confirmed" and call.host == "web-02":
                fleet.run(replace(call, args={**call.args, "state": "reverted"}))  # as its agent does at the deadline
            return fleet.run(call)

    results = roll_out(Late(), everywhere(policy), name="x")
    assert outcomes(results) == ["changed", "changed", "failed", *["not_tried"] * 9]
    assert results[2].detail.startswith("confirmed too late: the host has already taken it back")
    assert [fleet.policy(name) is not None for name in ("web-01", "web-02", "web-03")] == [True, False, False]
    assert ["web-02", "fastoom"] not in brought_by(results, ())


def test_a_host_whose_daemon_was_only_told_to_load_what_lay_there_waits_for_no_confirm(fleet, policy):
    roll_out(fleet, [Wish("web-02", "fastoom", policy)], name="before")

    class Told:
        """The module's answer where the daemon had not loaded the file: changed, and nothing to take back."""

        def run(self, call):
            outcome = fleet.run(call)
            return replace(outcome, changed=True) if call.host == "web-02" else outcome

    assert outcomes(roll_out(Told(), everywhere(policy), name="x")) == ["changed"] * 12
    assert fleet.undo_records() == []


def test_however_slow_the_hosts_of_a_wave_are_the_last_is_confirmed_before_the_deadline_of_the_first():
    """Every call takes its whole time: a wave's parts one after another, each with a check, then the confirms."""
    many = [f"web-{number:04}" for number in range(2500)]
    found = list(waves(many))
    assert [host for wave in found for host in wave] == many
    parts = len(PARTS)
    for wave in found:
        bring_s = ceil(len(wave) / hosts._AT_ONCE) * parts * 2 * hosts._TIMEOUT_S
        confirm_s = ceil(len(wave) * parts / hosts._AT_ONCE) * hosts._TIMEOUT_S
        assert bring_s + confirm_s < hosts._CONFIRM_WITHIN_S


def test_one_then_a_tenth_then_the_rest():
    assert [len(wave) for wave in waves(NAMES)] == [1, 2, 9]
    assert [len(wave) for wave in waves([str(number) for number in range(131)])] == [1, 10, 4, *[10] * 11, 6]
    assert [len(wave) for wave in waves(["a"])] == [1]
    assert [len(wave) for wave in waves(["a", "b"])] == [1, 1]
    assert list(waves([])) == []


def test_a_host_has_one_policy_and_a_group_has_the_hosts_of_its_children(policy):
    document = {
        "_meta": {"hostvars": {}},
        "all": {"children": ["fleet", "ungrouped"]},
        "fleet": {"children": ["web"], "hosts": ["db-1"]},
        "web": {"hosts": ["web-1", "web-2"]},
    }
    groups = hosts_of(document).groups
    assert groups["fleet"] == {"db-1", "web-1", "web-2"} == groups["all"]
    fleet_wide = policy.model_copy(update={"hosts": "fleet"})
    assert [wish.host for wish in assigned([fleet_wide], groups)] == ["db-1", "web-1", "web-2"]
    assert [wish.host for wish in assigned([policy.model_copy(update={"hosts": "db-1"})], groups)] == ["db-1"]
    with pytest.raises(BadInput, match="web-1 has two policies of fastoom: all and all"):
        assigned([policy.model_copy(update={"hosts": "web"}), fleet_wide], groups)
    with pytest.raises(BadInput, match="no group or host 'nobody'"):
        assigned([policy.model_copy(update={"hosts": "nobody"})], groups)
    budget = policy.model_copy(update={"hosts": "web", "fastoom": None, "hotspot": {"ceiling_percent": 1}})
    found = [(wish.host, wish.part) for wish in assigned([budget, fleet_wide], groups)]
    assert found == [
        ("db-1", "fastoom"),
        *((web, part) for web in ("web-1", "web-2") for part in ("fastoom", "hotspot")),
    ]


GPUS = """\
apiVersion: osremed/v1
kind: HostPolicy
metadata: {name: gpus, title: When a GPU rings, owners: [ml]}
hosts: gpu
timeline:
  temperature_margin_celsius: 8
  growth_window_s: 900
hotspot:
  ceiling_percent: 0.5
"""


def test_thresholds_and_budget_reach_hosts_too_and_are_exactly_what_the_rules_say(fleet):
    policy = parse_host_policy(GPUS.encode(), "policies/gpus.yaml")
    old = os.path.join(fleet.of["web-03"].root, "timeline.json")
    with open(old, "w", encoding="utf-8") as out:
        json.dump({"apiVersion": "osremed/v1", "kind": "TimelinePolicy", "stuck_s": 60}, out)
    assert outcomes(roll_out(fleet, everywhere(policy), name="one")) == ["changed"] * 24
    wanted = {"kind": "TimelinePolicy", "temperature_margin_celsius": 8, "growth_window_s": 900}
    assert fleet.policy("web-03", "timeline") == {"apiVersion": "osremed/v1", **wanted}
    assert fleet.policy("web-11", "hotspot")["ceiling_percent"] == 0.5
    assert fleet.policy("web-11") is None
    assert outcomes(roll_out(fleet, everywhere(policy), name="two")) == ["unchanged"] * 24
    assert fleet.undo_records() == []


def test_a_part_that_one_host_refuses_takes_the_other_parts_of_its_wave_back(fleet):
    policy = parse_host_policy(GPUS.encode(), "policies/gpus.yaml")
    os.symlink("/nowhere", os.path.join(fleet.of["web-00"].root, "timeline.json"))
    results = roll_out(fleet, everywhere(policy), name="x")
    assert {(each.part, each.outcome) for each in results if each.host == "web-00"} == {
        ("timeline", "failed"),
        ("hotspot", "taken_back"),
    }
    assert outcomes(results).count("not_tried") == 22
    assert fleet.policy("web-00", "hotspot") is None
    assert fleet.undo_records() == []


def test_what_the_rules_want_no_more_goes_where_a_daemon_can_do_without_and_is_told_where_it_cannot(fleet, policy):
    gpus = parse_host_policy(GPUS.encode(), "policies/gpus.yaml")
    both = (*everywhere(gpus), *everywhere(policy))
    brought = brought_by(roll_out(fleet, both, name="one"), ())
    assert len(brought) == 36
    gone = abandoned(brought, (), frozenset(NAMES[:11]))
    assert len(gone) == 33  # one host has left the inventory
    results = roll_out(fleet, gone, name="two")
    assert {(each.part, each.outcome) for each in results} == {
        ("timeline", "changed"),
        ("hotspot", "changed"),
        ("fastoom", "left"),
    }
    assert fleet.policy("web-00", "timeline") is None
    assert fleet.policy("web-00")["sensitivity"] == "medium"
    assert brought_by(results, brought) == []
    assert fleet.undo_records() == []


def test_a_removal_that_failed_is_tried_again(fleet):
    gpus = parse_host_policy(GPUS.encode(), "policies/gpus.yaml")
    brought = brought_by(roll_out(fleet, everywhere(gpus), name="one"), ())
    path = os.path.join(fleet.of["web-00"].root, "timeline.json")
    os.unlink(path)
    os.symlink("/nowhere", path)
    left = brought_by(roll_out(fleet, abandoned(brought, (), frozenset(NAMES)), name="two"), brought)
    assert left == brought  # the first host refused, its wave was taken back, and no other was tried


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("ceiling_percent: 0.5", "ceiling_percent: 99", "ceiling_percent is 99"),
        ("growth_window_s: 900", "growth_window: 900", "unknown key 'growth_window'"),
        ("  temperature_margin_celsius: 8\n", "  temperature_margin_celsius: 8.5\n", "temperature_margin_celsius"),
        (GPUS[GPUS.index("timeline:") :], "", "give one of fastoom, timeline, hotspot"),
    ],
)
def test_a_part_that_its_daemon_would_refuse_never_goes_live(old, new, says):
    with pytest.raises(BadInput, match=says):
        parse_host_policy(GPUS.replace(old, new).encode(), "policies/gpus.yaml")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("sensitivity: medium", "sensitivity: extreme", ":7:3"),
        ("hosts: all", "hosts: all,!web", ":5:8"),
        ("name: all,", "name: other,", ""),
        ("{name: sshd}", "{nam: sshd}", ":7:3"),
        ("kind: HostPolicy", "kind: Policy", ":3:7"),
    ],
)
def test_a_faulty_policy_is_an_error_with_its_place(old, new, place):
    with pytest.raises(BadInput) as raised:
        parse_host_policy(SCAFFOLD[PATH].replace(old, new).encode(), PATH)
    assert raised.value.where == f"{PATH}{place}"
