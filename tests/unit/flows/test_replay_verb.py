"""`osremed replay`: past events under other rules, on the fleet that was said, with the policies of its groups."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import json
import time

import pytest

from osremed.cli.main import main
from osremed.core.errors import BadInput, ExitCode, NotFound
from osremed.core.journal import Journal
from osremed.flows.replay_verb import replay
from osremed.flows.settings import ControlPaths
from tests.unit.spoken import spoken

BOOK = "runbooks/near-oom/runbook.yaml"
INVENTORY = "all: {children: {db: {hosts: {db-1: {}}}, web: {hosts: {web-1: {}, web-2: {}, web-3: {}}}}}\n"
ACTS = """\
apiVersion: osremed/v1
kind: GuardPolicy
metadata: {name: web-acts, title: Web servers mend themselves, owners: [web]}
hosts: web
runbooks: [near-oom]
mode: auto
"""


def event(number, level="high", host="web-1", after_s=0.0):
    attributes = {"level": level, "sensitivity": "low", "scope": "node", "available_ratio": 0.05}
    at_ns = time.time_ns() + round(after_s * 1e9)
    return {"id": f"e{number}", "name": "memory.near_oom", "host": host, "time_ns": at_ns, "attributes": attributes}


@pytest.fixture
def state(tmp_path):
    """A control plane that was sent three events of one host; the second is of a level nobody wants."""
    intake = Journal(ControlPaths(str(tmp_path)).intake)
    for number, level in enumerate(("high", "low", "medium")):
        intake.append(event(number, level))
    intake.close()
    return str(tmp_path)


def rules_at(folder, old="", new="", policy=""):
    """near-oom with that change, and the policy beside it; the folder of runbooks."""
    book = folder / "runbooks/near-oom"
    book.mkdir(parents=True)
    with open(BOOK, encoding="utf-8") as source:
        (book / "runbook.yaml").write_text(source.read().replace(old, new))
    if policy:
        (folder / "policies").mkdir()
        (folder / "policies/web-acts.yaml").write_text(policy)
    return str(folder / "runbooks")


def past_of(folder, *events):
    path = folder / "past.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in events))
    return str(path)


def said(document):
    return {each["host"]: each["new"] for each in document["differences"]}


def test_a_replay_names_each_past_decision_that_would_differ(state, tmp_path):
    changed = rules_at(tmp_path / "rules", "event.level in ['medium', 'high']", "event.level == 'high'")
    answer = replay(rules=changed, state=state, against="runbooks")
    assert answer.exit_code == ExitCode.FAILED
    assert [(each["event_id"], each["old"], each["new"]) for each in answer.document["differences"]] == [
        ("e2", "refused by target-busy", "no run")
    ]
    same = replay(rules="runbooks", state=state, against="runbooks")
    assert (same.exit_code, same.document["decisions"], same.document["differences"]) == (ExitCode.OK, 2, [])


def test_a_replay_reads_json_lines_and_counts_what_it_cannot_read(state, tmp_path):
    path = tmp_path / "past.jsonl"
    path.write_text("\n".join([json.dumps(event(1)), "{", "[]", json.dumps(event(2))]))
    document = replay(rules="runbooks", state=state, events=str(path)).document
    assert (document["events"], document["unreadable"]) == (2, 2)
    path.write_text("nothing here")
    with pytest.raises(BadInput, match="not one line"):
        replay(rules="runbooks", state=state, events=str(path))
    with pytest.raises(NotFound):
        replay(rules="runbooks", state=state, events=str(tmp_path / "nowhere"))


def test_who_would_be_asked_and_on_which_fleet_is_told_in_the_language_that_is_spoken(state, tmp_path):
    rules = rules_at(tmp_path / "rules", policy=ACTS)
    with spoken("zh_CN"):
        told = replay(rules=rules, state=state, against=rules).text
    assert told.splitlines() == [
        "3 个事件，2 个决策（0 个带有证据），0 个不同，0 行无法读取",
        "被安全检查拒绝：target-busy 1",
        "开始的运行：会先询问人 1",
        "机群：有事件的 1 台主机，因为既没有主机清单也没有给出数量",
        "因缺少主机清单而没有询问的各组策略：web-acts",
    ]


def test_an_incident_is_replayed_from_the_command_line_on_the_inventory_and_its_policies(tmp_path, capsys):
    """On the three hosts that had events a quarter is one host; of four, too; on a thousand all of them may."""
    hosts = ("web-1", "db-1", "gone-1")
    past = past_of(tmp_path, *(event(number, host=host, after_s=number) for number, host in enumerate(hosts)))
    rules = rules_at(tmp_path / "rules", "fleet: 5%", "fleet: 3", policy=ACTS)
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    where = ["replay", rules, "--events", past, "--state", str(tmp_path / "state"), "-o", "json"]

    def told(*more):
        assert main([*where, *more]) == 0
        return json.loads(capsys.readouterr().out)

    seen = told("--inventory", str(tmp_path / "inventory.yaml"))
    assert said(seen) == {
        "web-1": "a run begins; would act by itself",
        "db-1": "refused by blast-radius",
        "gone-1": "refused by scope",
    }
    fleet = seen["fleet"]
    assert (fleet["source"], fleet["hosts"], fleet["policies"]) == ("inventory", 4, ["web-acts"])
    assert (fleet["strangers"], seen["modes"]) == (["gone-1"], {"acts": 1})

    seen = told("--fleet-hosts", "1000")
    assert set(said(seen).values()) == {"a run begins; would ask a person"}
    assert (seen["fleet"]["source"], seen["fleet"]["hosts"]) == ("number", 1000)
    assert (seen["fleet"]["policies"], seen["fleet"]["not_asked"], seen["modes"]) == ([], ["web-acts"], {"asks": 3})

    seen = told()
    assert list(said(seen).values()).count("refused by blast-radius") == 2
    assert (seen["fleet"]["source"], seen["fleet"]["hosts"]) == ("events", 3)
    assert not (tmp_path / "state").exists()


def test_a_fleet_is_said_once_and_has_a_host(state, tmp_path, capsys):
    where = ["replay", "runbooks", "--state", state]
    for more, what in (
        (("--inventory", "x", "--fleet-hosts", "3"), "the fleet is that of the inventory, or so many hosts"),
        (("--fleet-hosts", "0"), "0 hosts are no fleet"),
        (("--inventory", str(tmp_path / "nowhere")), "the inventory names no host"),
    ):
        assert main([*where, *more]) == ExitCode.BAD_INPUT
        assert what in capsys.readouterr().err
