"""What the rules say of Prefect is checked without it; conditions say since when."""

from __future__ import annotations

import os
import time

import pytest

from osremed.core.errors import BadInput
from osremed.gitops import live
from osremed.gitops.conditions import conditions
from osremed.gitops.live import Home
from osremed.gitops.objects import live_objects, merged, parse_objects
from osremed.gitops.rollout import is_due

PATH = "prefect/all.yaml"
TEXT = """\
apiVersion: osremed/v1
kind: PrefectObjects
metadata: {name: all, title: What Prefect has, owners: [sre]}
limits:
  restarts: {slots: 2}
variables:
  oncall: {team: sre}
automations:
  hung:
    trigger: {when: stay_away, expect: [prefect.flow-run.Completed], within: 1h}
    actions:
      - set_state: {state: CRASHED}
"""


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("slots: 2", "slots: 0", ":5:21"),
        ("slots: 2", "slot: 2", ":5:14"),
        ("within: 1h", "within: 3600", ":10:"),
        ("within: 1h", "within: 5s", ":10:"),
        ("when: stay_away", "when: sometimes", ":10:21"),
        ("set_state: {state: CRASHED}", "set_state: {state: HAPPY}", ":12:28"),
        ("set_state: {state: CRASHED}", "run_shell: {command: id}", ":12:9"),
        ("set_state: {state: CRASHED}", "set_state: {state: CRASHED}\n        cancel_flow_run: {}", ":12:9"),
        ("oncall:", "on-call:", ":7:"),
        ("name: all,", "name: other,", ""),
    ],
)
def test_a_faulty_object_is_an_error_with_its_place(old, new, place):
    with pytest.raises(BadInput) as raised:
        parse_objects(TEXT.replace(old, new).encode(), PATH)
    assert raised.value.where.startswith(f"{PATH}{place}")


def test_two_files_that_give_one_name_are_refused():
    other = TEXT.replace("name: all,", "name: more,").replace("oncall", "second").replace("hung", "second")
    with pytest.raises(BadInput, match=r"limits\.restarts is given in prefect/all\.yaml, too"):
        merged({PATH: TEXT.encode(), "prefect/more.yaml": other.encode()})


def test_objects_go_live_with_the_rules_as_the_environment_has_them(control, repository, alice):
    repository.write(PATH, TEXT)
    repository.write("environments/prod/prefect/all.yaml", "patch: {limits: {restarts: {slots: 1}}}\n")
    repository.commit("Objects", alice)
    assert control.look(environment="prod").ready
    assert live_objects(control.home)["limits"] == {"restarts": {"slots": 1, "release_per_second": 0.0}}
    repository.edit(PATH, "slots: 2", "slots: two")
    repository.commit("A slip", alice)
    status = control.look()
    assert (status.reason, status.detail["where"]) == ("CheckFailed", f"{PATH}:5:21")
    repository.edit(PATH, "slots: two", "slots: 2")
    repository.edit(PATH, "{team: sre}", "{api_token: hunter2hunter2}")
    repository.commit("A secret", alice)
    assert "looks like a secret" in control.look().message


def test_a_look_that_finds_nothing_new_checks_nothing_anew(control, repository, alice, monkeypatch):
    control.look()
    from osremed.gitops import reconcile as module

    def never(*_arguments):
        raise AssertionError("the rules were judged again")

    with monkeypatch.context() as patched:
        patched.setattr(module, "judge_apart", never)
        assert control.look().ready
        with pytest.raises(AssertionError, match="judged again"):
            control.look(max_removed="60%")  # other settings: everything is checked
        with open(control.document["verify"]["allowed_signers"], "a") as signers:
            signers.write("# another key might be here now\n")
        with pytest.raises(AssertionError, match="judged again"):
            control.look()
    path = control.home.path("live", "runbooks/near-oom/runbook.yaml")
    os.chmod(path, 0o644)
    with open(path, "ab") as out:
        out.write(b"# by hand\n")
    assert control.look().reason == "Drifted"


def test_a_condition_says_since_when_it_has_its_status():
    def told(ready, reason, now, before=()):
        status = {"ready": ready, "reason": reason, "message": "m"}
        found = conditions(status, looking=False, now=now, before=before)
        return found, [(each["type"], each["status"], each["since"]) for each in found]

    first, shown = told(True, "Applied", "t1")
    assert shown == [("Ready", "True", "t1"), ("Reconciling", "False", "t1"), ("Stalled", "False", "t1")]
    second, shown = told(False, "FetchFailed", "t2", first)
    assert shown == [("Ready", "False", "t2"), ("Reconciling", "False", "t1"), ("Stalled", "False", "t1")]
    _third, shown = told(False, "NotVouched", "t3", second)
    assert shown == [("Ready", "False", "t2"), ("Reconciling", "False", "t1"), ("Stalled", "True", "t3")]


def test_a_reconciler_at_work_is_seen_without_taking_its_lock(tmp_path):
    home = Home(str(tmp_path))
    assert not live.is_busy(home)
    with live.alone(home):
        assert live.is_busy(home)
    assert not live.is_busy(home)


def test_hosts_are_due_after_a_swap_and_after_the_interval(control, repository, alice):
    control.look()
    assert is_due(control.home, "apply", 3600)
    told = {"set": live.live_digest(control.home), "at_ns": time.time_ns(), "hosts": []}
    live.write_json(control.home.hosts, told)
    assert not is_due(control.home, "apply", 3600)
    live.write_json(control.home.hosts, {**told, "at_ns": time.time_ns() - 3601 * 10**9})
    assert is_due(control.home, "apply", 3600)
    live.write_json(control.home.hosts, {**told, "set": "0" * 64})
    assert is_due(control.home, "apply", 3600)
