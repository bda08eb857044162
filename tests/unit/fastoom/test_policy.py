"""The policy file: right as a whole, or refused with the place and what to do."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reason
from osremed.fastoom import locate
from osremed.fastoom.model import Scope
from osremed.fastoom.policy import SENSITIVITY, load_policy, matches, parse_policy, undecidable
from tests.unit.fastoom.conftest import policy, process

HEAD = '{\n  "apiVersion": "osremed/v1",\n  "kind": "FastoomPolicy"'


def refused(text: str | bytes) -> BadInput:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(BadInput) as caught:
        parse_policy(data, "p.json")
    return caught.value


def test_the_smallest_policy_guards_the_node_with_medium_sensitivity() -> None:
    data = (HEAD + "}").encode()
    loaded = parse_policy(data, "p.json")
    assert loaded.scopes == (Scope(),)
    assert loaded.thresholds == SENSITIVITY["medium"]
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", SENSITIVITY)
def test_every_sensitivity_is_in_order(name: str) -> None:
    t = SENSITIVITY[name]
    assert 0 < t.high_ratio < t.enter_ratio < t.leave_ratio <= t.target_ratio <= t.warn_ratio < 1


def test_more_sensitive_acts_earlier() -> None:
    enters = [SENSITIVITY[name].enter_ratio for name in ("low", "medium", "high")]
    assert enters == sorted(enters)
    assert len(set(enters)) == 3


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (HEAD + ',\n  "sensitivty": "low"}', "p.json:4:3", "unknown key 'sensitivty'"),
        (HEAD + ',\n  "sensitivity": "tiny"}', "p.json:4:3", "'tiny' is unknown"),
        (HEAD + ',\n  "sensitivity": ["low"]}', "p.json:4:3", "is unknown"),
        (HEAD + ',\n  "kind": "FastoomPolicy"}', "p.json:4:3", "given twice"),
        (HEAD + ',\n  "protect": [{"name": "a"},\n    {"nmae": "b"}]}', "p.json:5:6", "unknown key 'nmae'"),
        (HEAD + ',\n  "protect": [{"cmdline": "("}]}', "p.json:4:16", "not a regular expression"),
        (HEAD + ',\n  "protect": [{}]}', "p.json:4:15", "a rule is an object"),
        (HEAD + ',\n  "protect": [{"name": ""}]}', "p.json:4:16", "not empty"),
        (HEAD + ',\n  "protect": {"name": "a"}}', "p.json:4:3", "must be a list"),
        (HEAD + ',\n  "scopes": []}', "p.json:4:3", "nothing would be guarded"),
        (HEAD + ',\n  "scopes": [{"node": false}]}', "p.json:4:15", "only be true"),
        (HEAD + ',\n  "scopes": [{"cgroup": "/a/../b"}]}', "p.json:4:15", "not a control group path"),
        (HEAD + ',\n  "scopes": [{"node": true}, {"node": true}]}', "p.json:4:30", "given twice"),
        (HEAD + ',\n  "overrides": {"enter_percent": 0}}', "p.json:4:17", "not a number from"),
        (HEAD + ',\n  "overrides": {"enter_percent": true}}', "p.json:4:17", "not a number from"),
        (HEAD + ',\n  "overrides": {"enter_percent": 1e999}}', "p.json:4:17", "not a number from"),
        (HEAD + ',\n  "overrides": {"enter_percent": 30}}', "p.json:4:17", "out of order"),
        (HEAD + ',\n  "overrides": {"enter_percent": NaN}}', "p.json:4:34", "NaN"),
        (HEAD + ",\n}", "p.json:4:1", "expected a key"),
        (HEAD + "} x", "p.json:3:28", "follows"),
        ('{"kind": "FastoomPolicy"}', "p.json:1:1", "apiVersion is None"),
        ("", "p.json:1:1", "Expecting value"),
        ("[]", "p.json:1:1", "must be a JSON object"),
        ("[" * 100_000, "p.json:1:18", "nested too deep"),
    ],
)
def test_a_wrong_policy_is_refused_with_its_place(text: str, where: str, what: str) -> None:
    error = refused(text)
    assert error.where == where
    assert what in error.what


def test_most_refusals_say_what_to_do() -> None:
    assert "keys here" in refused(HEAD + ', "x": 1}').hint
    assert "enter < leave" in refused(HEAD + ', "overrides": {"leave_percent": 1}}').hint


def test_bytes_that_are_not_text_are_refused_with_their_place() -> None:
    assert refused(b'{"kind":\n "\xff"}').where == "p.json:2:3"


def test_an_unreadable_file_is_bad_input_too(tmp_path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        load_policy(str(tmp_path / "none.json"))


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_policy(data, "p.json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["scopes", "protect", "prefer", "avoid", "overrides", "sensitivity", "kind"]), _JSON)
def test_any_value_anywhere_is_taken_or_refused_never_a_crash(key: str, value: object) -> None:
    document = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", key: value}
    try:
        parse_policy(json.dumps(document).encode(), "p.json")
    except BadInput as error:
        assert error.where.startswith("p.json:1:")


@given(_JSON)
def test_positions_are_found_in_any_document_json_accepts(value: object) -> None:
    text = json.dumps(value)
    if "NaN" in text or "Infinity" in text:
        return
    assert json.dumps(locate.load(text.encode(), "f").document) == text


def test_a_name_matches_comm_or_the_program_of_argv() -> None:
    rule = policy(protect=[{"name": "ota-*"}]).protect[0]
    assert matches(rule, process(5, name="ota-gateway"))
    assert matches(rule, process(5, name="python3", argv=["/usr/bin/ota-server", "-x"]))
    assert not matches(rule, process(5, name="python3", argv=["python3", "/usr/bin/ota-server"]))


def test_a_command_line_is_searched_joined_and_all_keys_must_match() -> None:
    rule = policy(protect=[{"name": "python*", "cmdline": r"-m ota\b"}]).protect[0]
    assert matches(rule, process(5, name="python3", argv=["python3", "-m", "ota"]))
    assert not matches(rule, process(5, name="python3", argv=["python3", "-m", "otaku"]))
    assert not matches(rule, process(5, name="ruby", argv=["ruby", "-m", "ota"]))


def test_a_rule_is_undecidable_only_while_argv_could_change_the_answer() -> None:
    rule = policy(protect=[{"name": "ota-*"}]).protect[0]
    unread = Missing(Reason.DENIED, "/proc/5/cmdline")
    assert undecidable(rule, process(5, name="python3", argv=unread))
    assert not undecidable(rule, process(5, name="ota-gateway", argv=unread))
    assert not undecidable(rule, process(5, name="python3", argv=["python3"]))
