"""Who may act unasked from now on is told of a change of rules, whichever way it was given."""

from __future__ import annotations

from osremed.gitops.bolder import bolder
from osremed.gitops.markdown import markdown_of
from osremed.gitops.plan import plan
from osremed.gitops.scaffold import SCAFFOLD
from osremed.gitops.verbs import check, plan_lines
from tests.unit.spoken import spoken

FILES = {path: text.encode() for path, text in SCAFFOLD.items() if path.startswith(("runbooks/", "policies/"))}
RUNBOOK = "runbooks/near-oom/runbook.yaml"
AUTO = {**FILES, RUNBOOK: FILES[RUNBOOK].replace(b"\non:\n", b"\nmode: auto\n\non:\n", 1)}


def policy(name, mode, runbooks="[near-oom]", hosts="web"):
    text = f"""apiVersion: osremed/v1
kind: GuardPolicy
metadata: {{name: {name}, title: A mode, owners: [sre]}}
hosts: {hosts}
runbooks: {runbooks}
mode: {mode}
"""
    return {f"policies/{name}.yaml": text.encode()}


def test_a_runbook_that_acts_by_itself_from_now_on_is_told_and_one_that_did_is_not():
    assert bolder(FILES, AUTO) == ("near-oom acts by itself",)
    assert bolder(AUTO, AUTO) == ()
    assert bolder(AUTO, FILES) == ()


def test_a_policy_that_frees_is_told_with_its_hosts_and_one_that_holds_back_only_when_it_goes():
    free, held = {**FILES, **policy("acts", "auto")}, {**FILES, **policy("careful", "suggest", "[]", "db")}
    assert bolder(FILES, free) == ("near-oom acts by itself on web (policies/acts.yaml)",)
    assert bolder(FILES, held) == ()
    assert bolder(held, FILES) == ("policies/careful.yaml asks about all runbooks on db no more",)


def test_a_policy_that_widens_its_group_is_told():
    narrow, wide = policy("acts", "auto"), policy("acts", "auto", hosts="all")
    assert bolder({**FILES, **narrow}, {**FILES, **wide}) == ("near-oom acts by itself on all (policies/acts.yaml)",)


def test_the_plan_and_the_comment_say_it_and_the_risk_is_another_one():
    change = plan(FILES, AUTO, max_removed=1.0)
    assert change.as_json()["bolder"] == ["near-oom acts by itself"]
    with spoken("en"):
        assert plan_lines(change)[-1] == "  UNASKED from now on: near-oom acts by itself"
    text = markdown_of(change, (), AUTO, None, change.bolder)
    assert "- **unasked from now on**: near-oom acts by itself" in text
    assert "| runbooks/near-oom | changed | medium, unasked |" in text
    assert "unasked" not in markdown_of(plan(AUTO, FILES, max_removed=1.0), (), FILES)


def test_a_runbook_that_only_looks_has_no_risk_in_the_comment():
    text = FILES[RUNBOOK].decode()
    looks = {**FILES, RUNBOOK: (text[: text.index("remediate:")] + "remediate: []\n\nverify: []\n").encode()}
    assert "| runbooks/near-oom | changed | none |" in markdown_of(plan(FILES, looks, max_removed=1.0), (), looks)


def test_an_environment_that_frees_by_a_patch_is_told_by_its_name(tmp_path):
    for side in ("old", "new"):
        for path, content in SCAFFOLD.items():
            target = tmp_path / side / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
    (tmp_path / "new/environments/dev/runbooks/near-oom.yaml").write_text("patch: {mode: auto}\n")
    with spoken("en"):
        answer = check(directory=str(tmp_path / "new"), base=str(tmp_path / "old"))
    assert answer.document["problems"] == []
    assert answer.document["bolder"] == ["near-oom acts by itself in dev"]
    assert "  UNASKED from now on: near-oom acts by itself in dev" in answer.text
