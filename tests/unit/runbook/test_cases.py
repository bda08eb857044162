"""The cases beside the runbooks hold, twice in a row; a case that does not hold fails the command."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from osremed.cli.main import main
from osremed.runbook import verbs
from osremed.runbook.cases import case_files, run_case
from tests.unit.runbook.conftest import ROOT, load_entry
from tests.unit.spoken import spoken

FILES = [
    (str(book), case)
    for book in sorted((ROOT / "runbooks").glob("*/runbook.yaml"))
    for case in case_files(load_entry(str(book)))
]


@pytest.mark.parametrize(("book", "case"), FILES, ids=[Path(case).stem for _, case in FILES])
def test_a_case_holds_and_holds_again(book, case):
    entry = load_entry(book)
    assert run_case(entry, case).differences == ()
    assert run_case(entry, case).differences == ()


def with_a_wrong_case(tmp_path):
    """(a runbook's folder with a case that does not hold, the text of that case)."""
    folder = tmp_path / "near-oom"
    (folder / "cases").mkdir(parents=True)
    source = ROOT / "runbooks/near-oom"
    (folder / "runbook.yaml").write_text((source / "runbook.yaml").read_text())
    text = (source / "cases/no-help.yaml").read_text().replace("state: UNDONE", "state: SUCCEEDED")
    (folder / "cases/wrong.yaml").write_text(text)
    return folder, text


def test_a_case_that_does_not_hold_fails_and_says_how(tmp_path, capsys):
    folder, text = with_a_wrong_case(tmp_path)
    (folder / "cases/typo.yaml").write_text(text.replace("expect:", "expct:"))
    assert main(["runbook", "test", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert "state: expected SUCCEEDED, got UNDONE (verification FAILS" in shown
    assert "expct" in shown
    assert "2 cases, 2 failed" in shown


@pytest.mark.parametrize(
    ("approval", "state"), [("", "REFUSED"), ("approval: true", "SUCCEEDED"), ("approval: false", "REFUSED")]
)
def test_a_case_answers_for_the_human_and_an_unanswered_one_ends(tmp_path, approval, state):
    folder = tmp_path / "near-oom"
    (folder / "cases").mkdir(parents=True)
    source = ROOT / "runbooks/near-oom"
    book = (source / "runbook.yaml").read_text().replace("required: risk >= 'high'", "required: risk >= 'low'")
    (folder / "runbook.yaml").write_text(book)
    text = (source / "cases/policy-too-low.yaml").read_text().replace("  approval: true\n", f"  {approval}\n")
    (folder / "cases/asked.yaml").write_text(text.replace("state: SUCCEEDED", f"state: {state}"))
    assert run_case(load_entry(str(folder / "runbook.yaml")), str(folder / "cases/asked.yaml")).differences == ()


@pytest.mark.parametrize(
    ("trigger", "before", "wait", "matched"),
    [
        ("throttle: {accumulate_within: 5m, threshold: 2}", "4m", "0s", True),
        ("throttle: {accumulate_within: 5m, threshold: 2}", "6m", "0s", False),
        ("throttle: {once_within: 5m}", "4m", "0s", False),
        ("throttle: {once_after: 5m}", "4m", "90s", True),
        ("throttle: {once_after: 5m}", "4m", "30s", False),
    ],
)
def test_a_case_tells_what_came_before_and_how_long_nothing_came_after(tmp_path, trigger, before, wait, matched):
    folder = tmp_path / "near-oom"
    folder.mkdir()
    book = (ROOT / "runbooks/near-oom/runbook.yaml").read_text()
    (folder / "runbook.yaml").write_text(book.replace("\n\nguards:", f"\n    {trigger}\n\nguards:"))
    case = yaml.safe_load((ROOT / "runbooks/near-oom/cases/policy-too-low.yaml").read_text())
    case["given"].update(before=[{"event": dict(case["given"]["event"]), "ago": before}], wait=wait)
    if not matched:
        case["expect"] = {"matched": False, "state": "NONE"}
    (folder / "case.yaml").write_text(json.dumps(case))
    assert run_case(load_entry(str(folder / "runbook.yaml")), str(folder / "case.yaml")).differences == ()


@pytest.mark.parametrize(
    ("language", "mark", "last"),
    [
        ("en", "FAILED ", "1 cases, 1 failed"),
        ("zh_CN", "失败   ", "1 个用例，1 个失败"),
        ("zh_TW", "失敗   ", "1 個案例，1 個失敗"),
    ],
)
def test_how_cases_went_is_told_in_the_language_that_is_spoken(tmp_path, language, mark, last):
    folder, _text = with_a_wrong_case(tmp_path)
    with spoken(language):
        told = verbs.test(paths=[str(folder)]).text.splitlines()
    assert told[0] == f"{mark}{folder}/cases/wrong.yaml"
    assert told[1].startswith("       state: expected SUCCEEDED, got UNDONE")
    assert told[-1] == last
