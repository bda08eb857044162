"""An event from a host is checked field by field; nothing else gets past."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput
from osremed.core.event import Event, event_from_json, new_event_id

GOOD = {"id": "a1", "name": "memory.near_oom", "host": "web-1", "time_ns": 5, "attributes": {"level": "low"}}


def test_an_event_comes_back_as_it_went():
    assert event_from_json(GOOD) == Event("a1", "memory.near_oom", "web-1", 5, {"level": "low"})
    assert event_from_json(GOOD).as_json() == GOOD


def test_new_ids_are_valid_and_differ():
    ids = {new_event_id() for _ in range(100)}
    assert len(ids) == 100
    for each in ids:
        event_from_json({**GOOD, "id": each})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("id", bad) for bad in ("", "a b", "x" * 129, "ok\n", 7, None)],
        *[("name", bad) for bad in ("memory", "Memory.x", "memory..x", ".x", "memory.x ", "a." + "x" * 128, 1)],
        *[("host", bad) for bad in ("", "-a", "a-", "a b", "../etc", "x" * 254, "a\n", None)],
        *[("time_ns", bad) for bad in (0, -1, 1.5, True, "5", None, 1 << 63)],
        *[("attributes", bad) for bad in (None, [], "x", 3)],
        *[("attributes", {bad: 1}) for bad in ("id", "name", "host", "time_ns")],
        ("attributes", {"x": float("nan")}),
        ("attributes", {"x": float("inf")}),
    ],
)
def test_a_wrong_field_is_named(key, value):
    with pytest.raises(BadInput) as caught:
        event_from_json({**GOOD, key: value}, where="spool:3")
    assert caught.value.where == "spool:3"
    assert key.rstrip("s") in caught.value.what


def test_an_unknown_key_is_refused():
    with pytest.raises(BadInput, match="unknown key 'level'"):
        event_from_json({**GOOD, "level": "low"})


@pytest.mark.parametrize("key", ["id", "name", "host", "time_ns"])
def test_a_missing_field_is_refused(key):
    with pytest.raises(BadInput, match=key):
        event_from_json({name: value for name, value in GOOD.items() if name != key})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=12,
)


@given(json_values | st.dictionaries(st.sampled_from(sorted(GOOD)), json_values))
@example([])
def test_any_json_is_an_event_or_bad_input(document):
    try:
        event = event_from_json(json.loads(json.dumps(document)))
    except BadInput:
        return
    canonical_json(event.as_json())
    assert event_from_json(event.as_json()) == event


@given(st.text(max_size=300), st.sampled_from(["id", "name", "host"]))
def test_any_text_in_a_field_is_matched_whole_or_refused(text, key):
    try:
        event_from_json({**GOOD, key: text})
    except BadInput:
        return
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert "/" not in text


def test_attributes_nested_too_deep_are_refused_not_a_crash():
    deep: dict = {}
    for _ in range(100_000):
        deep = {"x": deep}
    with pytest.raises(BadInput, match="not JSON"):
        event_from_json({**GOOD, "attributes": deep})
    while deep:  # freed level by level: the interpreter's own stack is not the subject here
        deep = deep.pop("x", {})
