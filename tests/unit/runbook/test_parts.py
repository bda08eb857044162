"""Parts of runbooks: what is run is the document without them, and what is wrong is told where somebody must look."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import os
from pathlib import Path

import jsonschema
import pytest

from osremed.cli.main import main
from osremed.core.canonical import sha256_hex
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput
from osremed.core.event import Event
from osremed.runbook.catalog import load_catalog, load_entry, runbook_files
from osremed.runbook.document import json_schema, part_schema
from osremed.runbook.lint import lint_text
from osremed.runbook.mend import mend_file, mend_text
from osremed.runbook.parts import Shelf, check, lint_part
from osremed.runbook.store import RunStore
from osremed.runbook.text import dump, parse_text
from osremed.runbook.verbs import lint
from tests.unit.spoken import spoken

BOOK = "books/stalls/runbook.yaml"
FILE = "books/parts/backlog.yaml"
HEAD = """\
apiVersion: osremed/v1
kind: Runbook
metadata: {name: stalls, title: Tasks wait, owners: [sre]}
on: [{event: hotspot.trap}]
guards:
  cooldown: 1h
  concurrency: {per_host: 1, fleet: 5%}
  storm: {max_runs: 20, per: 10m}
  max_event_age: 30m
"""
RUNBOOK = (
    HEAD
    + """\
collect:
  - io: {window_s: 10}
diagnose:
  - finding: waits
    when: io.io_stall_ratio > 0.1
    summary: tasks wait
remediate:
  - use: backlog
    with: {share: 0.3, where: "{{ event.node }}"}
    when: finding('waits')
verify: []
"""
)
PART = """\
apiVersion: osremed/v1
kind: RunbookPart
metadata: {name: backlog, title: Bytes wait, owners: [sre]}
parameters:
  share: {description: from this share on}
  where: {description: which node}
  ratio: {description: percent of the memory, default: 1}
collect:
  - io: {window_s: 10}
diagnose:
  - finding: backlog
    when: io.dirty_bytes > 1000
    summary: "{{ io.dirty_bytes }} bytes wait on {{ parameters.where }}"
remediate:
  - when: finding('backlog') and io.io_stall_ratio > parameters.share
    action: sysctl
    with: {settings: {vm.dirty_background_ratio: "{{ parameters.ratio }}"}, persist: false}
    confirm_within: 5m
    approval: {required: risk >= 'low', timeout: 10m, on_timeout: deny}
verify:
  - probe: io.stall_ratio
    expect: value < parameters.share
    within: 2m
    for: 15s
"""
BY_HAND = (
    HEAD
    + """\
collect:
  - io: {window_s: 10}
diagnose:
  - finding: waits
    when: io.io_stall_ratio > 0.1
    summary: tasks wait
  - finding: backlog
    when: io.dirty_bytes > 1000
    summary: "{{ io.dirty_bytes }} bytes wait on {{ (event.node) }}"
remediate:
  - when: (finding('waits')) and (finding('backlog') and io.io_stall_ratio > 0.3)
    action: sysctl
    with: {settings: {vm.dirty_background_ratio: 1}, persist: false}
    confirm_within: 5m
    approval: {required: risk >= 'low', timeout: 10m, on_timeout: deny}
verify:
  - {probe: io.stall_ratio, expect: value < 0.3, within: 2m, for: 15s}
"""
)


def shelf(part=PART, name="backlog"):
    return Shelf("books/parts", {name: part.encode()})


def changed(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


def place_of(text, path, word):
    """file:line:column of a word that stands in a text."""
    at = text.index(word)
    return f"{path}:{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


def told(runbook=RUNBOOK, part=PART):
    return as_pairs(check(runbook.encode(), BOOK, shelf(part)).faults)


def as_pairs(faults):
    return [(fault.where, f"{fault.what} | {fault.hint}") for fault in faults]


@pytest.fixture
def books(tmp_path):
    """A folder of runbooks: one, and the part it uses."""
    for path, text in (("stalls/runbook.yaml", RUNBOOK), ("parts/backlog.yaml", PART)):
        (tmp_path / "books" / path).parent.mkdir(parents=True)
        (tmp_path / "books" / path).write_text(text)
    return tmp_path / "books"


def test_a_part_gives_the_document_that_somebody_would_write_by_hand():
    found = check(RUNBOOK.encode(), BOOK, shelf())
    assert found.faults == ()
    assert parse_text(found.content, "flat").data == parse_text(BY_HAND.encode(), "hand").data
    assert found.runbook == lint_text(parse_text(BY_HAND.encode(), "hand"))[0]


def test_what_a_run_keeps_lints_without_the_part_and_is_what_was_approved(books, tmp_path):
    entry = load_entry(str(books / "stalls/runbook.yaml"))
    assert entry.digest == sha256_hex(entry.content)
    clock = FakeClock()
    event = Event("e1", "hotspot.trap", "web-1", clock.wall_ns(), {})
    store = RunStore(str(tmp_path / "runs"))
    opened = store.create(event, entry, clock)
    opened.close()
    for path in books.rglob("*.yaml"):
        path.unlink()
    assert store.runbook_of(opened.run.run_id) == entry.runbook
    kept = Path(opened.directory.runbook)
    assert sha256_hex(kept.read_bytes()) == opened.run.runbook_digest == entry.digest
    assert check(kept.read_bytes(), str(kept)).faults == ()


def test_a_runbook_without_parts_keeps_its_bytes(books):
    (books / "stalls/runbook.yaml").write_text(BY_HAND + "# said by hand\n")
    assert load_entry(str(books / "stalls/runbook.yaml")).content == (BY_HAND + "# said by hand\n").encode()


def test_another_value_in_the_part_is_another_runbook(books):
    before = load_catalog(str(books))["stalls"].digest
    (books / "parts/backlog.yaml").write_text(changed(PART, "> 1000", "> 1001"))
    assert load_catalog(str(books))["stalls"].digest != before


def test_remedies_stand_where_the_part_is_used_and_the_rest_comes_after():
    own = "  - {when: event.x, action: cgroup_reclaim, with: {cgroup: /a, bytes: 1}, irreversible: it grows}\n"
    text = changed(RUNBOOK, "remediate:\n", f"remediate:\n{own}")
    text = changed(text, "verify: []", f"{own}verify: []")
    data = parse_text(check(text.encode(), BOOK, shelf()).content, "flat").data
    assert [item["action"] for item in data["remediate"]] == ["cgroup_reclaim", "sysctl", "cgroup_reclaim"]
    assert [item["finding"] for item in data["diagnose"]] == ["waits", "backlog"]


LOOKS = """\
apiVersion: osremed/v1
kind: RunbookPart
metadata: {name: looks, title: Who holds it, owners: [sre]}
collect:
  - panorama: {}
diagnose:
  - {finding: held, when: panorama.total_bytes > 5, summary: it is held}
"""


def test_a_part_that_only_looks_stands_among_the_findings():
    use = "diagnose:\n  - {use: looks, when: event.deep}\n"
    text = BY_HAND.replace("diagnose:\n", use)
    found = check(text.encode(), BOOK, shelf(LOOKS, "looks"))
    assert found.faults == ()
    data = parse_text(found.content, "flat").data
    assert data["collect"] == [{"io": {"window_s": 10}}, {"panorama": {}}]
    assert [item["finding"] for item in data["diagnose"]] == ["held", "waits", "backlog"]
    assert data["diagnose"][0]["when"] == "(event.deep) and (panorama.total_bytes > 5)"


@pytest.mark.parametrize(
    ("old", "new", "word", "says"),
    [
        ("use: backlog", "use: backlogs", "backlogs", "did you mean 'backlog'?"),
        ("share: 0.3", "shore: 0.3", "shore", "no parameter 'shore' | did you mean 'share'?"),
        ("share: 0.3, ", "", "backlog\n", "needs the parameter 'share': from this share on"),
        ("share: 0.3", "share: much", "much", "not a number | it stands in `expect` at books/parts/backlog.yaml:22"),
        ("share: 0.3", 'share: "{{ event.x }}"', '"{{ event.x', "share is not a number"),
        ("{{ event.node }}", "node {{ event.node }}", '"node', "text around an expression"),
        ("{{ event.node }}", "{% if event %}x{% endif %}", '"{% if', "text around an expression"),
        ("{{ event.node }}", "{# event #}", '"{# event', "text around an expression"),
        ("{{ event.node }}", "{{ event.a }}{{ event.b }}", '"{{ event.a', "text around an expression"),
        ("{{ event.node }}", "{{ event.a) or (event.b }}", '"{{ event.a', "does not parse"),
        ("{{ event.node }}", "{{ parameters.share }}", '"{{ parameters', "undefined name 'parameters'"),
        ("{{ event.node }}", "{{ loop.index }}", '"{{ loop', "undefined name 'loop'"),
        ("when: finding('waits')", "when: finding('wait')", "finding('wait')", "no diagnosis makes the finding 'wait'"),
        ("when: finding('waits')", "when: finding('waits') or", "finding('waits') or", "does not parse"),
        ("when: finding('waits')", "when: panorama.x", "panorama.x", "undefined name 'panorama'"),
        ("    when: finding('waits')", "    wen: x > 1", "wen", "unknown key 'wen'"),
        ("window_s: 10", "window_s: 11", "", "at books/stalls/runbook.yaml:11:5 | make them equal"),
        ("finding: waits", "finding: backlog", "", "'backlog' is made at books/stalls/runbook.yaml:13:14 too"),
        ("remediate:\n", "  - {use: backlog}\nremediate:\n", "backlog}", "repairs and is used in `diagnose`"),
        ("collect:\n", "collect:\n  - {use: backlog}\n", "backlog}", "no part is used in `collect`"),
        ("verify: []", "  - {use: backlog, with: {share: 1}}\nverify: []", "backlog, with", "already"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_use_is_told_there(old, new, word, says):
    text = changed(RUNBOOK, old, new)
    found = told(text)
    assert any(says in what for _where, what in found), found
    where = next(where for where, what in found if says in what)
    if word:
        assert where == place_of(text, BOOK, word)
    else:
        assert where.startswith(f"{FILE}:")


@pytest.mark.parametrize(
    ("old", "new", "word", "says"),
    [
        ("share\n    action", "shore\n    action", "finding('backlog') and", "no parameter 'shore'"),
        ("  ratio:", "  spare: {description: x}\n  ratio:", "spare", "parameter 'spare' is not used"),
        ("  - when: finding", "  - use: other\n  - when: finding", "use: other", "a part uses no part"),
        ("name: backlog", "name: back", "back,", "lies in file 'backlog'"),
        ("action: sysctl", "action: sysctrl", "sysctrl", "unknown action"),
        ("verify:\n", "verifi:\n", "verifi", "unknown key 'verifi'"),
        ("confirm_within: 5m", "confirm_within: 5", "5\n    approval", "has no unit"),
        ("default: 1}", 'default: "{{ share }}"}', '"{{ share', "undefined name 'share'"),
        ("{{ parameters.where }}", "{{ parameters }}", '"{{ io.dirty', "write parameters.<name>"),
        ("title: Bytes wait", 'title: "{{ parameters.where }}"', "", ""),
        ("within: 2m", 'within: "{{ parameters.where }}"', '"{{ parameters.where }}"\n', "not a duration"),
        ("io.dirty_bytes > 1000", "panorama.total_bytes > 1", "panorama.total", "undefined name 'panorama'"),
        ("finding('backlog')", "finding('waits')", "finding('waits')", "no diagnosis makes the finding 'waits'"),
        ("kind: RunbookPart", "kind: Runbook", "Runbook\n", "RunbookPart"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_part_is_told_in_its_file_with_and_without_a_runbook(old, new, word, says):
    text = changed(PART, old, new)
    alone = as_pairs(lint_part(text.encode(), FILE))
    if not says:
        assert alone == []
        return
    where = place_of(text, FILE, word)
    assert any(at == where and says in what for at, what in alone), (where, alone)


@pytest.mark.parametrize(
    ("old", "new"), [("action: sysctl", "action: sysctrl"), ("within: 2m", "within: 2"), (": 15s", ": 15x")]
)
def test_a_fault_of_a_part_names_who_uses_it(old, new):
    part = changed(PART, old, new)
    found = told(part=part)
    assert found
    for where, what in found:
        assert where.startswith(f"{FILE}:")
        assert f"used at {place_of(RUNBOOK, BOOK, 'backlog')}" in what


def test_a_value_is_not_read_by_a_name_that_the_template_sets():
    text = changed(PART, '"{{ io.dirty_bytes }} bytes', '"{% set event = io %}{{ event }} bytes')
    assert lint_part(text.encode(), FILE) == ()
    found = told(part=text)
    assert found == [(place_of(RUNBOOK, BOOK, '"{{ event.node'), found[0][1])]
    assert "reads 'event', which the template at books/parts/backlog.yaml" in found[0][1]


def test_words_that_only_look_like_a_parameter_stay():
    words = "parameters.share {{ event.parameters.share }} {{ 'parameters.share' }} bytes"
    text = changed(PART, "{{ io.dirty_bytes }} bytes", words)
    data = parse_text(check(RUNBOOK.encode(), BOOK, shelf(text)).content, "flat").data
    assert data["diagnose"][1]["summary"] == f"{words} wait on {{{{ (event.node) }}}}"


def test_a_runbook_that_grows_too_large_with_its_parts_is_refused():
    long = "\n".join(f"  - {{finding: f{number}, when: event.x, summary: {'x' * 450}}}" for number in range(520))
    part = changed(PART, "diagnose:\n", f"diagnose:\n{long}\n")
    many = HEAD.replace("sre]", f"sre, {', '.join(['x' * 400] * 100)}]") + RUNBOOK[len(HEAD) :]
    assert len(part.encode()) < 256 << 10
    assert any("at most 262144 are read" in what for _where, what in told(many, part))


def test_parts_is_no_name_of_a_runbook(books):
    folder = books / "parts"
    (folder / "runbook.yaml").write_text(changed(BY_HAND, "name: stalls", "name: parts"))
    assert [Path(path).parent.name for path in runbook_files(str(books))] == ["stalls"]
    with pytest.raises(BadInput, match="folder of the parts"):
        load_entry(str(folder / "runbook.yaml"))


def test_lint_looks_at_the_parts_of_a_folder_and_notices_who_is_not_used(books, capsys):
    (books / "parts/looks.yaml").write_text(LOOKS)
    assert main(["runbook", "lint", str(books)]) == 0
    said = f"{books}/parts/looks.yaml: no runbook uses this part\n1 runbooks, 2 parts, 0 errors\n"
    assert capsys.readouterr().out == said
    (books / "parts/looks.yaml").write_text(changed(LOOKS, "panorama.total", "panarama.total"))
    (books / "parts/backlog.yaml").write_text(changed(PART, "action: sysctl", "action: sysctrl"))
    answer = lint(paths=[str(books)])
    assert answer.exit_code == 2
    assert [error["rule"] for error in answer.document["errors"]] == ["unknown-action", "bad-condition"]
    assert lint(paths=[str(books / "parts")]).exit_code == 2
    assert lint(paths=[str(books / "parts/looks.yaml")]).exit_code == 2


def test_a_part_is_mended_in_its_own_file_and_a_use_in_the_runbook(books):
    book, part = books / "stalls/runbook.yaml", books / "parts/backlog.yaml"
    book.write_text(changed(RUNBOOK, "use: backlog", "use: back-log").replace("10m", "10 minutes"))
    part.write_text(changed(PART, "within: 2m", "within: 2 minutes"))
    lint(paths=[str(books)], fix=True)
    assert part.read_text() == PART
    assert book.read_text() == RUNBOOK
    part.write_text(changed(PART, "action: sysctl", "action: Sysctl"))
    assert mend_text(RUNBOOK.encode(), str(book)) == (RUNBOOK.encode(), 0)
    assert (mend_file(str(part)), part.read_text()) == (1, PART)


def test_a_word_of_the_runbook_is_not_mended_for_a_fault_that_stands_there_in_the_part(books):
    book, part = books / "stalls/runbook.yaml", books / "parts/backlog.yaml"
    part.write_text(changed(PART, "action: sysctl", "action: Sysctl"))
    line, column = map(int, place_of(part.read_text(), "", "Sysctl").split(":")[1:])
    own = "  - {when: event.x, action: Cgroup_reclaim, with: {cgroup: /a, bytes: 1}, irreversible: it grows}\n"
    lines = changed(RUNBOOK, "verify: []", f"{own}verify: []").splitlines(keepends=True)
    lines.insert(line - 1, f"{'#' * (column - 1)}Sysctl\n")
    text = "".join(lines)
    assert place_of(text, "", "Sysctl") == f":{line}:{column}"
    assert mend_text(text.encode(), str(book)) == (text.replace("Cgroup", "cgroup").encode(), 1)


def test_a_parameter_says_from_which_risk_on_somebody_is_asked():
    part = changed(PART, "risk >= 'low'", "risk >= parameters.asked").replace(
        "  ratio:", "  asked: {description: the least risk, default: medium}\n  ratio:"
    )
    assert lint_part(part.encode(), FILE) == ()
    (remedy,) = check(RUNBOOK.encode(), BOOK, shelf(part)).runbook.remediate
    assert remedy.approval.required == "risk >= 'medium'"


def test_cases_run_what_the_part_brings(books, capsys):
    case = """\
given:
  event: {name: hotspot.trap, attributes: {node: n1}}
  evidence: {io: {io_stall_ratio: 0.5, dirty_bytes: 5000}}
  approval: true
  samples: {io.stall_ratio: [[0, 0.1], [5, 0.1], [20, 0.1]]}
expect:
  findings: [waits, backlog]
  plan: [{action: sysctl, with: {settings: {vm.dirty_background_ratio: 1}, persist: false}}]
  state: SUCCEEDED
"""
    (books / "stalls/cases").mkdir()
    (books / "stalls/cases/helps.yaml").write_text(case)
    assert main(["runbook", "test", str(books)]) == 0, capsys.readouterr().out


def test_the_schemas_know_uses_and_parts():
    runbook, part = (jsonschema.Draft202012Validator(schema) for schema in (json_schema(), part_schema()))
    assert not list(runbook.iter_errors(parse_text(RUNBOOK.encode(), "x").data))
    assert not list(part.iter_errors(parse_text(PART.encode(), "x").data))
    short = parse_text(RUNBOOK.encode(), "x").data
    del short["diagnose"], short["verify"], short["collect"]
    short["remediate"][0].pop("when")
    assert not list(runbook.iter_errors(short))
    assert check(dump(short), BOOK, shelf()).faults == ()
    plain = parse_text(BY_HAND.encode(), "x").data
    del plain["verify"]
    assert list(runbook.iter_errors(plain))


@pytest.mark.parametrize("when", ["event.x) or (event.y", "true) or (parameters.share > 0"])
def test_a_condition_of_a_part_cannot_get_out_of_the_one_of_its_use(when):
    part = changed(PART, "finding('backlog') and io.io_stall_ratio > parameters.share", when)
    assert any("does not parse" in what for _where, what in told(part=part)), told(part=part)


def test_what_is_no_file_among_the_parts_is_named_and_not_waited_for(books):
    for make in (os.mkfifo, os.mkdir):
        make(books / "parts/other.yaml")
        with pytest.raises(BadInput, match=r"parts/other\.yaml: not a regular file"):
            lint(paths=[str(books)])
        (os.rmdir if make is os.mkdir else os.unlink)(books / "parts/other.yaml")


def test_a_part_is_tested_with_the_runbooks_that_use_it(books, capsys):
    assert main(["runbook", "test", str(books / "parts/backlog.yaml")]) == 2
    assert "a part has no cases of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("language", "unused", "last", "wrong"),
    [
        ("en", "no runbook uses this part", "1 runbooks, 2 parts, 0 errors", "  rule: unknown-action"),
        ("zh_CN", "没有运行手册使用此部件", "1 个运行手册，2 个部件，0 个错误", "  规则：unknown-action"),
        ("zh_TW", "沒有維運手冊使用此元件", "1 個維運手冊，2 個元件，0 個錯誤", "  規則：unknown-action"),
    ],
)
def test_lint_is_told_in_the_language_that_is_spoken_and_its_document_is_not(books, language, unused, last, wrong):
    (books / "parts/looks.yaml").write_text(LOOKS)
    english = lint(paths=[str(books)])
    with spoken(language):
        told = lint(paths=[str(books)])
    assert told.text == f"{books}/parts/looks.yaml: {unused}\n{last}"
    assert told.document == english.document
    (books / "parts/backlog.yaml").write_text(changed(PART, "action: sysctl", "action: sysctrl"))
    english = lint(paths=[str(books)])
    with spoken(language):
        told = lint(paths=[str(books)])
    assert wrong in told.text.splitlines()
    assert ("  hint: " in told.text) is (language == "en")
    assert told.document == english.document


def test_a_fault_of_a_part_is_told_in_the_language_that_is_spoken(books):
    (books / "parts/looks.yaml").write_text(PART)
    english = lint(paths=[str(books)])
    with spoken("zh_TW"):
        told = lint(paths=[str(books)])
    assert "part 'backlog' lies in file 'looks'" in english.text
    assert "元件 'backlog' 位於檔案 'looks' 中\n  提示：請把檔案改名為 backlog.yaml，或給元件改名\n" in told.text
    assert told.document == english.document
