"""Stop, go on, and why: what people say to the automation and what it answers."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from osremed.core.clock import FakeClock
from osremed.core.columns import width
from osremed.core.errors import BadInput, ExitCode, NotFound
from osremed.core.journal import Journal
from osremed.flows import control_verbs as verbs
from osremed.flows.fleet import freezes
from osremed.flows.settings import ControlPaths
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.catalog import load_entry
from osremed.runbook.controls import Controls
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator
from osremed.runbook.stats import Grade
from osremed.runbook.store import RunStore
from tests.unit.runbook.conftest import make_run
from tests.unit.spoken import spoken

BOOK = "runbooks/near-oom/runbook.yaml"


def event(number, level="high", **attributes):
    given = {"level": level, "sensitivity": "low", "scope": "node", "available_ratio": 0.05, **attributes}
    name, now_ns = "memory.near_oom", time.time_ns()
    return {"id": f"e{number}", "name": name, "host": "web-1", "time_ns": now_ns, "attributes": given}


@pytest.fixture
def state(tmp_path):
    """A control plane that was sent three events; the second is of a level nobody wants."""
    paths = ControlPaths(str(tmp_path))
    intake = Journal(paths.intake)
    for number, level in enumerate(("high", "low", "medium")):
        intake.append(event(number, level))
    intake.close()
    decisions = Journal(paths.decisions)
    why = "`event.level in ['medium', 'high']` is false"
    decisions.append(
        {"event": "e1", "host": "web-1", "runbook": "near-oom", "matched": False, "why": why, "run_id": ""}
    )
    decisions.close()
    return str(tmp_path)


def test_a_freeze_reaches_the_guards_of_a_running_control_plane_and_is_lifted(tmp_path):
    path = ControlPaths(str(tmp_path)).controls
    operator = Operator(ReplayedHost(load_case("runbooks/near-oom/cases/level-low.yaml").given), None, None, (), path)
    verbs.freeze(state=str(tmp_path), reason="fair", runbook="near-oom", hold="2h")
    (found,) = operator.said().freezes
    assert (found.runbook, found.host, found.reason) == ("near-oom", "", "fair")
    assert 7199 < (found.until_ns - found.since_ns) / 1e9 < 7201
    assert "near-oom on every host, by" in verbs.freeze(state=str(tmp_path)).text
    with pytest.raises(NotFound, match="not frozen"):
        verbs.unfreeze(state=str(tmp_path))
    verbs.unfreeze(state=str(tmp_path), runbook="near-oom")
    assert operator.said() == Controls()


def test_a_second_freeze_of_the_same_scope_takes_the_place_of_the_first(tmp_path):
    for reason in ("one", "two"):
        verbs.freeze(state=str(tmp_path), reason=reason, host="web-1")
    assert [each["reason"] for each in verbs.freeze(state=str(tmp_path)).document["freezes"]] == ["two"]
    verbs.freeze(state=str(tmp_path), reason="all")
    assert verbs.unfreeze(state=str(tmp_path), every=True).text == "nothing is frozen"


def test_a_freeze_says_why(tmp_path):
    with pytest.raises(BadInput, match="--reason"):
        verbs.freeze(state=str(tmp_path), host="web-1")


def test_a_damaged_file_of_freezes_is_an_error_here_and_none_for_the_guards(tmp_path):
    path = ControlPaths(str(tmp_path)).controls
    verbs.freeze(state=str(tmp_path), reason="x")
    with open(path, "w", encoding="ascii") as out:
        out.write('{"freezes": [')
    with pytest.raises(BadInput, match="cannot be read"):
        verbs.unfreeze(state=str(tmp_path))
    assert Operator(None, None, None, (), path).said() is None


def test_only_a_half_undone_run_can_be_acknowledged(tmp_path, monkeypatch):
    run = replace(make_run(1), state=RunState.UNDO_INCOMPLETE)
    monkeypatch.setattr(RunStore, "load", lambda *_: (run, None))
    assert verbs.acknowledge(run_id=run.run_id, state=str(tmp_path)).document["acknowledged"] == (run.run_id,)
    monkeypatch.setattr(RunStore, "load", lambda *_: (replace(run, state=RunState.SUCCEEDED), None))
    with pytest.raises(BadInput, match="SUCCEEDED"):
        verbs.acknowledge(run_id=run.run_id, state=str(tmp_path))


def test_why_not_tells_what_each_rule_said(state):
    answer = verbs.why_not(event_id="e1", state=state)
    assert "near-oom: does not want it: `event.level in ['medium', 'high']` is false" in answer.text
    assert "not decided yet" in verbs.why_not(event_id="e2", state=state).text
    with pytest.raises(NotFound, match="no event 'e9'"):
        verbs.why_not(event_id="e9", state=state)


def test_why_not_asks_other_rules_and_shows_the_guards_of_a_run(state):
    assert "near-oom: wanted it" in verbs.why_not(event_id="e0", state=state, runbooks="runbooks").text
    paths = ControlPaths(state)
    from osremed.core.event import event_from_json

    opened = RunStore(paths.runs).create(event_from_json(event(0)), load_entry(BOOK), FakeClock(time.time_ns()))
    opened.close()
    decisions = Journal(paths.decisions)
    run_id = opened.run.run_id
    decisions.append(
        {"event": "e0", "host": "web-1", "runbook": "near-oom", "matched": True, "why": "it does", "run_id": run_id}
    )
    decisions.close()
    assert f"run {run_id} is RAISED" in verbs.why_not(event_id="e0", state=state).text


def test_why_not_hears_what_came_before_when_other_rules_have_a_window(state, tmp_path):
    folder = tmp_path / "windows/near-oom"
    folder.mkdir(parents=True)
    with open(BOOK, encoding="utf-8") as source:
        text = source.read().replace("\n\nguards:", "\n    throttle: {once_within: 10m}\n\nguards:")
    (folder / "runbook.yaml").write_text(text)
    told = verbs.why_not(event_id="e2", state=state, runbooks=str(tmp_path / "windows")).text
    assert "near-oom: does not want it: once within 10 min: e0 was the one" in told


def test_why_not_says_in_one_line_who_does_not_name_an_event(state):
    decisions = Journal(ControlPaths(state).decisions)
    decisions.append({"event": "e2", "host": "web-1", "runbook": "", "matched": False, "why": "3 of 3 do not name it"})
    decisions.close()
    assert verbs.why_not(event_id="e2", state=state).text.endswith("\n  3 of 3 do not name it")


def test_what_people_did_is_in_the_audit_and_a_forgery_is_found(tmp_path):
    verbs.freeze(state=str(tmp_path), reason="fair")
    verbs.reset_breaker(state=str(tmp_path), runbook="near-oom")
    verbs.unfreeze(state=str(tmp_path))
    answer = verbs.audit(state=str(tmp_path))
    assert (answer.exit_code, answer.document["hands"]["entries"]) == (ExitCode.OK, 3)
    (segment,) = (tmp_path / "hands").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b"fair", b"foul"))
    answer = verbs.audit(state=str(tmp_path))
    assert answer.exit_code == ExitCode.FAILED
    assert "FAULT" in answer.text


@pytest.mark.parametrize(
    ("language", "frozen", "nothing"),
    [
        ("en", "frozen: near-oom on every host, by me until it is lifted: every host", "nothing is frozen"),
        ("zh_CN", "已冻结：near-oom，于 每台主机，操作者 me，直至解除：every host", "没有冻结"),
        ("zh_TW", "已凍結：near-oom，於 每台主機，操作者 me，直至解除：every host", "沒有凍結"),
    ],
)
def test_what_is_frozen_is_told_in_the_language_that_is_spoken(tmp_path, monkeypatch, language, frozen, nothing):
    monkeypatch.setattr(verbs, "person", lambda: "me")
    where = {"state": str(tmp_path)}
    with spoken(language):
        assert verbs.freeze(**where, reason="every host", runbook="near-oom").text == frozen
        assert freezes(**where).text == frozen
        assert verbs.unfreeze(**where, every=True).text == nothing
    assert verbs.audit(**where).text.startswith("decisions: 0 entries, last none\nhands: 2 entries, last ")


@pytest.mark.parametrize(
    ("language", "head"),
    [
        ("en", "RUNBOOK                   RUNS  REFUSED  NOTHING  ACTED   KEPT  UNDONE  AGAIN  MEDIAN"),
        ("zh_CN", "运行手册                  运行     拒绝   无结论   动作   保留    撤销   复发  中位数"),
        ("zh_TW", "維運手冊                  執行     拒絕   無結論   動作   保留    復原   復發  中位數"),
    ],
)
def test_the_columns_of_the_grades_hold_in_every_language(tmp_path, monkeypatch, language, head):
    grade = Grade("near-oom", 9, 8, 7, 6, 5, 4, 1, 2, 90.0)
    with spoken(language):
        assert verbs.stats(state=str(tmp_path)).text in ("no run has ended yet", "还没有运行结束", "還沒有執行結束")
        monkeypatch.setattr(verbs, "grades", lambda *_, **__: (grade,))
        told = verbs.stats(state=str(tmp_path)).text.splitlines()
    assert told[0] == head
    assert told[1] == "near-oom                     9        8        7      6      5       5      2  90.00 s"
    assert width(head.rpartition("  ")[0]) == len(told[1].rpartition("  ")[0])


def test_time_saved_is_told_where_a_runbook_declares_what_a_person_takes_and_nowhere_else(tmp_path, monkeypatch):
    counts = 9, 8, 7, 6, 5, 4, 1, 2, 90.0
    graded = (Grade("saves", *counts, 7200.0), Grade("silent", *counts), Grade("vain", *counts, 0.0))
    monkeypatch.setattr(verbs, "grades", lambda *_, **__: graded)
    answer = verbs.stats(state=str(tmp_path))
    assert answer.text.splitlines()[4:] == [
        "saves saved about 120 min of people's time, by the `manual_time` it declares",
        "vain saved about 0 s of people's time, by the `manual_time` it declares",
    ]
    assert [each["time_saved_s"] for each in answer.document["runbooks"]] == [7200.0, None, 0.0]


def test_why_an_event_came_to_nothing_is_told_in_the_language_that_is_spoken(state):
    english = verbs.why_not(event_id="e1", state=state)
    with spoken("zh_CN"):
        told, waiting = verbs.why_not(event_id="e1", state=state), verbs.why_not(event_id="e2", state=state)
    assert told.document == english.document
    assert told.text.startswith("memory.near_oom，主机 web-1，")
    assert told.text.endswith("\n  near-oom：不处理：`event.level in ['medium', 'high']` is false")
    assert waiting.text.endswith("\n尚未决策：调度器在运行吗？")
