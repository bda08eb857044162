"""Parts among rules from Git: a changed part is a change of every runbook that uses it, and each is checked."""

from __future__ import annotations

import pytest

from osremed.core.errors import BadInput, ExitCode
from osremed.gitops import verbs
from osremed.gitops.gate import judge
from osremed.gitops.overlay import for_environment
from osremed.gitops.plan import plan
from osremed.gitops.scaffold import SCAFFOLD
from osremed.runbook.catalog import load_entry
from osremed.runbook.text import parse_text

RUNBOOK = "runbooks/near-oom/runbook.yaml"
PART = "runbooks/parts/sooner.yaml"
REMEDY = SCAFFOLD[RUNBOOK][SCAFFOLD[RUNBOOK].index("remediate:") :]
SOONER = """\
# yaml-language-server: $schema=../../schema/runbook-part.schema.json
apiVersion: osremed/v1
kind: RunbookPart
metadata: {name: sooner, title: Step in sooner, owners: [sre]}
parameters:
  sensitivity: {description: what it becomes}
diagnose:
  - {finding: late, when: event.sensitivity == 'low', summary: it stepped in late}
remediate:
  - when: finding('late')
    action: fastoom_policy
    with: {sensitivity: "{{ parameters.sensitivity }}"}
    confirm_within: 5m
    approval: {required: risk >= 'high', timeout: 10m, on_timeout: deny}
"""
USE = "remediate:\n  - use: sooner\n    with: {sensitivity: medium}\n    when: event.level == 'high'\n"


@pytest.fixture
def rules(repository):
    """The rules to begin with, with their one remedy in a part."""
    text = SCAFFOLD[RUNBOOK]
    repository.write(RUNBOOK, text.replace(REMEDY, USE + REMEDY[REMEDY.index("\nverify:") :]))
    repository.write(PART, SOONER)
    return repository


@pytest.fixture
def files(rules):
    found = {str(path.relative_to(rules.directory)): path.read_bytes() for path in rules.directory.rglob("*.yaml")}
    return {path: content for path, content in found.items() if path.startswith(("runbooks/", "environments/"))}


def problems(repository):
    return verbs.check(directory=str(repository.directory)).document["problems"]


def test_rules_with_a_part_pass_in_every_environment(rules):
    found = [problem for problem in problems(rules) if problem["rule"] != "case"]
    assert found == []


def test_a_changed_part_is_a_change_of_each_runbook_that_uses_it_and_shows_what_becomes_of_it(files):
    change = plan(files, {**files, PART: files[PART].replace(b"10m", b"11m")}, max_removed=0.5)
    assert [(each.kind, each.rule) for each in change.changes] == [("changed", "runbooks/near-oom"), ("changed", PART)]
    book, part = (each.diff for each in change.changes)
    assert f"{RUNBOOK}, with its parts" in book
    assert "+    timeout: 11m" in book
    assert "timeout: 11m" in part


def test_moving_a_remedy_into_a_part_shows_that_nothing_else_changes(files):
    written = load_entry_text(files)
    change = plan({RUNBOOK: written}, {RUNBOOK: files[RUNBOOK], PART: files[PART]}, max_removed=0.5)
    (book,) = (each for each in change.changes if each.rule == "runbooks/near-oom")
    assert "use: sooner" in book.diff
    assert "with its parts" not in book.diff


def load_entry_text(files):
    """The runbook as somebody would write it without the part."""
    merged = for_environment({**files, "environments/none/runbooks/near-oom.yaml": b"patch: {}\n"}, "none")
    return merged[RUNBOOK]


def test_an_environment_patches_what_a_part_brought_by_its_name(files):
    patch = b"patch:\n  remediate: {fastoom_policy: {approval: {required: risk >= 'low'}}}\n"
    merged = for_environment({**files, "environments/test/runbooks/near-oom.yaml": patch}, "test")
    (remedy,) = parse_text(merged[RUNBOOK], RUNBOOK).data["remediate"]
    assert remedy["approval"] == {"required": "risk >= 'low'", "timeout": "10m", "on_timeout": "deny"}
    assert remedy["with"] == {"sensitivity": "medium"}


def test_an_environment_cannot_be_laid_over_a_part(files):
    files = {**files, "runbooks/parts/runbook.yaml": files[PART]}
    with pytest.raises(BadInput, match="no runbooks/parts"):
        for_environment({**files, "environments/test/runbooks/parts.yaml": b"enabled: false\n"}, "test")


def test_a_fault_of_a_part_is_one_problem_in_the_part(rules):
    rules.edit(PART, "with: {sensitivity:", "with: {sensitive:")
    found = [(problem.rule, problem.where) for problem in judge(str(rules.directory)).problems]
    assert found == [("unknown-argument", f"{PART}:12:11")]
    assert ("unknown-argument", f"{PART}:12:11") == tuple(problems(rules)[0][key] for key in ("rule", "where"))


@pytest.mark.parametrize(
    ("path", "old", "new", "place"),
    [
        (RUNBOOK, "use: sooner", "use: sonner", f"{RUNBOOK}:28:10"),
        (PART, "kind: RunbookPart", "kind: RunbookPart\nmore: 1", f"{PART}:4:1"),
        (PART, "summary: it", "summary: [it", f"{PART}:"),
    ],
)
def test_where_a_part_does_not_fit_in_every_environment_tells_it_at_one_place(rules, path, old, new, place):
    rules.edit(path, old, new)
    found = problems(rules)
    assert {problem["where"].startswith(place) for problem in found} == {True}


def test_a_check_mends_a_part_when_told(rules):
    rules.edit(PART, "confirm_within: 5m", "confirm_within: 5 minutes")
    answer = verbs.check(directory=str(rules.directory), fix=True)
    assert answer.text.splitlines()[0] == "1 mended"
    assert (rules.directory / PART).read_text() == SOONER


def test_only_parts_lie_among_the_parts(rules):
    rules.write("runbooks/parts/README.md", "words")
    rules.write("runbooks/parts/deep/other.yaml", SOONER)
    found = [problem for problem in judge(str(rules.directory)).problems if problem.rule == "layout"]
    layout = {problem.where for problem in found if problem.where.startswith("runbooks/parts")}
    assert layout == {"runbooks/parts/README.md", "runbooks/parts/deep/other.yaml"}


def test_a_part_goes_live_with_its_runbook_and_the_comment_names_its_risk(rules, control, alice, tmp_path):
    case = "runbooks/near-oom/cases/medium-already.yaml"
    rules.commit("A part", alice)
    status = control.look()
    assert status.ready, status.message
    entry = load_entry(f"{control.home.live}/{RUNBOOK}")
    assert entry.parts == ("sooner",)
    assert [item.action for item in entry.runbook.remediate] == ["fastoom_policy"]
    assert control.live(case)
    base, out = tmp_path / "base", tmp_path / "out.md"
    rules.git("worktree", "add", "--quiet", str(base))
    rules.edit(PART, "10m", "11m")
    answer = verbs.check(directory=str(rules.directory), base=str(base), markdown=str(out))
    assert answer.exit_code == ExitCode.OK, answer.text
    assert "| runbooks/near-oom | changed | medium |" in out.read_text()
    assert "| runbooks/parts/sooner.yaml | changed | - | - |" in out.read_text()
