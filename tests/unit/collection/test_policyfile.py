from __future__ import annotations

import pytest
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._policyfile import merge_policy, parse_policy, render_policy

OLD = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": "low", "protect": [{"name": "sshd"}]}


def test_given_settings_replace_and_others_stay():
    merged = merge_policy(OLD, {"sensitivity": "high", "prefer": [{"name": "x"}]}, "replace")
    assert merged == {**OLD, "sensitivity": "high", "prefer": [{"name": "x"}]}
    assert merge_policy(OLD, {"protect": []}, "replace")["protect"] == []


def test_extend_adds_what_is_not_there_yet():
    given = {"protect": [{"name": "sshd"}, {"name": "new"}], "overrides": {"b": 2}}
    merged = merge_policy({**OLD, "overrides": {"a": 1}}, given, "extend")
    assert merged["protect"] == [{"name": "sshd"}, {"name": "new"}]
    assert merged["overrides"] == {"a": 1, "b": 2}
    assert merge_policy(merged, given, "extend") == merged


def test_the_old_document_is_not_altered():
    merge_policy(OLD, {"protect": [{"name": "new"}]}, "extend")
    assert OLD["protect"] == [{"name": "sshd"}]


def test_the_text_is_stable_and_readable():
    text = render_policy({"b": 1, "a": {"d": "é", "c": []}})
    assert text == b'{\n  "a": {\n    "c": [],\n    "d": "\xc3\xa9"\n  },\n  "b": 1\n}\n'
    assert parse_policy(text, "f") == {"b": 1, "a": {"d": "é", "c": []}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1,\n "b" 2}', r"^f:2:6: "),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[1]", "a JSON object, not list"),
        (b"\xff", "f: "),
        (b"", r"^f:1:1: "),
    ],
)
def test_a_broken_policy_is_named_with_its_place(data, message):
    with pytest.raises(ActionFailed, match=message):
        parse_policy(data, "f")
