"""Options -> what is wanted, and what a command printed -> documents and gaps."""

from __future__ import annotations

import json
import sys
import time

import pytest
from ansible_collections.osremed.host.plugins.module_utils._command import Ended, run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import ABSENT, FileState
from ansible_collections.osremed.host.plugins.module_utils._redact import redacted
from ansible_collections.osremed.host.plugins.modules import evidence, fastoom_policy, probe

from osremed.core.canonical import canonical_json, digest

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


def collect(collectors=None, **given):
    options = {name: facts.get("default") for name, facts in evidence.argument_spec().items()}
    bounds = {"command": COMMAND, "timeout_s": 60.0, "max_bytes": 1000}
    return evidence.collect({**options, **bounds, "collectors": collectors or {}, **given})


def test_each_collector_gives_its_document():
    result = collect({"panorama": {"files": 3}, "fastoom": None})
    assert result["items"]["panorama"]["args"] == {"files": 3}
    assert result["items"]["fastoom"] == {"verb": "collect", "args": {}, "argv": ["--args", "{}", "-o", "json"]}
    assert result["gaps"] == {}
    assert set(result["durations"]) == {"panorama", "fastoom"}


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("slow", "timed_out", "0.5 s"),
        ("loud", "unsupported", "1000 bytes"),
        ("broken", "malformed", "not JSON"),
        ("fails", "no_data", "no such cgroup"),
        ("unprivileged", "unsupported", "needs root"),
        ("denied", "denied", "EPERM"),
    ],
)
def test_a_collector_that_gives_nothing_is_a_named_gap_beside_the_others(monkeypatch, name, reason, detail):
    def run(argv, timeout_s, max_bytes):
        """Only the one that never ends gets little time: the others start a Python, which may take long."""
        return run_bounded(argv, 0.5 if "slow" in argv else timeout_s, max_bytes)

    monkeypatch.setattr(evidence, "run_bounded", run)
    result = collect({name: {}, "panorama": {}})
    assert set(result["items"]) == {"panorama"}
    assert result["gaps"][name]["missing"] == reason
    assert detail in result["gaps"][name]["detail"]
    assert result["gaps"][name]["source"]


def test_a_command_that_is_not_there_is_a_gap_for_each_collector():
    result = collect({"panorama": {}}, command=["/nonexistent/osremed"])
    assert result["gaps"]["panorama"]["missing"] == "unsupported"


@pytest.mark.parametrize("name", ["--args", "-x", "a b", "", "../x", "A"])
def test_a_name_cannot_be_an_option(name):
    with pytest.raises(ActionFailed, match="is not a name"):
        collect({name: {}})


def test_the_manifest_names_the_bytes_that_left_the_host():
    result = collect({"panorama": {"answer": {"b": [1, 2.5, None, "ä"], "a": True}}, "broken": {}})
    (part,) = result["manifest"]
    assert (part["name"], part["sha256"]) == ("panorama", digest(result["items"]["panorama"]))
    assert (part["bytes"], part["redacted"]) == (len(canonical_json(result["items"]["panorama"])), 0)


def test_what_does_not_fit_into_the_whole_is_a_gap_and_the_next_one_is_tried():
    result = collect({"panorama": {"answer": "x" * 80}, "fastoom": {"answer": "y"}}, max_total_bytes=50)
    assert set(result["items"]) == {"fastoom"}
    assert "82 bytes, only 50 are left" in result["gaps"]["panorama"]["detail"]


def test_a_number_that_json_does_not_know_is_a_gap():
    assert collect({"panorama": {"answer": float("nan")}})["gaps"]["panorama"]["missing"] == "malformed"


SECRET = "hunter2-S3cret"


@pytest.mark.parametrize(
    "answer",
    [
        {"password": SECRET},
        {"db": {"DB_PASSWORD": SECRET, "api-key": SECRET}},
        {"argv": ["mysql", "--password", SECRET, "-h", "db"]},
        {"argv": ["mysql", f"--password={SECRET}"]},
        {"cmdline": f"curl -H 'Authorization: Bearer {SECRET}' https://h/"},
        {"cmdline": f"worker --auth-token {SECRET} --queue import"},
        {"cmdline": f"python -c x GITHUB_TOKEN={SECRET} y"},
        {"environ": [f"AWS_SECRET_ACCESS_KEY={SECRET}", "PATH=/bin"]},
        {"url": f"postgresql://app:{SECRET}@db:5432/x"},
        {"text": f'{{"client_secret": "{SECRET}"}}'},
        {"pem": f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----"},
        {f"--token={SECRET}": 1},
    ],
)
def test_a_secret_never_leaves_the_host(answer):
    result = collect({"panorama": {"answer": answer}})
    assert SECRET not in json.dumps(result)
    assert "[redacted]" in json.dumps(result["items"])
    assert result["manifest"][0]["redacted"] >= 1


def test_what_is_no_secret_stays():
    answer = {
        "token_count": 12, "tokens": "12", "processes": [{"name": "keyring", "cmdline": "/usr/bin/author --authors 3"}],
        "cmdline": "tokenizer --token-count 12 --passes 3 --keyboard us", "path": "/etc/passwd", "none": None,
    }  # fmt: skip
    result = collect({"panorama": {"answer": answer}})
    assert result["items"]["panorama"] == answer
    assert result["manifest"][0]["redacted"] == 0


def test_a_secret_in_what_a_failed_collector_says_is_hidden_too(tmp_path):
    said = "import sys; sys.exit('cannot log in with --password hunter2')"
    result = collect({"panorama": {}}, command=[sys.executable, "-c", said])
    assert "hunter2" not in json.dumps(result)


@pytest.mark.parametrize(
    "part", ["a-", "a.", "token", "-token", "eyJaaaaaaaa-", "a:", "http://", "x=", "--", '"', " ", "A_"]
)
def test_a_hostile_text_does_not_hold_the_module_up(part):
    text = part * ((1 << 16) // len(part))
    began = time.process_time()
    redacted({"cmdline": text, "argv": [text, text], text: 1}, [])
    assert time.process_time() - began < 20  # quadratic would be minutes


def test_what_else_is_secret_can_be_said():
    assert (
        collect({"panorama": {"answer": "case 4711-0815"}}, redact=["[0-9]{4}-[0-9]{4}"])["items"]["panorama"]
        == "case [redacted]"
    )
    for bad in ("(", "x*"):
        with pytest.raises(ActionFailed, match="redact"):
            collect({"panorama": {}}, redact=[bad])


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
