"""A policy of a group of hosts holds runs there back, besides the runbook's own guards; it never lets more through."""

from __future__ import annotations

from dataclasses import replace

import pytest

from osremed.core.errors import BadInput
from osremed.runbook.guardpolicy import parse_guard_policy, restricting, restrictions
from osremed.runbook.guards import Situation, check_guards
from osremed.runbook.model import RunState
from tests.unit.runbook.conftest import make_run

S = 1_000_000_000
NOW = make_run().raised_ns
GROUPS = {
    "all": frozenset({"node-1", "node-2", "web-1"}),
    "db": frozenset({"node-1", "node-2"}),
    "web": frozenset({"web-1"}),
}
HEAD = """\
apiVersion: osremed/v1
kind: GuardPolicy
metadata: {name: databases, title: Databases one at a time, owners: [dba]}
hosts: db
"""


def policy(guards, more=""):
    return parse_guard_policy(f"{HEAD}{more}guards: {guards}\n".encode(), "policies/databases.yaml")


def verdict(entry, found, *others, host="node-1", groups=GROUPS):
    """The guard that says no, or None; and what it says."""
    run = make_run(99, host, now_ns=NOW)
    restricted = restrictions([found], groups, host, run.runbook)
    results = check_guards(Situation(run, entry.runbook, others, 40, True, NOW, restrictions=restricted))
    return (None if results[-1].passed else results[-1].guard), results[-1].detail


def other(number, host, state=RunState.SUCCEEDED, ended_s_ago=0.0):
    run = make_run(number, host, "near-oom", now_ns=NOW - round(ended_s_ago * S))
    return replace(
        run, state=state, admitted=True, attempted=1, applied=("x",), updated_ns=NOW - round(ended_s_ago * S)
    )


def test_a_longer_cooldown_of_the_group_holds_its_hosts_back_and_no_others(entry):
    long = policy("{cooldown: 2h}")
    an_hour_ago = other(1, "node-1", ended_s_ago=3600), other(2, "web-1", ended_s_ago=3600)
    assert verdict(entry, long, *an_hour_ago)[0] == "cooldown of databases"
    assert verdict(entry, long, *an_hour_ago, host="web-1")[0] is None


def test_a_shorter_cooldown_of_the_group_frees_nothing(entry):
    assert verdict(entry, policy("{cooldown: 1s}"), other(1, "node-1", ended_s_ago=60))[0] == "cooldown"


def test_what_counts_over_the_fleet_is_counted_over_the_group(entry):
    one = policy("{concurrency: {fleet: 1}}")
    assert verdict(entry, one, other(1, "web-1", RunState.VERIFYING))[0] is None
    guard, detail = verdict(entry, one, other(1, "node-2", RunState.VERIFYING))
    assert guard == "fleet of databases"
    assert "at most 1 of 2 hosts" in detail


def test_a_policy_of_named_runbooks_leaves_the_others_alone(entry):
    long = policy("{cooldown: 2h}", "runbooks: [jitter]\n")
    assert verdict(entry, long, other(1, "node-1", ended_s_ago=3600))[0] is None


def test_a_window_of_the_group_is_asked(entry):
    never = policy("{windows: [{days: [mon], from: '00:00', to: '00:01'}]}")
    assert verdict(entry, never)[0] == "window of databases"


def test_a_group_that_the_inventory_does_not_have_is_no_group_without_hosts():
    with pytest.raises(BadInput, match="no group or host 'db'"):
        restrictions([policy("{cooldown: 2h}")], {"all": frozenset({"node-1"})}, "node-1", "near-oom")


def test_policies_that_cannot_be_read_refuse_the_run(entry, tmp_path):
    (tmp_path / "databases.yaml").write_text(f"{HEAD}guards: {{cooldown: soon}}\n")
    restrict = restricting(lambda: str(tmp_path), lambda: GROUPS)
    with pytest.raises(BadInput) as raised:
        restrict("node-1", "near-oom")
    now = Situation(make_run(99, now_ns=NOW), entry.runbook, (), 40, True, NOW, unrestricted_why=str(raised.value))
    assert (check_guards(now)[-1].guard, check_guards(now)[-1].passed) == ("policies", False)


def test_other_policies_and_an_absent_folder_restrict_nothing(tmp_path):
    restrict = restricting(lambda: str(tmp_path), lambda: GROUPS)
    (tmp_path / "all.yaml").write_text("kind: HostPolicy\n")
    assert restrict("node-1", "near-oom") == ()
    assert restricting(lambda: str(tmp_path / "nothing"), lambda: GROUPS)("node-1", "near-oom") == ()


def test_a_policy_counts_from_the_moment_it_is_there(tmp_path):
    restrict = restricting(lambda: str(tmp_path), lambda: GROUPS)
    (tmp_path / "databases.yaml").write_text(f"{HEAD}guards: {{cooldown: 2h}}\n")
    (found,) = restrict("node-1", "near-oom")
    assert (found.policy, found.names, found.guards.cooldown) == ("databases", {"cooldown"}, 7200.0)
    assert found.hosts == GROUPS["db"]


@pytest.mark.parametrize(
    "guards", ["{cooldown: 10}", "{cooldwn: 10m}", "{concurrency: {fleet: none}}", "{concurrency: 3}"]
)
def test_a_faulty_policy_is_an_error_with_its_place(guards):
    with pytest.raises(BadInput) as raised:
        policy(guards)
    assert raised.value.where.startswith("policies/databases.yaml:5:")
