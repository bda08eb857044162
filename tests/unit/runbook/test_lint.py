"""A faulty runbook is an error with file, line, column and a hint; nothing starts from it."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.cli.main import main
from osremed.core.errors import BadInput
from osremed.runbook.lint import lint_text
from osremed.runbook.text import parse_text
from osremed.runbook.verbs import lint
from tests.unit.spoken import spoken

SOURCE = (Path(__file__).resolve().parents[3] / "runbooks/near-oom/runbook.yaml").read_text()


def errors_of(text):
    try:
        return lint_text(parse_text(text.encode(), "rb.yaml"))[1]
    except BadInput as error:
        return (error,)


def changed(old, new):
    assert old in SOURCE
    return SOURCE.replace(old, new, 1)


def line_of(text, part):
    return text[: text.index(part)].count("\n") + 1


def test_the_shipped_runbook_is_good():
    assert errors_of(SOURCE) == ()


@pytest.mark.parametrize(
    ("old", "new", "at", "what", "hint"),
    [
        ("  cooldown: 10m", "  cooldwn: 10m", "cooldwn", "unknown key 'cooldwn'", "did you mean 'cooldown'?"),
        ("\nverify:", "\nverfy:", "verfy", "unknown key 'verfy'", "did you mean 'verify'?"),
        ("cooldown: 10m", "cooldown: 10", "10\n  conc", "10 has no unit", ""),
        ("per: 10m", "per: 10 parsecs", "10 parsecs", "unknown unit 'parsecs'", ""),
        ("fleet: 5%", "fleet: 0.05", "0.05}", "neither a number of hosts nor a share", ""),
        ("per_host: 1", "per_host: 0", "0, fleet", "greater than or equal to 1", ""),
        ("per_host: 1", "per_host: true", "true, fleet", "valid integer", ""),
        ("event.level in", "evnt.level in", "evnt.level", "undefined name 'evnt'", "names here are event"),
        ("panorama.processes | length", "panorma.x | length", "panorma", "undefined name 'panorma'", "panorama"),
        ("risk >= 'high'", "risk >=", "risk >=", "does not parse", ""),
        ("action: fastoom_policy", "action: fastoom_polcy", "fastoom_polcy", "unknown action", "'fastoom_policy'"),
        ("{sensitivity: medium}", "{sensitvity: medium}", "{sensitvity", "no argument 'sensitvity'", "sensitivity"),
        ("finding('policy-too-low')", "finding('nothing')", "finding('nothing')", "no diagnosis makes", ""),
        ("confirm_within: 5m", "confirm_within: 10s", "10s\n", "before it is verified", "at least 105s"),
        ("    confirm_within: 5m\n", "", "fastoom_policy\n", "no `confirm_within`", "5m"),
        ("    confirm_within: 5m", "    irreversible: why\n    confirm_within: 5m", "why\n", "can be undone", "leave"),
        ("timeout: 10m", "timeout: 15m", "15m, on_timeout", "too late to act", "max_event_age"),
        ("probe: memory.available_ratio", "probe: memory.availability", "memory.availability", "unknown probe", ""),
        ("value > 0.10", "value > lots", "value > lots", "not an expectation", "value > 0.10"),
        ("for: 10s", "for: 90s", "value > 0.10", "longer than `within`", "raise"),
        ("- fastoom: {}", "- fastom: {}", "{}", "unknown collector 'fastom'", "'fastoom'"),
        ("- fastoom: {}", "- panorama: {}", "{}", "named twice", ""),
        ("kind: Runbook", "kind: &a Runbook", "&a", "anchors and aliases", ""),
        ("kind: Runbook", "kind: !!python/name:os.system x", "!!python", "not allowed", ""),
        ("owners: [sre]", "owners: []", "[]", "at least 1", ""),
        ("name: near-oom", "name: Near OOM", "Near OOM", "pattern", ""),
        ("when: event.sensitivity", "when: '{{ event.sensitivity }}' #", "'{{ event", "bare expression", "leave out"),
    ],
)
def test_each_mistake_is_named_with_its_place_and_a_hint(old, new, at, what, hint):
    text = changed(old, new)
    found = [error for error in errors_of(text) if what in error.what]
    assert found, [str(error) for error in errors_of(text)]
    assert hint in found[0].hint
    name, line, column = found[0].where.split(":")
    assert name == "rb.yaml"
    assert int(line) == line_of(text, at)
    assert int(column) >= 1


@pytest.mark.parametrize("key", ["guards", "verify", "collect", "remediate", "on", "metadata"])
def test_a_missing_part_is_an_error_that_names_it(key):
    lines, skipping = [], False
    for line in SOURCE.splitlines():
        if line and not line.startswith((" ", "#")):
            skipping = line.startswith(f"{key}:")
        if not skipping:
            lines.append(line)
    assert [error.what for error in errors_of("\n".join(lines))] == [f"the runbook lacks {key!r}"]


@pytest.mark.parametrize("guard", ["cooldown", "concurrency", "storm"])
def test_a_missing_guard_is_an_error(guard):
    text = "\n".join(line for line in SOURCE.splitlines() if not line.startswith(f"  {guard}:"))
    assert [error.what for error in errors_of(text)] == [f"guards lacks {guard!r}"]


def test_a_duplicate_key_is_an_error_that_tells_both_places():
    text = changed("  cooldown: 10m\n", "  cooldown: 10m\n  cooldown: 1s\n")
    (error,) = errors_of(text)
    assert "duplicate key 'cooldown'" in error.what
    assert f"line {line_of(text, 'cooldown: 10m')}" in error.what
    assert error.where.startswith(f"rb.yaml:{line_of(text, 'cooldown: 1s')}:")


def test_on_is_a_word_and_not_a_boolean():
    assert parse_text(b"on: off\nyes: no\n", "x").data == {"on": "off", "yes": "no"}


def test_all_errors_of_a_file_are_told_at_once():
    text = changed("cooldown: 10m", "cooldown: 10").replace("per: 10m", "per: 10")
    assert len(errors_of(text)) == 2


def test_the_command_ends_with_2_and_starts_nothing(tmp_path, capsys):
    path = tmp_path / "near-oom" / "runbook.yaml"
    path.parent.mkdir()
    path.write_text(changed("cooldown: 10m", "cooldown: 10"))
    assert main(["runbook", "lint", str(tmp_path)]) == 2
    assert f"{path}:15:13: guards.cooldown: 10 has no unit" in capsys.readouterr().out
    argv = ["run", str(path), "--host", "x", "--state", str(tmp_path / "state"), "--inventory", "none"]
    assert main(argv) == 2
    assert not (tmp_path / "state").exists()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(data):
    try:
        lint_text(parse_text(data, "fuzz"))
    except BadInput as error:
        assert error.where.startswith("fuzz")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SOURCE) - 1), st.integers(0, 40), st.text(max_size=12))
def test_no_damage_to_a_good_runbook_breaks_the_linter(start, length, inserted):
    errors_of(SOURCE[:start] + inserted + SOURCE[start + length :])


def test_deep_nesting_and_large_files_are_refused():
    assert "nested deeper" in errors_of("a: " + "[" * 60 + "]" * 60)[0].what
    assert "at most" in errors_of("#" * (300 << 10))[0].what


def test_a_change_without_a_proof_is_an_error():
    lines, skipping = [], False
    for line in SOURCE.splitlines():
        if line and not line.startswith((" ", "#")):
            skipping = line.startswith("verify:")
        if not skipping:
            lines.append(line)
    assert [error.what for error in errors_of("\n".join([*lines, "verify: []"]))] == ["remediate without verify"]


RESTART = "action: service_restart\n    with: {name: web.service}\n    irreversible: it begins anew"


@pytest.mark.parametrize(
    ("required", "refused"),
    [
        (None, True),
        ("risk > 'high'", True),
        ("risk == 'medium'", True),
        ('"false"', False),
        ("risk >= 'medium'", False),
        ("risk >= 'medium' and event.level == 'high'", False),
        ("event.level == 'high'", False),
    ],
)
def test_an_action_of_high_risk_asks_somebody_or_says_that_nobody_is_asked(required, refused):
    remedy = SOURCE[SOURCE.index("    action: fastoom_policy") : SOURCE.index("\nverify:")]
    approval = f"\n    approval: {{required: {required}, timeout: 10m}}" if required else ""
    text = SOURCE.replace(remedy, f"    {RESTART}{approval}\n")
    told = [error for error in errors_of(text) if error.code == "runbook.unapproved-risk"]
    assert bool(told) is refused, errors_of(text)
    if refused:
        assert told[0].where.startswith(f"rb.yaml:{line_of(text, 'action: service_restart')}:")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "  cooldown: 10m",
            "  cooldwn: 10m",
            ["未知的键 'cooldwn'", "  提示：您是不是要找 'cooldown'？", "  规则：unknown-key"],
        ),
        (
            "- panorama:",
            "- panorma:",
            ["未知的采集器 'panorma'", "  提示：您是不是要找 'panorama'？", "  规则：unknown-collector"],
        ),
        (
            "    confirm_within: 5m\n",
            "",
            [
                "fastoom_policy 会更改主机，却没有 `confirm_within`",
                "  提示：例如加上 `confirm_within: 5m`：控制端失联时，主机会自行撤回更改",
                "  规则：no-deadline",
            ],
        ),
    ],
)
def test_a_fault_is_told_in_the_language_that_is_spoken_at_its_place(tmp_path, old, new, told):
    path = tmp_path / "near-oom" / "runbook.yaml"
    path.parent.mkdir()
    path.write_text(changed(old, new))
    english = lint(paths=[str(path)])
    with spoken("zh_CN"):
        chinese = lint(paths=[str(path)])
    assert chinese.document == english.document
    lines, places = chinese.text.splitlines(), [each["where"] for each in english.document["errors"]]
    assert any(lines[at : at + 3] == [f"{where}: {told[0]}", *told[1:]] for where in places for at in range(len(lines)))
