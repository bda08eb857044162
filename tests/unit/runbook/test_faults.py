"""Faults carry the id of their rule; what is mended is one word where it stands, and only when there is no doubt."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import ExitCode
from osremed.runbook import verbs
from osremed.runbook.faults import RULES, Fault, Fix, mended, respelled, rule_of, spelled_unit
from osremed.runbook.mend import faults_of, mend_text
from osremed.runbook.sarif import Shown, as_sarif
from osremed.runbook.verbs import lint

GOOD = Path("runbooks/near-oom/runbook.yaml").read_text()


def mend(old, new):
    """(the mended text, how many fixes) of a good runbook with `new` for `old`."""
    assert old in GOOD
    content, count = mend_text(GOOD.replace(old, new, 1).encode(), "x/runbook.yaml")
    return content.decode(), count


@pytest.mark.parametrize(
    ("good", "slip"),
    [
        ("cooldown: 10m", "cooldown: 10 minutes"),
        ("cooldown: 10m", "coolDown: 10m"),
        ("guards:", "Guards:"),
        ("per_host: 1", "per-host: 1"),
        ("confirm_within:", "confirm-within:"),
        ("action: fastoom_policy", "action: fastoom-policy"),
        ("- panorama:", "- Panorama:"),
        ("kind: Runbook", "kind: runbook"),
    ],
)
def test_another_spelling_is_mended_and_the_rest_of_the_file_stays_to_the_byte(good, slip):
    assert mend(good, slip) == (GOOD, 1)


@pytest.mark.parametrize(
    ("old", "slip"),
    [
        ("cooldown: 10m", "cooldown: 10"),
        ("cooldown: 10m", "cooldown: soon"),
        ("cooldown: 10m", "cooldwon: 10m"),
        ("cooldown: 10m", "cooldown: 10m\n  coolDown: 20m"),
        ("fleet: 5%", "fleet: 0.05"),
        ("action: fastoom_policy", "action: fastoom"),
    ],
)
def test_what_is_in_doubt_is_told_and_left(old, slip):
    text, count = mend(old, slip)
    assert (text, count) == (GOOD.replace(old, slip, 1), 0)
    assert faults_of(text.encode(), "x/runbook.yaml")


def test_what_would_be_mended_is_shown_as_a_diff_and_written_only_when_asked(tmp_path):
    path = tmp_path / "runbook.yaml"
    path.write_text(GOOD.replace("cooldown: 10m", "cooldown: 10 minutes", 1))
    before = path.read_bytes()
    shown = lint(paths=[str(path)], diff=True)
    assert [line for line in shown.text.splitlines() if line[:2] in ("- ", "+ ")] == [
        "-  cooldown: 10 minutes",
        "+  cooldown: 10m",
    ]
    assert shown.exit_code == ExitCode.BAD_INPUT
    assert path.read_bytes() == before
    written = lint(paths=[str(path)], diff=True, fix=True)
    assert written.document["diffs"] == shown.document["diffs"]
    assert path.read_text() == GOOD
    assert lint(paths=[str(path)], diff=True).document["diffs"] == {}


def test_a_sound_runbook_is_never_touched():
    for path in Path("runbooks").glob("*/runbook.yaml"):
        assert mend_text(path.read_bytes(), str(path)) == (path.read_bytes(), 0)


def test_faults_that_hid_behind_others_are_mended_in_the_same_go():
    text = GOOD.replace("guards:", "Guards:").replace("action: fastoom_policy", "action: Fastoom_Policy")
    assert mend_text(text.encode(), "x/runbook.yaml") == (GOOD.encode(), 2)


@given(st.text(max_size=300), st.integers(-3, 9), st.integers(-3, 40), st.text(min_size=1, max_size=4))
def test_a_fix_changes_its_word_or_nothing(content, line, column, old):
    fault = Fault("bad-value", "w", where=f"x:{line}:{column}", fix=Fix(old, "NEW"))
    text, count = mended(content, [fault])
    assert text == content if count == 0 else len(text) == len(content) - len(old) + 3


def test_spellings_and_units_mean_one_thing_or_nothing():
    assert respelled("Per-Host", ["per_host", "fleet"]) == Fix("Per-Host", "per_host")
    assert respelled("perhost", ["per_host", "per-host"]) is None
    assert respelled("per_host", ["per_host"]) is None
    assert spelled_unit("1.5 hours") == Fix("1.5 hours", "1.5h")
    for doubt in ("10", "10 months", "10 min 5 sec", "", 10, None):
        assert spelled_unit(doubt) is None


def test_lint_writes_the_fix_with_the_mode_of_the_file_and_names_each_rule(tmp_path):
    path = tmp_path / "near-oom/runbook.yaml"
    path.parent.mkdir()
    path.write_text(GOOD.replace("cooldown: 10m", "cooldown: 10 min  # long").replace("fleet: 5%", "fleet: 0.05"))
    path.chmod(0o640)
    out = tmp_path / "out.sarif"
    answer = verbs.lint(paths=[str(path)], fix=True, sarif=str(out))
    assert answer.exit_code == ExitCode.BAD_INPUT
    assert answer.document["mended"] == {str(path): 1}
    assert [error["rule"] for error in answer.document["errors"]] == ["bad-value"]
    assert "cooldown: 10m  # long" in path.read_text()
    assert os.stat(path).st_mode & 0o777 == 0o640
    assert json.loads(out.read_text())["runs"][0]["results"][0]["ruleId"] == "bad-value"


def test_every_rule_a_fault_can_name_is_described():
    source = Path("osremed/runbook/lint.py").read_text() + Path("osremed/gitops/gate.py").read_text()
    import re

    named = set(re.findall(r'(?:Fault|Problem)\(\s*"([a-z-]+)"', source))
    named |= {f"unknown-{kind}" for kind in re.findall(r'_unknown\("(\w+)"', source)}
    assert len(named) > 20
    assert named <= set(RULES)


def test_sarif_has_what_the_standard_asks_for():
    """SARIF 2.1.0: 3.13 (log), 3.14 (run), 3.19 (tool), 3.49 (rule), 3.27 (result), 3.29 (location), 3.30 (region)."""
    shown = [Shown("bad-value", "runbooks/a b/runbook.yaml:3:7", "is wrong", "do this"), Shown("no-case", "x", "none")]
    document = as_sarif(shown, "0.1.0")
    assert (document["version"], list(document)) == ("2.1.0", ["$schema", "version", "runs"])
    (run,) = document["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "osremed"
    assert [rule["id"] for rule in driver["rules"]] == ["bad-value", "no-case"]
    assert all(rule["shortDescription"]["text"].endswith(".") for rule in driver["rules"])
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"none", "note", "warning", "error"}
        assert result["message"]["text"]
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        assert not physical["artifactLocation"]["uri"].startswith(("/", "file:"))
        assert " " not in physical["artifactLocation"]["uri"]
        assert min(physical["region"].values()) >= 1
    first = run["results"][0]
    assert first["message"]["text"] == "is wrong. do this"
    assert first["locations"][0]["physicalLocation"]["region"] == {"startLine": 3, "startColumn": 7}
    assert rule_of(Fault("no-case", "w")) == "no-case"
