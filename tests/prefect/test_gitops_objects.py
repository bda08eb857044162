"""Objects of a real Prefect follow the rules: by name, by the owner's label, and nobody else's are touched."""

import asyncio
import time

import httpx
import pytest

from osremed.gitops.objects import merged

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]

TEXT = """\
apiVersion: osremed/v1
kind: PrefectObjects
metadata: {name: all, title: What Prefect has, owners: [sre]}
limits:
  OWNER-restarts: {slots: 2}
  OWNER-rate: {slots: 5, release_per_second: 0.5}
variables:
  OWNER_oncall: {team: sre, people: [alice, bob]}
automations:
  OWNER-hung:
    trigger:
      when: stay_away
      after: [prefect.flow-run.Running]
      expect: [prefect.flow-run.Failed, prefect.flow-run.Completed]
      for_each: [prefect.resource.id]
      within: 1h
    actions:
      - cancel_flow_run: {}
  OWNER-again:
    trigger: {when: happen, expect: [osremed.push], match: {prefect.resource.id: "osremed.*"}, within: 0s}
    actions:
      - run_deployment: {deployment: osremed-gitops/OWNER}
"""


class Prefect:
    """The server's API, and a reconciler with an owner of its own."""

    def __init__(self, server, owner):
        self.url, self.owner = server.api_url, owner
        self.wanted = merged({"prefect/all.yaml": TEXT.replace("OWNER", owner).encode()})

    def ask(self, method, path, body=None):
        answer = httpx.request(method, f"{self.url}{path}", json=body, timeout=30)
        while answer.status_code == 503:  # SQLite is busy: the server says when to come again
            time.sleep(float(answer.headers.get("Retry-After", 1)))
            answer = httpx.request(method, f"{self.url}{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def all(self, path):
        return {each["name"]: each for each in self.ask("POST", path, {"limit": 200})}

    def reconcile(self, check=False, **changed):
        from osremed.flows.gitops_flow import bring_objects

        wanted = {"owner": self.owner, "interval_s": 60.0, "objects": {**self.wanted, **changed}}
        found = asyncio.run(bring_objects(wanted, check=check))
        return {(each.kind, each.name): each for each in found}

    def outcomes(self, **options):
        return {name: each.outcome for (_kind, name), each in self.reconcile(**options).items()}


@pytest.fixture
def prefect(prefect_server, request):
    made = Prefect(prefect_server, f"t{abs(hash(request.node.name)) % 10**8}")
    yield made
    made.wanted = {}
    made.reconcile()


def test_what_is_wanted_is_made_once_and_then_nothing_changes(prefect):
    looked = prefect.outcomes(check=True)
    assert set(looked.values()) == {"would_create"}
    assert f"{prefect.owner}-restarts" not in prefect.all("/v2/concurrency_limits/filter")
    assert set(prefect.outcomes().values()) == {"created"}
    again = prefect.reconcile()
    assert [each for each in again.values() if each.outcome != "unchanged"] == []
    assert len(again) == 6
    assert prefect.all("/v2/concurrency_limits/filter")[f"{prefect.owner}-rate"]["slot_decay_per_second"] == 0.5
    deployment = prefect.all("/deployments/filter")[prefect.owner]
    assert [each["schedule"]["interval"] for each in deployment["schedules"]] == [60.0]
    automation = prefect.all("/automations/filter")[f"{prefect.owner}-again"]
    assert automation["actions"][0]["deployment_id"] == deployment["id"]


def test_what_was_changed_by_hand_is_told_and_brought_back(prefect):
    prefect.reconcile()
    name = prefect.owner
    limit = prefect.all("/v2/concurrency_limits/filter")[f"{name}-restarts"]
    prefect.ask("PATCH", f"/v2/concurrency_limits/{limit['id']}", {"limit": 99})
    variable = prefect.all("/variables/filter")[f"{name}_oncall"]
    prefect.ask("PATCH", f"/variables/{variable['id']}", {"value": {**variable["value"], "extra": True}})
    automation = prefect.all("/automations/filter")[f"{name}-hung"]
    prefect.ask("PATCH", f"/automations/{automation['id']}", {"enabled": False})
    deployment = prefect.all("/deployments/filter")[name]
    prefect.ask("PATCH", f"/deployments/{deployment['id']}", {"paused": True})

    drift = {each.name: each.detail for each in prefect.reconcile(check=True).values() if each.outcome != "unchanged"}
    assert drift == {
        f"{name}-restarts": "limit",
        f"{name}_oncall": "value.extra",
        f"{name}-hung": "enabled",
        name: "paused",
    }
    assert prefect.all("/v2/concurrency_limits/filter")[f"{name}-restarts"]["limit"] == 99
    prefect.reconcile()
    assert set(prefect.outcomes(check=True).values()) == {"unchanged"}
    assert prefect.all("/v2/concurrency_limits/filter")[f"{name}-restarts"]["limit"] == 2
    assert prefect.all("/deployments/filter")[name]["paused"] is False


def test_what_is_no_longer_wanted_is_removed_and_nobody_elses(prefect):
    prefect.reconcile()
    theirs = f"{prefect.owner}-theirs"
    prefect.ask("POST", "/v2/concurrency_limits/", {"name": theirs, "limit": 1})
    prefect.ask("POST", "/variables/", {"name": f"{prefect.owner}_theirs", "value": 1, "tags": ["mine"]})
    gone = prefect.outcomes(limits={}, variables={}, automations={})
    assert sorted(gone.values()) == ["removed"] * 5 + ["unchanged"]
    assert theirs in prefect.all("/v2/concurrency_limits/filter")
    assert f"{prefect.owner}_theirs" in prefect.all("/variables/filter")
    assert f"{prefect.owner}-restarts" not in prefect.all("/v2/concurrency_limits/filter")
    # The name is free again: a human's limit of that name is not ours to remove.
    prefect.ask("POST", "/v2/concurrency_limits/", {"name": f"{prefect.owner}-restarts", "limit": 7})
    prefect.reconcile(limits={}, variables={}, automations={})
    assert prefect.all("/v2/concurrency_limits/filter")[f"{prefect.owner}-restarts"]["limit"] == 7


def test_what_somebody_else_made_under_a_wanted_name_is_a_conflict_and_stays(prefect):
    name = f"{prefect.owner}-restarts"
    prefect.ask("POST", "/v2/concurrency_limits/", {"name": name, "limit": 7})
    prefect.ask("POST", "/variables/", {"name": f"{prefect.owner}_oncall", "value": "theirs", "tags": []})
    found = prefect.reconcile()
    assert {each.name for each in found.values() if each.outcome == "conflict"} == {name, f"{prefect.owner}_oncall"}
    assert prefect.all("/v2/concurrency_limits/filter")[name]["limit"] == 7
    prefect.reconcile(limits={}, variables={})
    assert prefect.all("/v2/concurrency_limits/filter")[name]["limit"] == 7
    assert prefect.all("/variables/filter")[f"{prefect.owner}_oncall"]["value"] == "theirs"


def test_a_double_of_our_automation_is_removed_for_both_would_fire(prefect):
    prefect.reconcile()
    ours = prefect.all("/automations/filter")[f"{prefect.owner}-hung"]
    copied = {key: ours[key] for key in ("name", "description", "enabled", "tags", "trigger", "actions")}
    prefect.ask("POST", "/automations/", copied)
    prefect.reconcile()
    found = prefect.ask("POST", "/automations/filter", {"limit": 200})
    assert [each["id"] for each in found if each["name"] == ours["name"]] == [ours["id"]]


def test_one_that_cannot_be_made_does_not_hold_up_the_others(prefect):
    trigger = {"when": "happen", "expect": ["x"], "within": 0.0}
    missing = {
        "trigger": trigger,
        "actions": [{"notify": {"block": "slack-webhook/nowhere", "subject": "s", "body": "b"}}],
    }
    found = prefect.reconcile(automations={"a-broken": missing, **prefect.wanted["automations"]})
    broken = found["automations", "a-broken"]
    assert (broken.outcome, broken.detail) == ("failed", "Prefect has no block slack-webhook/nowhere")
    assert {each.outcome for key, each in found.items() if key[1] != "a-broken"} == {"created"}


def test_two_control_planes_on_one_prefect_keep_apart(prefect, prefect_server):
    prefect.reconcile()
    other = Prefect(prefect_server, f"{prefect.owner}b")
    other.wanted = {}
    assert list(other.outcomes().values()) == ["created"]
    assert set(prefect.outcomes(check=True).values()) == {"unchanged"}
    other.reconcile()
