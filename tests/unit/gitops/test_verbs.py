"""The verbs as their users meet them: in CI, at the control plane, and at three in the morning."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from osremed.core.errors import BadInput, ExitCode, NotFound, OsremedError
from osremed.gitops import live, verbs
from osremed.runbook.text import parse_text
from tests.support.answers import fits
from tests.unit.spoken import spoken

RUNBOOK = "runbooks/near-oom/runbook.yaml"


@pytest.fixture
def plane(tmp_path, control):
    """(state directory, source file) of a control plane."""
    source = tmp_path / "gitops.yaml"
    source.write_text(json.dumps(control.document))
    return {"state": str(tmp_path), "source": str(source)}


@pytest.fixture
def two_sets(plane, repository, alice):
    """The first rules were live, the second are."""
    verbs.apply(**plane)
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    repository.commit("Slower", alice)
    return verbs.apply(**plane)


def test_what_init_makes_passes_the_check(tmp_path):
    directory = str(tmp_path / "new")
    verbs.init(directory=directory)
    answer = verbs.check(directory=directory)
    assert (answer.exit_code, answer.text) == (
        ExitCode.OK,
        "1 runbooks, 1 cases, 2 policies, 0 problems (plain, dev, prod, stage)",
    )
    with pytest.raises(BadInput, match="not empty"):
        verbs.init(directory=directory)


def test_the_schema_an_editor_is_told_of_lies_there_and_fits(tmp_path):
    verbs.init(directory=str(tmp_path / "new"))
    told = {}
    for path in (tmp_path / "new").rglob("*.yaml"):
        first = path.read_text().splitlines()[0]
        if first.startswith("# yaml-language-server: $schema="):
            schema = json.loads((path.parent / first.partition("=")[2]).resolve().read_text())
            jsonschema.Draft202012Validator.check_schema(schema)
            told[path.name] = list(
                jsonschema.Draft202012Validator(schema).iter_errors(parse_text(path.read_bytes(), "").data)
            )
    assert told == {"runbook.yaml": [], "all.yaml": [], "pace.yaml": []}
    assert (tmp_path / "new/schema/prefect.schema.json").is_file()


def test_a_check_mends_what_is_beyond_doubt_when_told(repository):
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 10 minutes  # long")
    directory = str(repository.directory)
    assert verbs.check(directory=directory).exit_code == ExitCode.BAD_INPUT
    answer = verbs.check(directory=directory, fix=True)
    assert (answer.exit_code, answer.text.splitlines()[0]) == (ExitCode.OK, "1 mended")
    assert "cooldown: 10m  # long" in (repository.directory / RUNBOOK).read_text()


def test_a_check_tells_every_problem_of_every_environment_and_writes_them_for_code_hosts(repository, tmp_path):
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 10")
    repository.write("environments/prod/runbooks/near-oom.yaml", "patch:\n  guards: {storm: {max_runs: many}}\n")
    sarif, markdown = tmp_path / "out.sarif", tmp_path / "out.md"
    answer = verbs.check(directory=str(repository.directory), sarif=str(sarif), markdown=str(markdown))
    assert answer.exit_code == ExitCode.BAD_INPUT
    assert "cooldown" in answer.text
    assert "max_runs" in answer.text
    results = json.loads(sarif.read_text())["runs"][0]["results"]
    assert {result["ruleId"] for result in results} == {"bad-value"}
    assert len(results) == len(answer.document["problems"])
    assert results[0]["locations"][0]["physicalLocation"]["region"]["startLine"] == 14
    assert "this would not go live" in markdown.read_text()
    assert not [path.name for path in repository.directory.iterdir() if path.name.startswith(".osremed")]


def test_a_guard_policy_is_checked_in_each_environment_and_against_the_runbooks_there_are(repository):
    repository.edit("policies/pace.yaml", "hosts: all", "hosts: all\nrunbooks: [near-oom, near-out]")
    repository.write("environments/prod/policies/pace.yaml", "patch:\n  guards: {storm: {max_runs: 5}}\n")
    problems = verbs.check(directory=str(repository.directory)).document["problems"]
    assert {problem["rule"] for problem in problems} == {"policy"}
    told = " ".join(problem["what"] for problem in problems)
    assert "there is no runbook 'near-out'" in told
    assert "guards.storm.per" in told


def test_a_comment_shows_the_change_its_risk_and_reach_and_no_markup_of_the_author(repository, tmp_path):
    base = tmp_path / "base"
    repository.git("worktree", "add", "--quiet", str(base))
    repository.edit(RUNBOOK, "title: A node", "title: <img src=x> ``` [a](b) node")
    out = tmp_path / "out.md"
    verbs.check(directory=str(repository.directory), base=str(base), markdown=str(out))
    text = out.read_text()
    assert "| runbooks/near-oom | changed | medium | 5% of the hosts at once, 20 runs per 600 s |" in text
    assert "````diff" in text


def test_a_comment_shows_which_past_decisions_would_be_others(repository, tmp_path):
    base, events, out = tmp_path / "base", tmp_path / "events.jsonl", tmp_path / "out.md"
    repository.git("worktree", "add", "--quiet", str(base))
    repository.edit(RUNBOOK, "event.level in ['medium', 'high']", "event.level == 'high'")
    given = {"sensitivity": "low", "scope": "node", "available_ratio": 0.05}
    past = [
        {"id": f"e{number}", "name": "memory.near_oom", "host": "web-1", "time_ns": 1 + number, "attributes": each}
        for number, each in enumerate(({**given, "level": "medium"}, {**given, "level": "high"}))
    ]
    events.write_text("".join(json.dumps(each) + "\n" for each in past) + "no event\n")
    answer = verbs.check(directory=str(repository.directory), base=str(base), markdown=str(out), events=str(events))
    (difference,) = answer.document["replay"]["differences"]
    assert (difference["event_id"], difference["runbook"]) == ("e0", "near-oom")
    assert answer.document["replay"]["unreadable"] == 1
    assert "on 2 past events 1 would be others" in out.read_text()
    assert "| memory.near\\_oom | web-1 | near-oom |" in out.read_text()


def test_a_plan_shows_what_would_change_and_changes_nothing(plane, control, repository, alice):
    verbs.apply(**plane)
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    repository.commit("Slower", alice)
    answer = verbs.show_plan(**plane)
    assert "changed  runbooks/near-oom" in answer.text
    assert "+  cooldown: 20m" in answer.text
    assert b"cooldown: 10m" in control.live()


def test_what_is_said_of_git_is_of_the_type_that_openapi_tells(plane, repository, alice):
    state = {"state": plane["state"]}
    fits("gitops_apply", verbs.apply(**plane).document)
    fits("gitops_status", verbs.status(**state).document)
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    repository.commit("Slower", alice)
    fits("gitops_plan", verbs.show_plan(**plane).document)
    fits("gitops_apply", verbs.apply(**plane).document)
    fits("gitops_rollback", verbs.rollback(**state).document)
    fits("gitops_apply", verbs.apply(**plane).document)
    fits("gitops_suspend", verbs.suspend(**state, reason="x").document)
    fits("gitops_resume", verbs.resume(**state).document)
    repository.commit("Not signed")
    fits("gitops_plan", verbs.show_plan(**plane).document)
    fits("gitops_status", verbs.status(**state).document)


def test_a_plan_that_would_be_refused_says_why(plane, repository):
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    repository.commit("Not signed")
    answer = verbs.show_plan(**plane)
    assert (answer.exit_code, answer.document["refused"]) == (ExitCode.REFUSED, "NotVouched")


def test_status_tells_the_commit_and_drift_at_once(plane, control):
    with pytest.raises(NotFound, match="nobody has looked"):
        verbs.status(state=plane["state"])
    verbs.apply(**plane)
    answer = verbs.status(state=plane["state"])
    assert (answer.exit_code, answer.document["reason"]) == (ExitCode.OK, "Applied")
    path = control.home.path("live", RUNBOOK)
    os.chmod(path, 0o644)
    with open(path, "ab") as out:
        out.write(b"\n# by hand\n")
    answer = verbs.status(state=plane["state"])
    assert (answer.exit_code, answer.document["reason"]) == (ExitCode.REFUSED, "Drifted")


def test_a_rollback_brings_the_earlier_rules_and_holds_git_off_until_resumed(plane, control, two_sets):
    assert b"cooldown: 20m" in control.live()
    verbs.rollback(state=plane["state"])
    assert b"cooldown: 10m" in control.live()
    held = verbs.apply(**plane)
    assert held.document["reason"] == "Suspended"
    assert b"cooldown: 10m" in control.live()
    verbs.resume(state=plane["state"])
    back = verbs.apply(**plane)
    assert back.document["reason"] == "Applied"
    assert back.document["set"] == two_sets.document["set"]


def test_what_git_did_is_told_in_the_language_that_is_spoken_and_the_rules_stay(plane, repository, alice):
    state = {"state": plane["state"]}
    verbs.apply(**plane)
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    repository.commit("Slower", alice)
    english = verbs.show_plan(**plane).text.splitlines()
    assert re.fullmatch(r"commit [0-9a-f]{12}  'Slower'  signed by alice\S*", english[0])
    assert english[-3] == "replay: 0 events, 0 decisions, 0 change; refused by guards: none"
    assert english[-2] == "  fleet: the 0 hosts that had events, for want of an inventory or a number"
    with spoken("zh_CN"):
        plan = verbs.show_plan(**plane).text.splitlines()
        applied, status = verbs.apply(**plane), verbs.status(**state)
        held = [verbs.suspend(**state, reason="fair").text, verbs.apply(**plane).text.splitlines()[0]]
        resumed = [verbs.resume(**state).text, verbs.resume(**state).text]
    assert plan[0].startswith("提交 ")
    assert "  签名者 alice" in plan[0]
    assert plan[-3] == "重放：0 个事件，0 个决策，0 个改变；被安全检查拒绝：无"
    assert plan[1:-3] == english[1:-3]
    assert applied.text.startswith("就绪：Applied: ")
    assert f"\n生效：规则集 {applied.document['set'][:12]}，提交 {applied.document['commit'][:12]}\n" in applied.text
    assert status.text.endswith(f"\n查看时间 {status.document['checked_at']}")
    assert re.search(r"\n  Ready       True  自 \S+ 起\n", status.text)
    assert held[0] == "已暂停：fair"
    assert held[1].startswith("就绪：Suspended: ")
    assert resumed == ["已恢复：下次查看时应用 Git 中的内容", "没有处于暂停状态"]
    with spoken("zh_TW"):
        rolled = verbs.rollback(**state).text
    assert re.fullmatch(
        r"生效：規則集 \S+，提交 \S+\n已暫停：待 Git 中有您要的規則時，執行 osremed gitops resume", rolled
    )


def test_a_rollback_shows_what_it_would_change_and_changes_nothing(plane, control, two_sets):
    answer = verbs.rollback(state=plane["state"], check=True)
    assert "-  cooldown: 20m" in answer.text
    assert "+  cooldown: 10m" in answer.text
    assert answer.document["plan"]["old"] == two_sets.document["set"]
    assert b"cooldown: 20m" in control.live()
    assert verbs.apply(**plane).document["reason"] != "Suspended"
    assert verbs.rollback(state=plane["state"]).document["set"] == answer.document["set"]


def test_a_rollback_to_nowhere_names_what_is_kept(plane):
    verbs.apply(**plane)
    with pytest.raises(NotFound, match="no earlier set") as raised:
        verbs.rollback(state=plane["state"])
    assert raised.value.hint.startswith("kept: ")
    with pytest.raises(NotFound, match="no kept set"):
        verbs.rollback(state=plane["state"], to="ffff")


def test_force_goes_past_a_shrunken_set_and_never_past_a_signature(plane, repository, alice):
    verbs.apply(**plane)
    for name in ("a", "b"):
        for path in (RUNBOOK, "runbooks/near-oom/cases/medium-already.yaml"):
            text = (repository.directory / path).read_text().replace("name: near-oom\n", f"name: {name}\n", 1)
            repository.write(path.replace("near-oom", name), text)
    repository.commit("More", alice)
    assert verbs.apply(**plane).document["reason"] == "Applied"
    repository.git("rm", "--quiet", "-r", "policies", "environments", "runbooks/a", "runbooks/b")
    repository.commit("Fewer", alice)
    assert verbs.apply(**plane).document["reason"] == "TooMuchRemoved"
    assert verbs.apply(**plane, force=True).document["reason"] == "Applied"
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 1s")
    repository.commit("Unsigned")
    assert verbs.apply(**plane, force=True).document["reason"] == "NotVouched"


@pytest.mark.parametrize(
    ("change", "place"),
    [({"urll": "x"}, "urll"), ({"interval": 60}, "interval"), ({"ref": "--x"}, "ref")],
)
def test_a_faulty_source_file_is_an_error_with_its_place(plane, control, tmp_path, change, place):
    source = tmp_path / "gitops.yaml"
    source.write_text(json.dumps({**control.document, **change}))
    with pytest.raises(BadInput, match=place) as raised:
        verbs.apply(**plane)
    assert raised.value.where.startswith(f"{source}:1:")


def test_a_source_without_keys_is_told_with_what_it_lacks(plane, control, tmp_path):
    (tmp_path / "gitops.yaml").write_text(json.dumps({**control.document, "verify": {}}))
    answer = verbs.apply(**plane)
    assert (answer.exit_code, answer.document["reason"]) == (ExitCode.REFUSED, "LookFailed")
    assert answer.text.splitlines()[:2] == [
        "NOT READY: LookFailed: no keys to check signatures with",
        "  hint: give verify.allowed_signers or verify.keyring",
    ]


def test_a_source_that_the_reconciler_cannot_read_is_in_the_status_and_one_that_a_person_mistyped_is_not(plane):
    applied = verbs.apply(**plane)
    with pytest.raises(OsremedError):
        verbs.apply(state=plane["state"], source=f"{plane['source']}x")
    assert verbs.status(state=plane["state"]).document["reason"] == "Applied"
    file = Path(plane["source"])
    source = file.read_text()
    file.write_text(source.replace('"kind"', '"kid"'))
    with pytest.raises(BadInput, match="kid"):
        verbs.run(**plane, once=True)
    answer = verbs.status(state=plane["state"])
    assert (answer.exit_code, answer.document["reason"]) == (ExitCode.REFUSED, "LookFailed")
    assert answer.document["set"] == applied.document["set"]
    assert f"{plane['source']}:1:" in answer.document["message"]
    fits("gitops_status", answer.document)
    file.write_text(source)
    assert verbs.run(**plane, once=True).document["reason"] == "Applied"


def test_the_reconciler_goes_on_looking_when_git_breaks_off_and_says_so_meanwhile(plane, control, tmp_path):
    (tmp_path / "gitops.yaml").write_text(json.dumps({**control.document, "interval": "1s"}))
    os.makedirs(control.home.mirror)
    objects = os.path.join(control.home.mirror, "objects")
    open(objects, "w").close()  # no mirror can be made here
    argv = [sys.executable, "-m", "osremed", "gitops", "run", "--state", plane["state"], "--source", plane["source"]]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert "git init" in reason_becomes(control.home, "LookFailed", process)["message"]
            os.unlink(objects)
            reason_becomes(control.home, "Applied", process)
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def reason_becomes(home, reason, process, within_s=120):
    """The status when its reason is that; the process has to live until then."""
    deadline = time.monotonic() + within_s
    while (found := live.read_json(home.status)).get("reason") != reason:
        assert process.poll() is None
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found
