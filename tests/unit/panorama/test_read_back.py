"""A document read back is the panorama it was made from, and what is no document is refused."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.panorama.collect import collect_panorama
from osremed.panorama.document import as_document
from osremed.panorama.read_back import panorama_of
from osremed.panorama.render import render
from osremed.panorama.sources import kernel_sources


def in_json(document):
    return json.loads(json.dumps(document))


def test_this_host_s_document_is_the_same_after_a_way_there_and_back():
    found = collect_panorama(growth_s=0.2, sources=kernel_sources())
    document = in_json(as_document(found))
    again = panorama_of(document)
    assert in_json(as_document(again)) == document
    told = [dataclasses.replace(each, growth=None, layers=(), cost=None) for each in (again, found)]  # rounded in JSON
    assert render(told[0]) == render(told[1])


def test_an_unreadable_host_is_read_back_with_its_reasons(tmp_path):
    found = collect_panorama(proc_root=str(tmp_path))
    assert as_document(panorama_of(in_json(as_document(found)))) == as_document(found)


@pytest.mark.parametrize("wrong", [None, [], {}, "text", 7, {"scope": "node"}])
def test_what_is_no_document_is_refused(wrong):
    with pytest.raises(BadInput, match="not a panorama"):
        panorama_of(wrong)


def test_words_of_a_newer_version_are_left_out(proc):
    proc.process(10)
    document = in_json(as_document(collect_panorama(proc_root=proc.root)))
    newer = copy.deepcopy(document)
    newer["weather"] = "fine"
    newer["processes"][0]["mood"] = 7
    assert in_json(as_document(panorama_of(newer))) == document


def test_growth_of_an_older_version_is_over_the_whole_span(proc):
    document = in_json(as_document(collect_panorama(proc_root=proc.root)))
    row = {"kind": "line", "name": "buffers", "key": "buffers", "before_bytes": 1, "after_bytes": 9, "bytes": 8}
    document["growth"] = {"seconds": 4.0, "source": "history", "rows": [{**row, "rate_bytes_s": 2.0}]}
    again = in_json(as_document(panorama_of(document)))["growth"]["rows"]
    assert again == [{**row, "rate_bytes_s": 2.0, "seconds": 4.0}]


_KEEPER = {"bytes": 1 << 20, "pid": 7, "comm": "kworker", "counted_as": "", "functions": ["alloc_pages"]}
_TRACE = {"seconds": 2.0, "seen": 9, "dropped": 1, "keepers": [_KEEPER]}


def test_a_trace_of_allocations_is_read_back_whole_or_refused(proc):
    document = in_json(as_document(collect_panorama(proc_root=proc.root)))
    document["allocations"] = _TRACE
    assert "1.0 MiB  kworker (7): alloc_pages" in render(panorama_of(document))
    less = [{name: value for name, value in _TRACE.items() if name != left} for left in _TRACE]
    bad = [{**_TRACE, "keepers": [{**_KEEPER, name: [None]}]} for name in _KEEPER]
    for trace in ([[None, None]], *less, *bad):
        document["allocations"] = trace
        with pytest.raises(BadInput, match="not a panorama"):
            panorama_of(document)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_document_is_refused_or_shown_and_never_a_crash(proc, data):
    proc.process(10)
    document = in_json(as_document(collect_panorama(proc_root=proc.root)))
    at = document
    while isinstance(at, (dict, list)) and at:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            at[key] = data.draw(_JSON)
            break
        at = at[key]
    try:
        found = panorama_of(document)
    except BadInput:
        return
    render(found)
