"""Each module through the real executor: check -> real -> again -> diff -> undo. Paths and the command come from
the inventory (osremed_prefix, osremed_command), as on a real host."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from osremed.core.action import Call, Status
from osremed.executor.runner import AnsibleExecutor

pytestmark = pytest.mark.ansible
ROOT = Path(__file__).resolve().parents[2]

#: The on-host command: refuses the sensitivity `high`, echoes what it was asked.
STANDIN = """
import json, os, sys
words = sys.argv[1:]
if words[:2] == ["fastoom", "check"]:
    with open(words[2]) as stream:
        text = stream.read()
    sys.exit("%s:2:3: no such sensitivity" % words[2] if "high" in text else 0)
if words[0] == "collect" and words[1] == "broken":
    sys.exit(1)
if words[0] == "collect":
    print(json.dumps({"words": words, "prefix": os.environ["OSREMED_PREFIX"]}))
if words[0] == "probe":
    print(json.dumps({"verdict": "HOLDS", "samples": [{"at_s": 0.0, "value": 0.5}]}))
"""
OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low"}'


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lab")
    (directory / "onhost.py").write_text(STANDIN)
    hosts = {
        "here": {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "osremed_prefix": str(directory / "host"),
            "osremed_command": [sys.executable, str(directory / "onhost.py")],
        }
    }
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    executor = AnsibleExecutor(str(directory / "hosts.json"), str(ROOT / "collections"), str(directory / "work"))
    policy = directory / "host/etc/osremed/fastoom.json"
    policy.parent.mkdir(parents=True)

    def run(module, check=False, **args):
        return executor.run(Call(f"osremed.host.{module}", args, "here", 60.0, check))

    yield SimpleNamespace(run=run, policy=policy, undo_dir=directory / "host/var/lib/osremed/undo")
    executor.close()


@pytest.fixture
def host(lab):
    """A host with OLD in place and no undo records."""
    lab.policy.write_bytes(OLD)
    lab.policy.chmod(0o640)
    for record in lab.undo_dir.glob("*.*"):
        record.unlink()
    return lab


def records(host):
    return sorted(path.name for path in host.undo_dir.glob("*.*") if path.name != ".lock")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_a_policy_is_previewed_changed_kept_and_undone_byte_for_byte(host):
    wanted = {"sensitivity": "medium", "protect": [{"cmdline": "^/usr/bin/gateway {{ x }}"}]}
    preview = host.run("fastoom_policy", check=True, undo_id="r-0", **wanted)
    assert (preview.status, preview.changed, host.policy.read_bytes(), records(host)) == (Status.OK, True, OLD, [])

    real = host.run("fastoom_policy", undo_id="r-0", confirm_within=600.0, expect_sha256=sha256(OLD), **wanted)
    assert (real.status, real.changed) == (Status.OK, True), real.detail
    assert real.diff == preview.diff
    assert '-{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low"}' in real.diff
    assert '+  "sensitivity": "medium"' in real.diff
    assert json.loads(host.policy.read_bytes()) == {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", **wanted}
    assert host.policy.stat().st_mode & 0o777 == 0o640
    assert real.result["previous_sha256"] == sha256(OLD) == preview.result["previous_sha256"]
    assert real.result["applied_sha256"] == sha256(host.policy.read_bytes()) == preview.result["applied_sha256"]
    assert real.result["previous"] == preview.result["previous"]
    assert records(host) == ["r-0.json"]
    assert any("validated by" in line for line in real.result["evidence"])

    again = host.run("fastoom_policy", undo_id="r-0", **wanted)
    assert (again.status, again.changed, again.diff) == (Status.OK, False, "")
    assert again.result["previous"] == real.result["previous"]

    undone = host.run("fastoom_policy", **real.result["previous"])
    assert (undone.status, undone.changed, host.policy.read_bytes()) == (Status.OK, True, OLD)
    assert host.policy.stat().st_mode & 0o777 == 0o640
    assert not host.run("fastoom_policy", **real.result["previous"]).changed


def test_a_new_policy_is_undone_by_removing_it_and_a_removal_by_its_bytes(host):
    host.policy.unlink()
    made = host.run("fastoom_policy", sensitivity="low")
    assert made.result["previous"]["state"] == "absent"
    data = host.policy.read_bytes()
    removed = host.run("fastoom_policy", **made.result["previous"])
    assert (removed.changed, host.policy.exists()) == (True, False)
    assert host.run("fastoom_policy", **removed.result["previous"]).changed
    assert host.policy.read_bytes() == data


def test_undo_takes_back_what_is_still_ours(host):
    host.run("fastoom_policy", sensitivity="medium", undo_id="r-1", confirm_within=60)
    preview = host.run("undo", check=True, id="r-1", state="reverted")
    assert (preview.result["result"], preview.changed, records(host)) == ("restored", True, ["r-1.json"])
    real = host.run("undo", id="r-1", state="reverted")
    assert (real.status, real.result["result"], host.policy.read_bytes()) == (Status.OK, "restored", OLD)
    assert real.diff == preview.diff
    assert records(host) == []
    again = host.run("undo", id="r-1", state="reverted")
    assert (again.status, again.changed, again.result["result"]) == (Status.OK, False, "absent")


def test_undo_confirms(host):
    host.run("fastoom_policy", sensitivity="medium", undo_id="r-2")
    assert host.run("undo", check=True, id="r-2", state="confirmed").result["result"] == "confirmed"
    assert records(host) == ["r-2.json"]
    real = host.run("undo", id="r-2", state="confirmed")
    assert (real.changed, real.result["result"], records(host)) == (True, "confirmed", [])
    assert json.loads(host.policy.read_bytes())["sensitivity"] == "medium"
    assert host.run("undo", id="r-2", state="confirmed").result["result"] == "absent"


def test_a_change_by_someone_else_is_a_conflict_for_both_ways_of_undoing(host):
    change = host.run("fastoom_policy", sensitivity="medium", undo_id="r-3")
    host.policy.write_bytes(b"{}")
    by_arguments = host.run("fastoom_policy", **change.result["previous"])
    assert (by_arguments.status, by_arguments.result["conflict"]) == (Status.FAILED, True)
    by_record = host.run("undo", id="r-3", state="reverted")
    assert (by_record.status, by_record.result["result"]) == (Status.FAILED, "conflict")
    assert "someone else" in by_record.detail
    assert (host.policy.read_bytes(), records(host)) == (b"{}", ["r-3.conflict"])


@pytest.mark.parametrize("check", [True, False])
def test_a_policy_that_the_host_rejects_changes_nothing(host, check):
    outcome = host.run("fastoom_policy", check=check, sensitivity="high", undo_id="r-4")
    assert (outcome.status, outcome.result["rejected"]) == (Status.FAILED, True)
    assert f"{host.policy}:2:3: no such sensitivity" in outcome.detail
    assert (host.policy.read_bytes(), records(host)) == (OLD, [])


def test_bytes_that_the_host_would_reject_today_can_still_be_restored(host):
    broken = base64.b64encode(b'{"sensitivity": "high"').decode()
    assert host.run("fastoom_policy", content_b64=broken).status is Status.OK


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"sensitivity": "extreme"}, "must be one of"),
        ({"sensitivity": "low", "content_b64": "e30="}, "mutually exclusive"),
        ({"sensitivity": "low", "confirm_within": 5}, "undo_id"),
        ({"sensitivity": "low", "threshold": 1}, "Unsupported parameters"),
        ({"protect": [{"name": "x", "nam": "y"}]}, "Unsupported parameters"),
        ({"protect": [{}]}, "one of the following is required: name, cmdline"),
        ({"sensitivity": "low", "path": "relative.json"}, "absolute"),
        ({}, "at least one of"),
    ],
)
def test_bad_options_are_named_and_change_nothing(host, args, message):
    outcome = host.run("fastoom_policy", **args)
    assert outcome.status is Status.FAILED
    assert message in outcome.detail
    assert host.policy.read_bytes() == OLD


@pytest.mark.parametrize("check", [True, False])
def test_evidence_is_collected_with_its_gaps_in_check_mode_too(host, check):
    outcome = host.run("evidence", check=check, collectors={"panorama": {"files": 3}, "broken": {}})
    assert (outcome.status, outcome.changed) == (Status.OK, False)
    assert outcome.result["items"]["panorama"]["words"][:4] == ["collect", "panorama", "--args", '{"files": 3}']
    assert outcome.result["items"]["panorama"]["prefix"] == str(host.policy.parents[2])
    assert outcome.result["gaps"]["broken"]["missing"] == "no_data"


@pytest.mark.parametrize(("check", "verdict"), [(True, "UNKNOWN"), (False, "HOLDS")])
def test_a_probe_holds_only_when_it_really_ran(host, check, verdict):
    probe = {
        "name": "memory.available_ratio",
        "args": {"node": True},
        "expect": "value > 0.1",
        "within": 2.0,
        "hold": 0.0,
    }
    outcome = host.run("probe", check=check, **probe)
    assert (outcome.status, outcome.result["verdict"]) == (Status.OK, verdict)
    assert bool(outcome.result["detail"]) is check
