"""Options -> what is wanted, and what a command printed -> documents and gaps."""

from __future__ import annotations

import json
import sys

import pytest
from ansible_collections.osremed.host.plugins.module_utils._command import Ended
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import ABSENT, FileState
from ansible_collections.osremed.host.plugins.modules import evidence, fastoom_policy, probe

NOTHING = dict.fromkeys((*fastoom_policy.SETTINGS, "content_b64", "mode"))
BASE = {**NOTHING, "path": "/p", "state": "present", "merge": "replace"}
OLD = FileState(True, b'{"sensitivity":"low","apiVersion":"osremed/v1","kind":"FastoomPolicy"}', 0o600, 7, 8)


def plan(before=OLD, **given):
    return fastoom_policy.make_plan({**BASE, **given})(before)


def test_a_policy_that_says_the_same_in_another_layout_is_left_as_it_is():
    assert plan(sensitivity="low") == OLD


def test_a_changed_policy_keeps_owner_and_mode_and_gets_the_stable_form():
    wanted = plan(sensitivity="high", protect=[{"name": "sshd", "cmdline": None}])
    assert (wanted.mode, wanted.uid, wanted.gid) == (0o600, 7, 8)
    assert wanted.data.startswith(b'{\n  "apiVersion": "osremed/v1",\n')
    assert json.loads(wanted.data)["protect"] == [{"name": "sshd"}]


def test_exact_bytes_and_mode_are_taken_as_they_are():
    wanted = plan(content_b64="eyB9", mode="0640")
    assert (wanted.data, wanted.mode) == (b"{ }", 0o640)
    assert plan(ABSENT, content_b64="eyB9").mode == 0o644


def test_absence_is_a_plan_too():
    assert plan(state="absent") == ABSENT


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one of"),
        ({"state": "absent", "sensitivity": "low"}, "takes no settings"),
        ({"state": "absent", "content_b64": ""}, "takes no settings"),
        ({"content_b64": "no base64!"}, "not Base64"),
        ({"sensitivity": "low", "mode": "rw-r--r--"}, "not an octal mode"),
        ({"scopes": [{"node": False, "cgroup": None}]}, "node can only be true"),
    ],
)
def test_options_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ActionFailed, match=message):
        plan(**given)


def test_a_broken_policy_is_not_merged_over():
    with pytest.raises(ActionFailed, match=r"^/p:1:2: "):
        plan(OLD._replace(data=b"{broken"), sensitivity="low")


ONHOST = r"""
import json, sys, time
verb, name = sys.argv[1:3]
args = json.loads(sys.argv[sys.argv.index("--args") + 1])
if name == "slow": time.sleep(100)
if name == "loud": print("x" * 100000)
if name == "broken": print("{"); sys.exit()
if name == "fails": sys.stderr.write("no such cgroup\n"); sys.exit(2)
if name == "unprivileged": sys.stderr.write("needs root\n"); sys.exit(7)
if name == "denied": print(json.dumps({"missing": "denied", "source": "/proc/1/smaps", "detail": "EPERM"})); sys.exit()
print(json.dumps(args.get("answer", {"verb": verb, "args": args, "argv": sys.argv[3:]})))
sys.exit(args.get("code", 0))
"""
COMMAND = [sys.executable, "-c", ONHOST]


def collect(**collectors):
    return evidence.collect({"command": COMMAND, "collectors": collectors, "timeout_s": 1.5, "max_bytes": 1000})


def test_each_collector_gives_its_document():
    result = collect(panorama={"files": 3}, fastoom=None)
    assert result["items"]["panorama"]["args"] == {"files": 3}
    assert result["items"]["fastoom"] == {"verb": "collect", "args": {}, "argv": ["--args", "{}", "-o", "json"]}
    assert result["gaps"] == {}
    assert set(result["durations"]) == {"panorama", "fastoom"}


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("slow", "timed_out", "1.5 s"),
        ("loud", "unsupported", "1000 bytes"),
        ("broken", "malformed", "not JSON"),
        ("fails", "no_data", "no such cgroup"),
        ("unprivileged", "unsupported", "needs root"),
        ("denied", "denied", "EPERM"),
    ],
)
def test_a_collector_that_gives_nothing_is_a_named_gap_beside_the_others(name, reason, detail):
    result = collect(**{name: {}, "panorama": {}})
    assert set(result["items"]) == {"panorama"}
    assert result["gaps"][name]["missing"] == reason
    assert detail in result["gaps"][name]["detail"]
    assert result["gaps"][name]["source"]


def test_a_command_that_is_not_there_is_a_gap_for_each_collector():
    result = evidence.collect(
        {"command": ["/nonexistent/osremed"], "collectors": {"panorama": {}}, "timeout_s": 1, "max_bytes": 10}
    )
    assert result["gaps"]["panorama"]["missing"] == "unsupported"


@pytest.mark.parametrize("name", ["--args", "-x", "a b", "", "../x", "A"])
def test_a_name_cannot_be_an_option(name):
    with pytest.raises(ActionFailed, match="is not a name"):
        collect(**{name: {}})


def ask(name="memory.available_ratio", check_mode=False, **given):
    options = {"command": COMMAND, "name": name, "args": {}, "expect": "value > 0.1", "within": "1s", "hold": "0s"}
    return probe.watch({**options, **given}, check_mode)


def test_the_probe_is_asked_as_told():
    argv = [
        sys.executable,
        "-c",
        "import sys, json; print(json.dumps({'verdict': 'HOLDS', 'samples': [sys.argv[1:]]}))",
    ]
    assert ask(command=argv, args={"cgroup": "/x"}, within="2m", hold=15.0)["samples"] == [
        ["probe", "memory.available_ratio", "--args", '{"cgroup": "/x"}', "--expect", "value > 0.1",
         "--within", "120000ms", "--for", "15000ms", "-o", "json"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "code", "verdict"),
    [
        ({"verdict": "HOLDS", "samples": [{"at_s": 0, "value": 0.5}]}, 0, "HOLDS"),
        ({"verdict": "FAILS", "samples": []}, 1, "FAILS"),
        (
            {
                "verdict": "UNKNOWN",
                "samples": [{"at_s": 0, "value": {"missing": "gone", "source": "/x", "detail": ""}}],
            },
            0,
            "UNKNOWN",
        ),
        ({"verdict": "HOLDS", "samples": []}, 1, "UNKNOWN"),
        ({"verdict": "FINE", "samples": []}, 0, "UNKNOWN"),
        ({"verdict": "HOLDS"}, 0, "UNKNOWN"),
        ([], 0, "UNKNOWN"),
    ],
)
def test_only_a_verdict_that_was_given_counts(answer, code, verdict):
    result = ask(args={"answer": answer, "code": code})
    assert result["verdict"] == verdict
    assert bool(result["detail"]) is (verdict == "UNKNOWN")


def test_a_probe_that_could_not_run_is_unknown():
    assert ask(command=["/nonexistent/osremed"])["verdict"] == "UNKNOWN"
    assert probe.read_answer(Ended(None, b"", b"", True, False, "no end within 1 s", 1.0))["verdict"] == "UNKNOWN"


def test_a_dry_run_proves_nothing():
    result = ask(check_mode=True, args={"answer": {"verdict": "HOLDS", "samples": []}})
    assert result["verdict"] == "UNKNOWN"
    assert "check mode" in result["detail"]


@pytest.mark.parametrize(
    "given",
    [{"within": "60"}, {"within": "1s", "hold": "2s"}, {"expect": "--help"}, {"name": "--args"}, {"command": []}],
)
@pytest.mark.parametrize("check_mode", [False, True])
def test_bad_input_is_refused_in_check_mode_too(given, check_mode):
    with pytest.raises(ActionFailed):
        ask(check_mode=check_mode, **given)
