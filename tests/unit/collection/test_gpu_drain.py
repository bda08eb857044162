"""A node is taken out, drained, and given back only while it is ours; on stand-ins for kubectl and scontrol."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import pytest
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.modules import gpu_drain

#: One of them stands for both: the node is a file, what was asked another. Jobs end when looked at `jobs` times.
TOOLS = """#!{python} -IS
import json, os, sys
name, words, path = os.path.basename(sys.argv[0]), sys.argv[1:], {path!r}
node = json.load(open(path))
with open(path + ".asked", "a") as log:
    log.write(" ".join([name, *words]) + "\\n")
if name == "scontrol":
    if words[0] == "show":
        out = "IDLE" if node["jobs"] <= 0 else "ALLOCATED"
        why = "Reason=%s [root@2026-01-02T03:04:05] " % node["reason"] if node["reason"] else ""
        print("NodeName=n1 Arch=x86_64 State=%s%s ThreadsPerCore=1 %sComment=a Reason" % (out, node["flags"], why))
        node["jobs"] -= 1
    elif words[2] == "State=RESUME":
        node.update(flags="", reason="")
    else:
        node.update(flags="+DRAIN", reason=words[3].partition("=")[2])
elif words[:2] == ["get", "node"]:
    print(json.dumps({{"spec": {{"unschedulable": node["cordoned"]}}}}))
elif words[:2] == ["get", "pods"]:
    print(json.dumps({{"items": node["pods"]}}))
elif words[0] == "drain":
    node["pods"] = node["pods"][1:] if node["stuck"] else []
    json.dump(node, open(path, "w"))
    sys.exit("error: global timeout reached" if node["stuck"] else 0)
else:
    node["cordoned"] = words[0] == "cordon"
json.dump(node, open(path, "w"))
"""
REASON = "osremed: Xid 109 on GPU 3"


def pod(name, phase="Running", **about):
    return {"metadata": {"namespace": "ml", "name": name, **about}, "status": {"phase": phase}}


DAEMON = pod("exporter", ownerReferences=[{"kind": "DaemonSet", "controller": True}])
STATIC = pod("proxy", annotations={"kubernetes.io/config.mirror": "x"})
ENDED = pod("done", phase="Succeeded")


@pytest.fixture
def node(tmp_path, monkeypatch):
    path = tmp_path / "node.json"
    for tool in ("kubectl", "scontrol"):
        (tmp_path / tool).write_text(TOOLS.format(python=sys.executable, path=str(path)))
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(gpu_drain, "ASK_S", 60.0)

    def put(**facts):
        free = {
            "jobs": 0,
            "flags": "",
            "reason": "",
            "cordoned": False,
            "pods": [DAEMON, STATIC, ENDED],
            "stuck": False,
        }
        path.write_text(json.dumps({**free, **facts}))

    def ask(scheduler, state, check=False, **given):
        given = {"scheduler": scheduler, "node": "n1", "state": state, **given}
        spec = gpu_drain.argument_spec()
        assert set(given) <= set(spec)
        return gpu_drain.act({name: given.get(name, facts.get("default")) for name, facts in spec.items()}, check)

    def asked():
        """What was changed, not what was looked at."""
        lines = (tmp_path / "node.json.asked").read_text().splitlines()
        return [line for line in lines if line.split()[1] not in ("show", "get")]

    put()
    return SimpleNamespace(put=put, ask=ask, asked=asked, facts=lambda: json.loads(path.read_text()))


def undo(node, done, check=False):
    previous = dict(done["previous"])
    return node.ask(previous.pop("scheduler"), previous.pop("state"), check, **previous)


@pytest.mark.parametrize("scheduler", ["kubernetes", "slurm"])
def test_a_node_that_was_cordoned_is_given_back_with_previous_and_then_nothing_is_left_to_do(node, scheduler):
    preview = node.ask(scheduler, "cordoned", check=True, reason=REASON)
    done = node.ask(scheduler, "cordoned", reason=REASON)
    assert (done["previous"], done["diff"]) == (preview["previous"], preview["diff"])
    assert not done["after"]["schedulable"]
    assert (undo(node, done, check=True)["changed"], undo(node, done)["changed"]) == (True, True)
    assert not undo(node, done)["changed"]
    assert (node.facts()["flags"], node.facts()["cordoned"]) == ("", False)


@pytest.mark.parametrize(
    ("since", "said"),
    [
        ({"flags": "+DRAIN", "reason": "disk is broken"}, "it is out for 'disk is broken', not for 'osremed: Xid 109"),
        ({"flags": "+DRAIN", "reason": "osremed: Xid 79 on GPU 1"}, "it is out for 'osremed: Xid 79 on GPU 1'"),
        ({"flags": "+DRAIN", "reason": ""}, "it is out for ''"),
        ({"flags": "+DOWN*+DRAIN", "reason": REASON}, r"it is IDLE\+DOWN\*\+DRAIN"),
        ({"flags": "+FAIL+DRAIN", "reason": REASON}, "more than a drain"),
        ({"flags": "+DRAIN+MAINT", "reason": REASON}, "more than a drain"),
        ({"flags": "+DRAIN+MAINTENANCE", "reason": REASON}, "more than a drain"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_a_node_of_slurm_that_somebody_else_took_out_since_is_not_given_back(node, since, said, check):
    done = node.ask("slurm", "cordoned", reason=REASON)
    node.put(**since)
    with pytest.raises(ActionFailed, match=said) as refused:
        undo(node, done, check)
    assert refused.value.facts == {"conflict": True}
    assert "scontrol update NodeName=n1 State=RESUME" in str(refused.value)
    assert node.facts()["flags"] == since["flags"]


def test_without_a_reason_only_a_node_that_is_out_for_one_of_osremeds_is_given_back(node):
    node.put(flags="+DRAIN", reason="maintenance of the rack")
    with pytest.raises(ActionFailed, match="which is not osremed's") as refused:
        node.ask("slurm", "resumed")
    assert refused.value.facts["conflict"]
    for reason in ({}, {"reason": REASON}, {"reason": 'it said "stop"'}):
        node.put()
        node.ask("slurm", "cordoned", **reason)
        assert node.ask("slurm", "resumed")["after"]["schedulable"]


@pytest.mark.parametrize("reason", ["Xid 79", "osremed: Xid 79", 'said "stop"', '"quoted"', "a  b = c D=e"])
def test_a_reason_is_told_as_osremeds_and_known_again(node, reason):
    done = node.ask("slurm", "cordoned", reason=reason)
    assert node.facts()["reason"].startswith("osremed: ")
    kept = node.facts()["reason"].removesuffix('"')  # as scontrol does
    node.put(flags="+DRAIN", reason=kept)
    assert node.ask("slurm", "resumed", True, reason=reason)["changed"]
    assert undo(node, done)["changed"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("State=IDLE+DRAIN Reason=a b=c [root@2026-01-02T03:04:05]", "a b=c"),
        ("State=IDLE+DRAIN Reason=a b [root@2026-01-02T03:04:05] Comment=x [c@d]", "a b"),
        ("State=IDLE+DRAIN Reason=a b [root@Today 03:04] Comment=x", "a b"),
        ("State=IDLE+DRAIN Reason=a b Comment=x", "a b"),
        ("State=IDLE+DRAIN Reason=a b\n", "a b"),
        ("State=IDLE MyReason=a", ""),
    ],
)
def test_the_reason_that_slurm_keeps_is_understood(text, reason):
    assert gpu_drain.parse_slurm("NodeName=n1 " + text)["reason"] == reason


def test_a_node_of_slurm_that_is_out_already_keeps_its_reason_and_its_jobs_are_waited_for(node):
    node.put(flags="+DRAIN", reason="maintenance of the rack", jobs=2)
    assert node.ask("slurm", "drained", check=True)["changed"]
    done = node.ask("slurm", "drained", reason=REASON)
    assert (done["changed"], done["before"]["busy"], done["after"]["busy"], done["previous"]) == (True, True, False, {})
    assert (node.facts()["reason"], not node.ask("slurm", "drained")["changed"]) == ("maintenance of the rack", True)


def test_a_cordoned_node_of_kubernetes_is_drained_when_pods_are_left_and_only_then(node):
    node.put(cordoned=True)
    assert not node.ask("kubernetes", "drained", check=True)["changed"]
    node.put(cordoned=True, pods=[DAEMON, pod("train"), ENDED])
    preview = node.ask("kubernetes", "drained", check=True)
    assert preview["changed"]
    assert preview["diff"]["before"] != preview["diff"]["after"]
    done = node.ask("kubernetes", "drained")
    assert (done["diff"], done["before"]["busy"], done["after"]["busy"]) == (preview["diff"], True, False)
    assert node.asked() == ["kubectl drain n1 --ignore-daemonsets --timeout=600s"]
    assert not node.ask("kubernetes", "drained")["changed"]


def test_a_drain_that_fails_half_way_says_that_it_has_changed_the_cluster(node):
    node.put(cordoned=True, pods=[pod("a"), pod("b")], stuck=True)
    with pytest.raises(ActionFailed, match="global timeout reached") as failed:
        node.ask("kubernetes", "drained")
    assert failed.value.facts["changed"]


@pytest.mark.parametrize("scheduler", ["kubernetes", "slurm"])
def test_a_plan_that_cordons_and_then_drains_does_not_conflict_with_itself(node, scheduler):
    node.put(jobs=5, pods=[pod("train")])
    steps = ("cordoned", "drained")
    seen = [node.ask(scheduler, state, check=True)["as_seen"] for state in steps]
    done = [node.ask(scheduler, state, **expected) for state, expected in zip(steps, seen, strict=True)]
    assert [each["changed"] for each in done] == [True, True]
    assert not done[1]["after"]["busy"]


@pytest.mark.parametrize(("state", "out"), [("cordoned", False), ("drained", False), ("resumed", True)])
def test_a_node_that_is_neither_as_expected_nor_as_wanted_is_left_alone(node, state, out):
    node.put(cordoned=out)
    with pytest.raises(ActionFailed, match="not as expected") as refused:
        node.ask("kubernetes", state, expect_schedulable=out)
    assert (refused.value.facts, node.facts()["cordoned"]) == ({"conflict": True}, out)


def test_pods_that_are_not_understood_are_refused():
    for text in ("", "[]", "{}", '{"items": [{}]}', '{"items": 3}'):
        with pytest.raises(ActionFailed, match="nothing that is understood"):
            gpu_drain.parse_pods(text)
