"""A collector answers with a document; what it could not read is in it."""

from __future__ import annotations

import json
import os

import pytest

from osremed.agent.arguments import check_arguments
from osremed.agent.collect import COLLECTORS, collect
from osremed.core.canonical import canonical_json, sha256_hex
from osremed.core.errors import BadInput
from osremed.core.journal import Journal


def test_fastoom_tells_status_policy_and_the_latest_events(paths):
    policy = b'{"kind":"FastoomPolicy"}\n'
    with open(paths.fastoom_policy, "wb") as file:
        file.write(policy)
    with open(os.path.join(paths.run, "fastoom.json"), "w") as file:
        json.dump({"pid": 1, "policy_path": paths.fastoom_policy}, file)
    journal = Journal(os.path.join(paths.events, "fastoom"))
    for number in range(5):
        journal.append({"n": number})
    document = collect("fastoom", {"events": 2})
    assert document == {
        "status": {"pid": 1, "policy_path": paths.fastoom_policy},
        "policy": {"path": paths.fastoom_policy, "sha256": sha256_hex(policy), "text": policy.decode()},
        "events": [{"n": 3}, {"n": 4}],
        "damaged": [],
    }
    assert collect("fastoom", {"events": 0})["events"] == []


def test_the_policy_told_is_the_one_that_is_obeyed(paths, tmp_path):
    other = tmp_path / "other.json"
    other.write_text("{}")
    with open(os.path.join(paths.run, "fastoom.json"), "w") as file:
        json.dump({"policy_path": str(other)}, file)
    assert collect("fastoom", {})["policy"]["path"] == str(other)


def test_on_a_host_without_fastoom_everything_is_missing_and_says_why(paths):
    document = collect("fastoom", {})
    assert document["status"]["missing"] == "gone"
    assert document["policy"]["missing"] == "gone"
    assert document["events"]["missing"] == "no_data"
    canonical_json(document)


@pytest.mark.parametrize(
    ("name", "arguments", "what", "hint"),
    [
        (
            "memory",
            {},
            "no collector 'memory'",
            "gpu_trace, gpus, hotspot, hotspot_at, io, panorama, switches, timeline",
        ),
        ("fastoom", {"event": 1}, "unknown argument 'event'", "events (a whole number)"),
        ("fastoom", {"events": "5"}, "argument events is '5'", "events"),
        ("fastoom", {"events": True}, "argument events is True", "events"),
        ("fastoom", {"events": -1}, "argument events is -1", "10000"),
        ("panorama", {"files": 1.5}, "argument files is 1.5", "files"),
    ],
)
def test_another_name_or_argument_is_refused_with_the_list(name, arguments, what, hint):
    with pytest.raises(BadInput, match=what) as caught:
        collect(name, arguments)
    assert hint in caught.value.hint


def test_a_number_where_text_is_wanted_is_its_digits():
    """As a runbook's `{{ event.second_ns }}` arrives."""
    found = check_arguments({"moment": 1795370013632590772, "window_s": 5}, {"moment": str, "window_s": int}, where="x")
    assert found == {"moment": "1795370013632590772", "window_s": 5}
    with pytest.raises(BadInput, match="argument moment is True"):
        check_arguments({"moment": True}, {"moment": str}, where="x")


def test_every_collector_answers_json(paths):
    for name in COLLECTORS:
        arguments = {"window_s": 1} if name in ("cpu_limits", "io") else {}
        json.loads(canonical_json(collect(name, arguments)))
