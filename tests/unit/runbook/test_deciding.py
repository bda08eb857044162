"""Every event gets its answer, kept; a storm of them begins few runs and loses none."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from osremed.core.clock import FakeClock
from osremed.core.event import Event
from osremed.core.journal import read_journal
from osremed.flows.intake import Intake
from osremed.runbook.audit import Audit, verify
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.controls import Freeze, change_controls
from osremed.runbook.deciding import REFUSAL_HOLDS_S, Deciding
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import OpenRun, RunStore, open_unfinished
from osremed.runbook.triggers import Trigger
from tests.support.acting import acts

CASE = "runbooks/near-oom/cases/policy-too-low.yaml"
GIVEN = load_case(CASE).given.event
BEGIN_NS = FakeClock().wall_ns()


def event(number, host="web-1", *, at_s=0.0, name="memory.near_oom"):
    return Event(f"e{number}", name, host, BEGIN_NS + round(at_s * 1e9), GIVEN["attributes"])


class Control:
    """The deciding half of a dispatcher, whose hosts are replayed."""

    def __init__(self, directory, entry, hosts=("web-1",)):
        self.directory, self.clock, self.entry = directory, FakeClock(), entry
        self.store, self.opened = RunStore(str(directory / "runs")), []
        controls = str(directory / "controls.json")
        executor = ReplayedHost(load_case(CASE).given)
        self.operator = Operator(executor, self.store, self.clock, frozenset(hosts), controls, restrict=acts)
        self.audit = Audit(str(directory / "decisions"))
        self.deciding = Deciding(self.operator, self.audit, {"near-oom": entry}, self.opened.append)

    def take(self, *events):
        asyncio.run(self.deciding.answer(self.deciding.hear(events)))
        return self.lines()[-1]

    def finish(self):
        """Drives what was let in to its end."""
        for opened in self.opened:
            asyncio.run(drive(self.operator, opened, self.entry.runbook))
            opened.close()
            self.deciding.ended(opened)
        self.opened.clear()

    def lines(self):
        return [entry.record for entry in read_journal(str(self.directory / "decisions")).entries]


@pytest.fixture
def control(tmp_path, entry):
    return Control(tmp_path, entry)


def with_trigger(entry, **trigger):
    on = [Trigger.model_validate({"event": "memory.near_oom", **trigger})]
    return replace(entry, runbook=entry.runbook.model_copy(update={"on": on}))


def test_an_event_of_a_host_with_a_run_under_way_belongs_to_that_run(control):
    first = control.take(event(1))
    second = control.take(event(2))
    assert first["admitted"]
    assert (second["run_id"], second["admitted"]) == (first["run_id"], False)
    assert "is under way on web-1" in second["why"]
    control.finish()
    assert "cooldown" in control.take(event(3))["why"]


def test_an_event_after_a_run_has_ended_does_not_belong_to_it_though_its_report_is_still_made(control):
    control.take(event(1))
    (opened,) = control.opened
    asyncio.run(drive(control.operator, opened, control.entry.runbook))
    assert control.take(event(2))["why"].startswith("cooldown: ")
    opened.close()


def test_the_guards_no_holds_for_ten_seconds_and_then_they_are_asked_again(control):
    change_controls(control.operator.controls, lambda said: said.model_copy(update={"freezes": (FREEZE,)}))
    refused = control.take(event(1))
    assert refused["why"].startswith("freeze: ")
    change_controls(control.operator.controls, lambda said: said.model_copy(update={"freezes": ()}))
    control.clock.advance(9)
    again = control.take(event(2))
    assert again["run_id"] == refused["run_id"]
    assert again["why"].startswith("refused 9.00 s before, and so is this: freeze: ")
    control.clock.advance(1)
    assert control.take(event(3))["admitted"]


FREEZE = Freeze(by="ann", reason="fair", since_ns=0)


def test_the_same_event_again_has_its_run_already(control):
    control.take(event(1))
    assert control.take(event(1))["why"] == "this event has its run already"


def test_an_event_nobody_names_has_one_line_for_all_runbooks(control):
    line = control.take(event(1, name="gpu.xid"))
    assert (line["runbook"], line["why"]) == ("", "1 of 1 runbooks do not name gpu.xid")


def test_what_time_brought_says_so_and_begins_one_run(tmp_path, entry):
    control = Control(tmp_path, with_trigger(entry, throttle={"once_after": "60s"}))
    assert not control.take(event(1), event(2, at_s=30))["matched"]
    control.clock.advance(70)
    asyncio.run(control.deciding.answer(control.deciding.due(control.clock.wall_ns())))
    line = control.lines()[-1]
    assert (line["event"], line["timed"], line["admitted"]) == ("e2", True, True)
    assert control.opened[0].run.event.attributes["window"]["event_ids"] == ["e1", "e2"]


def no_space(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_loses_no_answer_and_doubles_none(control, monkeypatch):
    questions = control.deciding.hear([event(1), event(2)])
    with monkeypatch.context() as disk:
        disk.setattr(control.audit, "append_all", no_space)
        with pytest.raises(OSError, match="No space"):
            asyncio.run(control.deciding.answer(questions))
    asyncio.run(control.deciding.answer(questions))
    control.take(event(3))
    assert [line["event"] for line in control.lines()] == ["e1", "e2", "e3"]
    assert len(control.store.runs()[0]) == 1


def test_a_run_whose_first_answer_the_disk_refuses_is_not_lost(control, monkeypatch):
    questions = control.deciding.hear([event(1)])
    with monkeypatch.context() as disk:
        disk.setattr(OpenRun, "record", no_space)
        with pytest.raises(OSError, match="No space"):
            asyncio.run(control.deciding.answer(questions))
    asyncio.run(control.deciding.answer(questions))
    (left,) = open_unfinished(control.store, control.clock, "nobody drove it")
    assert asyncio.run(drive(control.operator, left, control.entry.runbook)).state is RunState.SUCCEEDED


BATCH, STORM_S = 500, 600


@pytest.fixture
def memory():
    """A directory that no disk has to sync, where there is memory for one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:
        yield Path(path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("fleet", "count", "throttle"), [(1000, 40_000, True), (10_000, 20_000, False)])
def test_a_storm_of_a_whole_fleet_loses_no_event_and_begins_few_runs(memory, entry, fleet, count, throttle):
    """Within ten minutes, through the intake's disk: each event answered once, no more runs let in than `storm` says,
    and those that it refuses do not grow with the fleet; a second delivery of everything changes nothing."""
    hosts = [f"host-{number}" for number in range(fleet)]
    told = []
    intake = Intake(str(memory / "intake"), lambda: True, lambda seq, event: told.append((seq, event)))
    control = Control(memory, with_trigger(entry, throttle={"once_within": "10m"}) if throttle else entry, hosts)
    events = [event(number, hosts[number % fleet], at_s=number * STORM_S / count) for number in range(count)]
    for begin in range(0, count, BATCH):
        intake.accept(events[begin : begin + BATCH])
        control.clock.advance(STORM_S * BATCH / count)
        asyncio.run(control.deciding.answer(control.deciding.hear(each for _, each in told[begin:])))
        control.finish()
    intake.accept(events)
    intake.close()

    assert [seq for seq, _ in told] == list(range(count))
    assert len(read_journal(str(memory / "intake")).entries) == count
    answered = Counter(line["event"] for line in control.lines())
    assert answered == {each.id: 1 for each in events}
    assert verify(str(memory / "decisions")).faults == ()
    runs = control.store.runs()[0]
    states = Counter(run.state for run in runs)
    most = entry.runbook.guards.storm.max_runs
    assert 1 <= states[RunState.SUCCEEDED] <= most
    assert states[RunState.SUCCEEDED] + states[RunState.REFUSED] == len(runs)
    assert states[RunState.REFUSED] <= STORM_S / REFUSAL_HOLDS_S + 1


def test_what_storm_refuses_on_one_host_is_refused_on_all_for_ten_seconds_and_then_asked_again(tmp_path, entry):
    storm = entry.runbook.guards.storm.model_copy(update={"max_runs": 1, "per": 60.0})
    guards = entry.runbook.guards.model_copy(update={"storm": storm})
    entry = replace(entry, runbook=entry.runbook.model_copy(update={"guards": guards}))
    control = Control(tmp_path, entry, [f"web-{number}" for number in range(60)])
    assert control.take(event(1, "web-1"))["admitted"]
    control.finish()
    first = control.take(event(2, "web-2"))
    assert "1 runs in the last 60.00 s" in first["why"]
    control.clock.advance(9)
    line = control.take(event(3, "web-3"))
    assert (line["run_id"], line["admitted"]) == (first["run_id"], False)
    assert line["why"].startswith("refused 9.00 s before on web-2, and so is this: ")
    control.clock.advance(55)
    assert control.take(event(4, "web-3"))["admitted"]


def test_what_is_refused_because_of_its_host_is_asked_on_another(tmp_path, entry):
    control = Control(tmp_path, entry, ("web-1", "web-2"))
    assert not control.take(event(1, "web-3"))["admitted"]
    assert control.take(event(2, "web-1"))["admitted"]


def test_names_that_nobody_knows_make_no_runs(tmp_path, entry):
    control = Control(tmp_path, entry, ("web-1", "web-2"))
    control.take(*(event(number, f"made-up-{number}") for number in range(50)))
    assert control.store.run_ids() == ()
    assert len(control.lines()) == 50
    assert {(line["admitted"], line["run_id"]) for line in control.lines()} == {(False, "")}
    assert control.lines()[7]["why"] == "scope: made-up-7 is not in the inventory, which has 2 hosts"
