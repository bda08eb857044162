"""What people say to a canary, and what it answers when it was told nonsense."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from osremed.console.binding import request_model
from osremed.core.errors import BadInput, ExitCode, NotFound
from osremed.core.journal import Journal, read_journal
from osremed.flows import canary_verbs as verbs
from osremed.flows.settings import ControlPaths
from osremed.runbook.audit import acting_as, verify
from osremed.runbook.canary import Ended, HostEnded, Planned, WaveBegan, what_next, why_stopped
from osremed.runbook.catalog import load_entry
from osremed.runbook.fanout import _line, begin, driving, load, read_stop
from osremed.runbook.model import RunState
from osremed.runbook.removal import remove_whole
from osremed.verbs.load import find
from tests.support.console_state import ROOT, make_event
from tests.unit.spoken import spoken

HOSTS = frozenset({"a", "b", "c"})
INVENTORY = SimpleNamespace(hosts=HOSTS, groups={"web": frozenset({"b", "a"}), "none": frozenset()})


def test_hosts_are_a_group_by_name_or_names_in_the_order_they_are_given():
    assert verbs._hosts(INVENTORY, "web") == ("a", "b")
    assert verbs._hosts(INVENTORY, "c, a,c") == ("c", "a")


@pytest.mark.parametrize("wanted", ["wbe", "a,x", "none", ""])
def test_a_host_that_is_not_there_and_a_group_of_nobody_are_errors_and_never_everybody(wanted):
    with pytest.raises(BadInput, match="names no host"):
        verbs._hosts(INVENTORY, wanted)


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_attributes_are_an_object(text):
    with pytest.raises(BadInput, match=r"JSON|object"):
        verbs._attributes(text)


def test_a_stopped_canary_is_shown_with_where_it_stopped_and_is_not_exit_code_0(tmp_path):
    paths, entry = ControlPaths(str(tmp_path)), load_entry("runbooks/near-oom/runbook.yaml")
    planned = Planned("0" * 16, "near-oom", entry.digest, ("a", "b"), {}, 0.0, 0.0, "ann")
    begin(paths.canaries, planned, entry)
    journal = Journal(f"{paths.canaries}/{'0' * 16}/journal")
    for line in (WaveBegan(("a",)), HostEnded("a", "f" * 16, RunState.UNDONE, "no help"), Ended("1 of 1")):
        journal.append(_line(line))
    journal.close()
    answer = verbs.canary_show(canary_id="0" * 16, state=str(tmp_path))
    assert answer.exit_code is ExitCode.FAILED
    assert answer.document["untouched"] == ("b",)
    assert "stopped in wave 1: 1 of 1" in answer.text
    resumed = verbs.canary_resume(canary_id="0" * 16, state=str(tmp_path), runbooks="", inventory="", collections="")
    assert (resumed.exit_code, resumed.document) == (answer.exit_code, answer.document)
    assert resumed.text == f"{answer.text}\nit has ended and is not gone on with; osremed canary start begins another"


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """asked(**more) -> the answer to a start that is left alone; `asked.left` are the processes that would drive."""
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"a": {}, "b": {}, "c": {}}}}))
    left = []
    monkeypatch.setattr(verbs, "_leave", lambda _paths, name, *_: left.append(name))
    where = {"state": str(tmp_path), "inventory": str(tmp_path / "hosts.json"), "runbooks": str(ROOT / "runbooks")}

    def start(runbook="near-oom", hosts="a,b,c", **more):
        given = {"attributes": json.dumps(make_event("e", "x").attributes), **where, **more}
        return verbs.canary_start(runbook=runbook, hosts=hosts, collections=str(ROOT / "collections"), **given)

    start.left, start.state, start.paths = left, str(tmp_path), ControlPaths(str(tmp_path))
    return start


def hands(paths):
    return [entry.record for entry in read_journal(paths.hands).entries]


def test_a_canary_that_is_left_alone_is_answered_at_once_with_its_name_and_who_asked(asked):
    with acting_as("ana"):
        answer = asked()
    name = answer.document["canary_id"]
    assert (asked.left, answer.exit_code, answer.document["state"]) == ([name], ExitCode.OK, "under way")
    assert f"osremed canary show {name}" in answer.text
    assert load(asked.paths.canaries, name).planned.by == "ana"
    assert [(line["verb"], line["by"], line["canary"]) for line in hands(asked.paths)] == [("canary", "ana", name)]


def test_the_same_key_of_the_same_person_is_the_same_canary_and_no_second_process(asked):
    with acting_as("ana"):
        first, again = asked(key="k1"), asked(key="k1")
        other = asked(key="k2")
    with acting_as("ben"):
        bens = asked(key="k1")
    names = [each.document["canary_id"] for each in (first, other, bens)]
    assert again.document["canary_id"] == names[0]
    assert len(set(names)) == 3
    assert asked.left == names


def test_a_key_that_is_another_canarys_is_no_answer_to_this_question(asked):
    with acting_as("ana"):
        name = asked(key="k1").document["canary_id"]
        for other in ({"hosts": "a,b"}, {"max_failed": "50%"}, {"attributes": json.dumps({"level": "high"})}):
            with pytest.raises(BadInput, match=f"canary {name}"):
                asked(key="k1", **other)
    assert asked.left == [name]


@pytest.mark.parametrize("more", [{"host": "b"}, {"id": "x"}, {"x": float("nan")}])
def test_attributes_are_what_any_event_may_have(asked, more):
    with pytest.raises(BadInput, match=r"is a field of the event itself|are not JSON"):
        asked(attributes=json.dumps({**make_event("e", "x").attributes, **more}))
    assert asked.left == []


def test_over_the_network_a_runbook_is_a_name_and_never_a_path(asked):
    for path in (str(ROOT / "runbooks/near-oom"), "runbooks/near-oom/runbook.yaml", "../runbooks/near-oom"):
        with pytest.raises(NotFound, match="no runbook"):
            asked(path)
    assert asked.left == []


@pytest.mark.parametrize("given", [{"timeout": "1m"}, {"wait": True, "timeout": "0s"}, {"wait": True, "timeout": "5"}])
def test_a_wrong_time_out_is_said_before_anything_is_begun(asked, given):
    with pytest.raises(BadInput):
        asked(**given)
    assert verbs.canary_list(state=asked.state).document == {"canaries": [], "next_before": None, "damaged": []}


def test_who_waits_for_a_canary_that_goes_on_is_told_so_in_time(asked):
    answer = asked(wait=True, timeout="300ms")
    assert answer.exit_code is ExitCode.TIMED_OUT
    assert "not ended within 300ms: it goes on" in answer.text


def test_a_person_stops_a_canary_once_with_who_and_why_in_the_audit(asked):
    name = asked().document["canary_id"]
    with acting_as("ben"):
        answer = verbs.canary_stop(canary_id=name, state=asked.state, reason="wrong release")
    assert (answer.exit_code, answer.document["state"]) == (ExitCode.OK, "stopping")
    assert "ben stopped it: wrong release; runs that are under way end" in answer.text
    with acting_as("cy"):
        assert verbs.canary_stop(canary_id=name, state=asked.state).document["stop"]["by"] == "ben"
    told = [(line["verb"], line["by"], line["reason"]) for line in hands(asked.paths)[1:]]
    assert told == [("canary-stop", "ben", "wrong release"), ("canary-stop", "cy", "")]
    assert verify(asked.paths.hands).faults == ()


def test_a_canary_that_has_ended_is_not_stopped_and_one_that_is_not_there_is_an_error(asked):
    name = asked().document["canary_id"]
    with driving(asked.paths.canaries, name) as journal:
        journal.append(_line(Ended("")))
    with pytest.raises(BadInput, match="has ended"):
        verbs.canary_stop(canary_id=name, state=asked.state)
    with pytest.raises(NotFound, match="no canary"):
        verbs.canary_stop(canary_id="f" * 16, state=asked.state)
    assert [line["verb"] for line in hands(asked.paths)] == ["canary"]


def test_canaries_are_listed_newest_first_and_a_damaged_one_is_named(asked):
    names = [asked().document["canary_id"] for _ in range(3)]
    with open(f"{asked.paths.canaries}/{names[0]}/journal/{0:020d}.jsonl", "r+b") as file:
        file.write(b"xx")
    answer = verbs.canary_list(state=asked.state)
    assert [row["canary_id"] for row in answer.document["canaries"]] == names[:0:-1]
    assert answer.document["damaged"][0].startswith(f"{names[0]}: ")
    assert answer.exit_code is ExitCode.FAILED
    assert len(verbs.canary_list(state=asked.state, limit=1).document["canaries"]) == 1


def test_a_page_of_canaries_reads_no_others_and_leads_to_the_next(asked, monkeypatch):
    names = [asked().document["canary_id"] for _ in range(5)][::-1]
    with open(f"{asked.paths.canaries}/{names[4]}/journal/{0:020d}.jsonl", "r+b") as file:
        file.write(b"xx")
    read = []
    monkeypatch.setattr(verbs, "load", lambda canaries, name: read.append(name) or load(canaries, name))
    first = verbs.canary_list(state=asked.state, limit=2)
    second = verbs.canary_list(state=asked.state, limit=2, before=first.document["next_before"])
    assert [row["canary_id"] for answer in (first, second) for row in answer.document["canaries"]] == names[:4]
    assert (read, first.exit_code, first.document["damaged"]) == (names[:4], ExitCode.OK, [])
    assert first.text.splitlines()[-1] == f"older ones: osremed canary list --before {names[1]}"
    last = verbs.canary_list(state=asked.state, limit=2, before=second.document["next_before"])
    assert (last.document["canaries"], last.document["next_before"], last.exit_code) == ([], None, ExitCode.FAILED)
    assert "older ones" not in last.text
    with pytest.raises(BadInput, match="no canary 'x'"):
        verbs.canary_list(state=asked.state, before="x")


def test_canaries_are_in_the_order_in_which_they_were_asked_for_whatever_came_of_them_since(asked):
    names = [asked().document["canary_id"] for _ in range(3)][::-1]
    for name in names[1:]:
        with driving(asked.paths.canaries, name) as journal:
            journal.append(_line(Ended("")))
    rows = verbs.canary_list(state=asked.state).document["canaries"]
    assert [row["canary_id"] for row in rows] == names
    assert [row["at_ns"] for row in rows] == sorted((row["at_ns"] for row in rows), reverse=True)


def test_a_hundred_canaries_are_listed_unless_more_are_asked_for(asked):
    entry = load_entry("runbooks/near-oom/runbook.yaml")
    for number in range(102, 0, -1):
        planned = Planned(f"{number:016x}", "near-oom", entry.digest, ("a",), {}, 0.0, 0.0, "ann", at_ns=number)
        begin(asked.paths.canaries, planned, entry)
    shown = verbs.canary_list(state=asked.state).document
    assert [len(shown["canaries"]), shown["canaries"][0]["at_ns"], shown["next_before"]] == [100, 102, f"{3:016x}"]
    assert len(verbs.canary_list(state=asked.state, limit=0).document["canaries"]) == 102


def test_a_canary_that_is_removed_while_it_is_listed_is_not_damaged(asked, monkeypatch):
    first, second = (asked().document["canary_id"] for _ in range(2))

    def removed_meanwhile(canaries, name):
        if name == second:
            remove_whole(canaries, name)
        return load(canaries, name)

    monkeypatch.setattr(verbs, "load", removed_meanwhile)
    answer = verbs.canary_list(state=asked.state)
    assert ([row["canary_id"] for row in answer.document["canaries"]], answer.document["damaged"]) == ([first], [])


def test_a_canary_is_resumed_by_a_process_of_its_own_unless_somebody_drives_it(asked):
    name = asked().document["canary_id"]
    where = {"canary_id": name, "state": asked.state, "runbooks": "", "inventory": "", "collections": ""}
    assert verbs.canary_resume(**where, check=True).document["state"] == "under way"
    with driving(asked.paths.canaries, name), pytest.raises(BadInput, match="driven by another process"):
        verbs.canary_resume(**where)
    assert asked.left == [name]
    verbs.canary_resume(**where)
    assert asked.left == [name, name]
    assert [line["verb"] for line in hands(asked.paths)] == ["canary", "canary-resume"]


def test_who_resumes_a_canary_in_the_foreground_is_in_the_audit_and_the_process_it_is_left_to_is_not(
    asked, monkeypatch
):
    name = asked().document["canary_id"]
    where = {"state": asked.state, "runbooks": "", "inventory": f"{asked.state}/hosts.json", "collections": ""}

    async def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "roll", interrupted)
    for of in ("", "f" * 16, name):  # as `detached` says it: of the last one there is a line already
        monkeypatch.setenv("OSREMED_NOTED", of)
        with acting_as("ben"), pytest.raises(KeyboardInterrupt):
            verbs.canary_resume(canary_id=name, leave=False, **where)
    with driving(asked.paths.canaries, name), pytest.raises(BadInput, match="driven by another process"):
        verbs.canary_resume(canary_id=name, leave=False, **where)
    told = [(line["verb"], line["by"], line["canary"]) for line in hands(asked.paths)[1:]]
    assert told == [("canary-resume", "ben", name)] * 2


def test_who_interrupts_a_canary_is_told_that_it_goes_on_and_how_to_stop_it(asked, monkeypatch, capfd):
    async def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "roll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked(leave=False)
    (row,) = verbs.canary_list(state=asked.state).document["canaries"]
    assert f"osremed canary stop {row['canary_id']}" in capfd.readouterr().err


def test_a_canary_that_the_dispatcher_found_first_is_waited_for(asked, monkeypatch):
    async def driven_elsewhere(_operator, canaries, name):
        with driving(canaries, name) as journal:
            journal.append(_line(Ended("")))
        raise BlockingIOError

    monkeypatch.setattr(verbs, "roll", driven_elsewhere)
    answer = asked(leave=False)
    assert (answer.exit_code, answer.document["state"], asked.left) == (ExitCode.OK, "done", [])


def test_nobody_holds_a_request_over_the_network_open_with_a_canary_or_has_it_driven_there():
    for words in (["canary", "start"], ["canary", "show"], ["canary", "resume"]):
        assert not {"wait", "timeout", "leave", "runbooks"} & set(request_model(find(words)[0]).model_fields)


def test_what_is_left_alone_is_driven_to_its_end_by_a_process_of_its_own(tmp_path):
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"a.invalid": {}, "b.invalid": {}}}}))
    with acting_as("ana"):
        answer = verbs.canary_start(
            runbook="near-oom",
            hosts="a.invalid,b.invalid",
            state=str(tmp_path),
            inventory=str(tmp_path / "hosts.json"),
            collections=str(ROOT / "collections"),
            runbooks=str(ROOT / "runbooks"),
            attributes=json.dumps(make_event("e", "x").attributes),
            wait=True,
            timeout="2m",
        )
    assert answer.exit_code is ExitCode.FAILED
    assert answer.document["hosts"]["a.invalid"]["state"] == "REFUSED"  # nobody can be reached there: no evidence
    assert answer.document["untouched"] == ("b.invalid",)
    assert answer.document["by"] == "ana"
    assert [line["verb"] for line in hands(ControlPaths(str(tmp_path)))] == ["canary", "seal"]


STOPPED = (
    WaveBegan(("a",)),
    HostEnded("a", "f" * 16, RunState.SUCCEEDED, "kept"),
    WaveBegan(("b",)),
    HostEnded("b", "e" * 16, RunState.UNDONE, "no help"),
)


@pytest.mark.parametrize(
    ("language", "lines", "listed"),
    [
        (
            "en",
            [
                "canary {}  near-oom on 3 hosts: STOPPED",
                "  stopped in wave 2: 1 of 2 hosts were not kept, more than 0%; b: no help",
                "  wave 1",
                "    a                        kept  run ffffffffffffffff SUCCEEDED: kept",
                "  wave 2",
                "    b                        TAKEN BACK  run eeeeeeeeeeeeeeee UNDONE: no help",
                "  untouched: c",
            ],
            "stopped    near-oom  1 kept, 0 as wanted, 1 not kept, 1 untouched  1 of 2 hosts were not kept, ",
        ),
        (
            "zh_CN",
            [
                "金丝雀发布 {}  near-oom，3 台主机：已停止",
                "  在第 2 批停止：2 台主机中有 1 台未保留，超过 0%；b：no help",
                "  第 1 批",
                "    a                        已保留  运行 ffffffffffffffff SUCCEEDED：kept",
                "  第 2 批",
                "    b                        已撤回  运行 eeeeeeeeeeeeeeee UNDONE：no help",
                "  未触及：c",
            ],
            "已停止     near-oom  1 台已保留，0 台已符合要求，1 台未保留，1 台未触及  2 台主机中有 1 台未保留，",
        ),
        (
            "zh_TW",
            [
                "金絲雀部署 {}  near-oom，3 台主機：已停止",
                "  在第 2 批停止：2 台主機中有 1 台未保留，超過 0%；b：no help",
                "  第 1 批",
                "    a                        已保留  執行 ffffffffffffffff SUCCEEDED：kept",
                "  第 2 批",
                "    b                        已撤回  執行 eeeeeeeeeeeeeeee UNDONE：no help",
                "  未觸及：c",
            ],
            "已停止     near-oom  1 台已保留，0 台已符合要求，1 台未保留，1 台未觸及  2 台主機中有 1 台未保留，",
        ),
    ],
)
def test_a_canary_is_told_in_the_language_that_is_spoken_and_its_journal_is_not(asked, language, lines, listed):
    name = asked().document["canary_id"]
    with driving(asked.paths.canaries, name) as journal, spoken(language):
        for line in STOPPED:
            journal.append(_line(line))
        ended = what_next(load(asked.paths.canaries, name), None)
        assert isinstance(ended, Ended)
        journal.append(_line(ended))
        shown, row = (verbs.canary_show(canary_id=name, state=asked.state), verbs.canary_list(state=asked.state))
    assert shown.text.splitlines() == [line.format(name) for line in lines]
    assert listed in row.text
    assert shown.document["stopped"] == "1 of 2 hosts were not kept, more than 0%; b: no help"
    assert shown.document["state"] == row.document["canaries"][0]["state"] == "stopped"


def test_who_stopped_a_canary_is_told_in_the_language_that_is_spoken_and_other_words_stay(asked):
    assert verbs.canary_list(state=asked.state).text == "no canaries yet"
    with spoken("zh_CN"):
        assert verbs.canary_list(state=asked.state).text == "还没有金丝雀发布"
        begun = asked(wait=True, timeout="300ms")
        name = begun.document["canary_id"]
        assert begun.text.splitlines()[0] == f"金丝雀发布 {name}  near-oom，3 台主机：进行中"
        assert begun.text.endswith(
            f"\n在 300ms 内没有结束：它仍在继续；再次查看请用：osremed canary show {name} --wait"
        )
        with acting_as("ben"):
            told = verbs.canary_stop(canary_id=name, state=asked.state, reason="late").text
    assert told.splitlines()[1] == "  ben 停止了它：late；进行中的运行会自行结束，不再开始新的运行"
    with driving(asked.paths.canaries, name) as journal, spoken("zh_TW"):
        ended = what_next(load(asked.paths.canaries, name), read_stop(asked.paths.canaries, name))
        journal.append(_line(ended))
        shown = verbs.canary_show(canary_id=name, state=asked.state)
    assert ended == Ended("ben stopped it: late")
    assert "在第 0 批停止：ben 停止了它：late" in shown.text
    with spoken("zh_TW"):
        assert why_stopped(replace(load(asked.paths.canaries, name), stopped="as of old"), None) == "as of old"


def test_what_a_canary_would_do_is_told_in_the_language_that_is_spoken(asked):
    english = asked(check=True).text
    with spoken("zh_CN"):
        told = asked(check=True).text
    assert english.splitlines()[:4] == [
        "wave 1: a",
        "wave 2: b, c",
        "on a:",
        "check only: nothing was changed and nothing is proven",
    ]
    assert told.splitlines()[:4] == [
        "第 1 批：a",
        "第 2 批：b, c",
        "主机 a：",
        "仅为检查：没有更改任何内容，也没有证明任何事",
    ]
    assert len(told.splitlines()) == len(english.splitlines())
    assert (english.splitlines()[-1], told.splitlines()[-1]) == ("a run would not act", "运行不会采取动作")
