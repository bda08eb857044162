"""Parts of any runbook, any value, any bytes: cut and flattened it is the same runbook, and nothing breaks."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.runbook.expressions import render
from osremed.runbook.parameters import literal
from osremed.runbook.parts import Shelf, check, lint_part
from osremed.runbook.text import dump, parse_text
from tests.unit.runbook.test_parts import BOOK, FILE, HEAD, PART, RUNBOOK, shelf

SHIPPED = {
    path.parent.name: parse_text(path.read_bytes(), str(path)).data
    for path in sorted(Path("runbooks").glob("*/runbook.yaml"))
    if "use:" not in path.read_text()
}
SECTIONS = ("collect", "diagnose", "remediate", "verify", "watch", "after_success")


@st.composite
def split(draw):
    """(a shipped runbook, the same with some of it in a part, that part): the part has the end of each list, and of the
    remedies any stretch; some of its arguments are parameters."""
    whole = SHIPPED[draw(st.sampled_from(sorted(SHIPPED)))]
    book, part = copy.deepcopy(whole), {}
    for section in SECTIONS:
        items = book.get(section, [])
        begin = draw(st.integers(0, len(items)))
        end = draw(st.integers(begin, len(items))) if section == "remediate" else len(items)
        if section in book:
            part[section], book[section] = items[begin:end], items[:begin] + items[end:]
            place = begin
        if section == "remediate":
            repairs, at = begin != end, place
    values = {}
    for section, items in part.items():
        for item in items:
            inside = item if section == "collect" else {"with": item.get("with", {})}
            for arguments in inside.values():
                for key, value in arguments.items():
                    if draw(st.booleans()) and not (isinstance(value, str) and "{" in value):
                        values[f"p{len(values)}"] = value
                        arguments[key] = f"{{{{ parameters.p{len(values) - 1} }}}}"
    use = {"use": "cut", "with": values}
    if repairs:
        book["remediate"].insert(at, use)
    else:
        book["diagnose"].append(use)
    head = {
        "apiVersion": "osremed/v1",
        "kind": "RunbookPart",
        "metadata": {"name": "cut", "title": "Cut", "owners": ["x"]},
    }
    return whole, book, {**head, "parameters": {name: {"description": "x"} for name in values}, **part}


@settings(max_examples=60, deadline=None)
@given(split())
def test_cutting_a_runbook_into_a_part_and_flattening_it_gives_the_runbook(cut):
    whole, book, part = cut
    if not part["diagnose"] and not part["remediate"]:
        return
    found = check(dump(book), "books/x/runbook.yaml", shelf(dump(part).decode(), "cut"))
    assert found.faults == ()
    kept = parse_text(found.content, "flat").data
    assert {key: value for key, value in kept.items() if value} == {key: value for key, value in whole.items() if value}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
    | st.text(max_size=20).filter(lambda text: not any(mark in text for mark in ("{{", "{%", "{#"))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc'\\é", max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_a_literal_is_read_back_as_the_value_and_as_nothing_else(value):
    assert json.dumps(render(f"{{{{ [{literal(value)}] }}}}", {})) == json.dumps([value])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(PART) - 1), st.integers(0, 40), st.text(max_size=12))
def test_no_edit_of_a_part_breaks_the_reader(at, gone, new):
    text = (PART[:at] + new + PART[at + gone :]).encode("utf-8", "replace")
    for fault in lint_part(text, FILE):
        assert fault.where.startswith(FILE)
    check(RUNBOOK.encode(), BOOK, Shelf("books/parts", {"backlog": text}))


@settings(max_examples=300, deadline=None)
@given(st.integers(len(HEAD), len(RUNBOOK) - 1), st.integers(0, 40), st.text(max_size=12))
def test_no_edit_of_a_runbook_that_uses_a_part_breaks_the_reader(at, gone, new):
    text = (RUNBOOK[:at] + new + RUNBOOK[at + gone :]).encode("utf-8", "replace")
    try:
        found = check(text, BOOK, shelf())
    except BadInput as error:
        assert error.where.startswith(BOOK)
    else:
        assert (found.runbook is None) == bool(found.faults)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_of_a_part_break_the_reader(data):
    assert all(isinstance(fault, BadInput) for fault in lint_part(data, "books/parts/x.yaml"))
