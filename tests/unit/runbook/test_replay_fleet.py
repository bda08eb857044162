"""A replay asks what rules with the policies of groups would do, and whom they would ask, on a fleet it names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from osremed.core.errors import BadInput
from osremed.core.evidence import Bundle
from osremed.runbook.guardpolicy import parse_guard_policy
from osremed.runbook.replay import no_evidence, replay_events
from osremed.runbook.replayfleet import Fleet, fleet_of_inventory, fleet_of_number
from tests.unit.runbook.test_modes import AUTO, SOURCE, entry_of
from tests.unit.runbook.test_replay_guards import BEGIN, event, with_guards

ASKS, ACTS = "a run begins; would ask a person", "a run begins; would act by itself"
GROUPS = {
    "all": frozenset({"db-1", "db-2", "web-1", "web-2", *(f"other-{number}" for number in range(96))}),
    "db": frozenset({"db-1", "db-2"}),
    "web": frozenset({"web-1", "web-2"}),
}
FLEET = fleet_of_inventory(GROUPS, "/etc/osremed/inventory")
LOOKS = SOURCE[: SOURCE.index("\nremediate:")] + "\nremediate: []\nverify: []\n"


def policy(more, name="careful", hosts="db"):
    head = f"apiVersion: osremed/v1\nkind: GuardPolicy\nmetadata: {{name: {name}, title: x, owners: [x]}}\n"
    return parse_guard_policy(f"{head}hosts: {hosts}\n{more}\n".encode(), f"policies/{name}.yaml")


def acting(hosts="web"):
    return policy("runbooks: [near-oom]\nmode: auto", "acts", hosts)


def replayed(events, entry, *policies, fleet=FLEET, evidence=no_evidence, old=None, before=()):
    catalogs = {"near-oom": old} if old else {}, {"near-oom": entry}
    return replay_events(events, *catalogs, evidence, courses={}, fleet=fleet, policies=(before, policies))


def answers(result):
    return {each.event_id: each.new for each in result.differences}


def no_more_than(entry, **changed):
    """Nothing of its own holds it back but what is given."""
    free = {"cooldown": 1.0, "blast_radius": None, "concurrency": entry.runbook.guards.concurrency}
    return with_guards(entry, **{**free, **changed})


@pytest.fixture
def entry():
    return entry_of(SOURCE)


def test_a_share_is_one_of_the_fleet_that_is_given(entry):
    events = [event(number, number, f"web-{number}") for number in range(8)]
    for fleet, begun in ((None, 1), (fleet_of_number(100, "--fleet-hosts"), 5)):
        found = answers(replayed(events, with_guards(entry, blast_radius=None), fleet=fleet))
        assert list(found.values()).count(ASKS) == begun, fleet
        assert list(found.values()).count("refused by fleet") == 8 - begun


def test_a_policy_counts_over_its_group_and_leaves_the_others_alone(entry):
    one = policy("guards: {concurrency: {fleet: 1}}")
    events = [event(number, number, host) for number, host in enumerate(("db-1", "db-2", "web-1", "web-2"))]
    found = answers(replayed(events, no_more_than(entry), one))
    assert found == {"e0": ASKS, "e1": "refused by fleet of careful", "e2": ASKS, "e3": ASKS}


def test_what_a_policy_looks_back_on_is_not_forgotten_because_no_rule_does(entry):
    """The rules look back for a day at most, and at one run; the policy for ten days, over runs of another rule."""
    short = no_more_than(entry)
    short = with_guards(short, breaker=entry.runbook.guards.breaker.model_copy(update={"of": 1}))
    short = with_guards(short, failures=entry.runbook.guards.failures.model_copy(update={"max": 1}))
    named = entry.runbook.metadata.model_copy(update={"name": "other"})
    other = replace(short, runbook=short.runbook.model_copy(update={"metadata": named}))
    days = [event(number, 86400 * number, "db-1") for number in range(9)]
    elsewhere, late = event(20, 3600, "web-1"), event(9, 86400 * 10 + 61, "db-1")
    rules, long = {"near-oom": short, "other": other}, policy("runbooks: [near-oom]\nguards: {cooldown: 10d}")
    events = [*days, elsewhere, late]
    result = replay_events(events, {}, rules, no_evidence, courses={}, fleet=FLEET, policies=((), (long,)))
    said = [each.new for each in result.differences if (each.runbook, each.host) == ("near-oom", "db-1")]
    assert said == [ASKS, *["refused by cooldown of careful"] * 8, ASKS]


def test_a_policy_says_who_acts_unasked_and_the_most_careful_one_holds(entry):
    events = [event(1, 0, "web-1"), event(2, 1, "db-1")]
    assert answers(replayed(events, entry, acting())) == {"e1": ACTS, "e2": ASKS}
    careful = policy("mode: suggest", hosts="web")
    result = replayed(events, entry, acting(), careful)
    assert (answers(result), result.modes) == ({"e1": ASKS, "e2": ASKS}, {"asks": 2})


def test_a_policy_that_frees_or_holds_a_group_is_a_difference_though_no_rule_changed(entry):
    events = [event(1, 0, "web-1"), event(2, 1, "db-1")]
    result = replayed(events, entry, acting(), old=entry)
    assert [(each.event_id, each.old, each.new) for each in result.differences] == [("e1", ASKS, ACTS)]
    back = replayed(events, entry, old=entry, before=(acting(),))
    assert [(each.event_id, each.old, each.new) for each in back.differences] == [("e1", ACTS, ASKS)]
    assert replayed(events, entry, acting(), old=entry, before=(acting(),)).differences == ()


def test_with_evidence_the_steps_that_would_be_done_say_who_is_asked(entry):
    def evidence(_event):
        return Bundle("web-1", BEGIN, {}, {})

    def told(text, *policies):
        return answers(replayed([event(1, 0, "web-1")], entry_of(text), *policies, evidence=evidence))["e1"]

    plan = 'policy-too-low -> fastoom_policy {"sensitivity":"medium"}'
    assert told(SOURCE) == f"{plan}; would ask a person"
    assert told(SOURCE, acting()) == told(AUTO) == f"{plan}; would act by itself"
    assert told(AUTO.replace("risk >= 'high'", "risk >= 'low'")) == f"{plan}; would ask a person"
    assert told(AUTO.replace("sensitivity == 'low'", "sensitivity == 'never'")) == "nothing found -> no change"


def test_without_evidence_a_step_that_might_ask_is_not_called_none(entry):
    def told(text):
        result = replayed([event(1, 0, "web-1")], entry_of(text))
        return answers(result)["e1"], result.modes

    assert told(AUTO) == (ACTS, {"acts": 1})
    unsure = AUTO.replace("required: risk >= 'high'", "required: panorama.total_bytes > 5")
    assert told(unsure) == ("a run begins; would act by itself unless a step asks a person", {"depends": 1})
    always = AUTO.replace("required: risk >= 'high'", "required: event.level == 'high'")
    assert told(always) == (ASKS, {"asks": 1})
    assert told(LOOKS) == ("a run begins; changes nothing", {"looks": 1})


def test_a_host_that_the_inventory_does_not_have_is_refused_and_named(entry):
    result = replayed([event(1, 0, "gone-1"), event(2, 1, "web-1")], entry, acting())
    assert answers(result) == {"e1": "refused by scope", "e2": ACTS}
    assert (result.fleet.strangers, result.fleet.hosts, result.fleet.policies) == (("gone-1",), 100, ("acts",))


def test_a_group_that_the_inventory_does_not_have_refuses_as_it_does_live_and_the_replay_says_why(entry):
    result = replayed([event(1, 0, "web-1")], entry, acting(hosts="wbe"))
    assert answers(result) == {"e1": "refused by policies"}
    assert "no group or host 'wbe'" in result.fleet.policies_why


def test_without_an_inventory_policies_are_not_asked_and_that_is_said(entry):
    for fleet, source, hosts in ((None, "events", 1), (fleet_of_number(7, "--fleet-hosts"), "number", 7)):
        result = replayed([event(1, 0, "web-1")], entry, acting(), fleet=fleet)
        assert answers(result) == {"e1": ASKS}
        told = result.fleet
        assert (told.source, told.hosts, told.policies, told.not_asked) == (source, hosts, (), ("acts",))


def test_where_guards_are_not_asked_no_fleet_is_told(entry):
    result = replay_events([event(1, 0)], {}, {"near-oom": entry}, no_evidence)
    assert (result.fleet, result.as_json()["fleet"], result.modes) == (None, None, {"asks": 1})


def test_a_fleet_has_a_host():
    with pytest.raises(BadInput, match="0 hosts are no fleet"):
        fleet_of_number(0, "--fleet-hosts")
    assert replace(FLEET, source="events").has("nobody")
    assert not FLEET.has("nobody")
    assert Fleet("events", 3).has("nobody")
