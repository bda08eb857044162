"""-o: every verb's document as a table, rows, YAML and names, by one way."""

import io
import json
import subprocess
import sys

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from osremed.cli.main import main
from osremed.cli.output import shown, told
from osremed.cli.rows import names_of, rows_of, table
from osremed.cli.yamlish import yaml
from osremed.core.answer import Answer
from osremed.core.columns import width
from osremed.core.errors import BadInput, NotFound
from tests.support.console_state import HOSTILE, ROOT

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_DOCUMENTS = st.recursive(
    _SCALARS, lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=9), below, max_size=4)
)


@given(_DOCUMENTS)
def test_yaml_is_read_back_as_the_same_document(document):
    assert pyyaml.safe_load(yaml(document)) == document


@pytest.mark.parametrize(
    "word", ["no", "on", "1e3", "2026-11-22", "~", "- x", "a: b", "#x", "\u2028", "\ufeff", "\x85"]
)
def test_a_word_that_yaml_would_take_for_something_else_stays_a_word(word):
    assert pyyaml.safe_load(yaml({word: [word]})) == {word: [word]}


@given(_DOCUMENTS)
def test_every_document_has_a_table_and_rows_and_none_has_control_characters(document):
    lines, _hidden = table(rows_of(document))
    assert all(line.isprintable() for line in lines)
    for row in rows_of(document):
        assert json.loads(json.dumps(row)) == row


def test_the_rows_are_the_first_list_of_objects_and_a_document_with_a_name_is_one_row():
    run = {"run_id": "7", "findings": [{"name": "x"}]}
    assert rows_of({"next": None, "runs": [run, run], "damaged": []}) == [run, run]
    assert rows_of(run) == [run]
    assert rows_of({"runs": [], "damaged": []}) == []
    assert rows_of({"a": 1, "balance": {"lines": [{"bytes": 1}]}}) == [{"bytes": 1}]
    assert rows_of({"freezes": ({"host": "a"},), "resets": {}}) == [{"host": "a"}]
    assert rows_of({"a": 1}) == [{"a": 1}]
    assert rows_of(["a", {"b": 1}]) == [{"value": "a"}, {"b": 1}]


def test_the_most_particular_name_is_printed_and_none_is_an_error():
    assert names_of([{"name": "memory.near_oom", "id": "e-1"}, {"id": "e-2"}]) == ["e-1", "e-2"]
    assert names_of([{"host": "web-1", "run_id": "ab"}, {"pid": 7}]) == ["ab", "7"]
    with pytest.raises(BadInput, match="no names"):
        names_of([{"bytes": 1}])


def test_what_is_missing_shows_its_reason_and_never_a_figure():
    lines, _ = table([{"name": "x", "pss_bytes": {"missing": "denied", "source": "/proc/1", "detail": ""}}])
    assert lines[1].split() == ["x", "?", "denied"]


def test_a_table_aligns_chinese_and_shows_units_instants_and_parts():
    rows = [
        {"name": "内存", "used_bytes": 3 << 20, "time_ns": 1795344506842601642, "event": {"host": "web-1"}},
        {"name": "x", "used_bytes": 10, "time_ns": 1795344506842601642, "event": {"host": "b"}},
    ]
    lines, _ = table(rows)
    assert lines[0].split() == ["NAME", "USED", "BYTES", "TIME", "NS", "EVENT.HOST"]
    assert lines[1].split() == ["内存", "3.0", "MiB", "2026-11-22T10:48:26.842Z", "web-1"]
    assert width(lines[1].partition("2026")[0]) == width(lines[2].partition("2026")[0])


def test_columns_that_do_not_fit_are_named_and_the_first_always_stays():
    lines, hidden = table([{"name": "a" * 30, "one": 1, "two": "b" * 50}], 40)
    assert hidden == ["two"]
    assert all(width(line) <= 40 for line in lines)
    assert table([{"name": "a" * 30}], 5)[1] == []


def test_hostile_text_reaches_no_terminal(capsys):
    answer = Answer({"rows": [{"name": HOSTILE}]}, "text")
    assert "\x1b" not in shown(answer, "table")
    assert "\x1b" not in shown(answer, "name")
    assert "\x1b" not in shown(answer, "yaml")
    assert "\x1b" not in shown(answer, "jsonl")
    assert told(BadInput(HOSTILE, where=HOSTILE, hint=HOSTILE)).replace("\n", "").isprintable()


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colour_is_for_terminals_that_want_it(monkeypatch, variables, coloured):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setattr(sys, "stderr", _Terminal())
    assert ("\x1b[1m" in shown(Answer([{"a": 1}], ""), "table")) is coloured
    assert ("\x1b[" in told(NotFound("x"))) is coloured


def test_a_pipe_gets_no_colour():
    command = [sys.executable, "-m", "osremed", "explain"]
    for output in ("table", "jsonl", "yaml", "name"):
        ended = subprocess.run([*command, "-o", output], capture_output=True, text=True, check=True, cwd=ROOT)
        assert "\x1b" not in ended.stdout + ended.stderr
        assert "guard.cooldown" in ended.stdout


def test_names_are_one_a_line_for_another_command(capsys):
    assert main(["runbook", "list", "--runbooks", str(ROOT / "runbooks"), "-o", "name"]) == 0
    assert "near-oom" in capsys.readouterr().out.splitlines()
