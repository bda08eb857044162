"""Guards hold when the change is made, not when they were first asked."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from osremed.core.clock import FakeClock
from osremed.core.files import exclusive_lock
from osremed.runbook.approvals import write_approval
from osremed.runbook.controls import Controls, Freeze, change_controls
from osremed.runbook.model import Recovered, RunState
from osremed.runbook.operate import Operator, attempt, drive
from osremed.runbook.state import Effect
from osremed.runbook.store import RunStore
from osremed.runbook.ticks import write_tick
from tests.unit.runbook.conftest import make_event
from tests.unit.runbook.test_after_success import BACK, UNASKED
from tests.unit.runbook.test_irreversible import HEAD, LIMIT, Host, entry_of
from tests.unit.runbook.test_person_step import DRAIN, TELL

HOSTS = tuple(f"node-{number}" for number in range(1, 5))
ONE_AN_HOUR = HEAD.replace("fleet: 1}", "fleet: 9}, blast_radius: {hosts: 1, per: 1h}")
WATCH = "\nwatch: [{probe: io.stall_ratio, better: lower, worse_by: 5%, within: 5s, for: 0s}]\n"


def frozen_by(path, since_ns=0):
    freeze = Freeze(by="ann", reason="fair", since_ns=since_ns)
    change_controls(str(path), lambda _said: Controls(freezes=(freeze,)))


class Slow(Host):
    """Measuring takes a while; `meanwhile` happens during the first look."""

    def __init__(self, meanwhile=lambda: None, **told):
        super().__init__(**told)
        self.meanwhile = meanwhile

    def run(self, call):
        if call.module.endswith("probe") and not any(name == "sysctl" for name, _ in self.asked):
            time.sleep(0.05)
            self.meanwhile()
        return super().run(call)


def operator(tmp_path, host, *, controls=""):
    clock = FakeClock()

    async def pause(seconds):
        """Nobody answers: the time goes by."""
        clock.advance(seconds)

    return Operator(host, RunStore(str(tmp_path / "runs")), clock, frozenset(HOSTS), str(controls), pause)


async def all_of(where, entry, hosts, attempt=attempt):
    opened = [where.store.create(make_event(host=host), entry, where.clock) for host in hosts]
    try:
        return await asyncio.gather(*(drive(where, each, entry.runbook, attempt) for each in opened))
    finally:
        for each in opened:
            each.close()


async def late(operator, effect, run, runbook, directory):
    """As where somebody else shows the run: between the answer and its being kept others have their turn."""
    happening = await attempt(operator, effect, run, runbook, directory)
    await asyncio.sleep(0.05)
    return happening


@pytest.mark.parametrize(
    ("watch", "attempt"),
    [(WATCH, attempt), (WATCH, late), ("", late)],
    ids=["measured first", "measured first and kept late", "kept late"],
)
def test_no_more_hosts_are_changed_than_the_blast_radius_allows_however_long_measuring_takes(tmp_path, watch, attempt):
    host = Slow()
    ended = asyncio.run(all_of(operator(tmp_path, host), entry_of(ONE_AN_HOUR + LIMIT + watch), HOSTS, attempt))
    assert sorted(run.state.value for run in ended) == ["REFUSED"] * 3 + ["SUCCEEDED"]
    assert [name for name, _args in host.asked].count("sysctl") == 1
    assert all(run.reason.startswith("blast-radius: ") for run in ended if run.state is RunState.REFUSED)


def test_of_two_runs_that_come_to_one_host_at_once_one_is_let_in(tmp_path):
    host = Host()
    where, entry = operator(tmp_path, host), entry_of(HEAD.replace("per_host: 1", "per_host: 9") + LIMIT)

    async def both():
        opened = [where.store.create(make_event(number), entry, where.clock) for number in (1, 2)]
        ended = await asyncio.gather(*(drive(where, each, entry.runbook, late) for each in opened))
        for each in opened:
            each.close()
        return ended

    ended = asyncio.run(both())
    assert sorted(run.state.value for run in ended) == ["REFUSED", "SUCCEEDED"]
    assert any(run.reason.startswith("target-busy: ") for run in ended)
    assert [name for name, _args in host.asked].count("sysctl") == 1


def test_a_clock_that_is_set_back_lets_no_younger_run_pass_the_one_that_waits(tmp_path):
    host, younger = Host(), []
    where = operator(tmp_path, host)
    asks = entry_of(HEAD + LIMIT + "    approval: {required: risk >= 'low', timeout: 5m}\n")
    other = entry_of(HEAD.replace("name: mixed", "name: other") + LIMIT)
    older = where.store.create(make_event(1, HOSTS[0]), asks, where.clock)

    async def meanwhile(_seconds):
        where.clock.advance(-30)
        event = make_event(2, HOSTS[0], at_ns=where.clock.wall_ns())
        opened = where.store.create(event, other, where.clock)
        younger.append(await drive(where, opened, other.runbook))
        opened.close()
        write_approval(older.directory, older.run, approved=True, by="ana", reason="")

    run = asyncio.run(drive(replace(where, pause=meanwhile), older, asks.runbook))
    older.close()
    assert younger[0].raised_ns < run.raised_ns
    assert younger[0].reason == f"target-busy: run {run.run_id} (mixed) is AWAITING_APPROVAL on {HOSTS[0]}"
    assert (run.state, [name for name, _args in host.asked]) == (RunState.SUCCEEDED, ["sysctl", "undo"])


@pytest.mark.parametrize("attempt", [attempt, late])
def test_a_freeze_while_it_is_measured_stops_the_change(tmp_path, attempt):
    controls = tmp_path / "controls"
    host = Slow(lambda: frozen_by(controls))
    where = operator(tmp_path, host, controls=controls)
    (run,) = asyncio.run(all_of(where, entry_of(HEAD + LIMIT + WATCH), HOSTS[:1], attempt))
    assert (run.state, host.asked) == (RunState.REFUSED, [])
    assert run.reason == "freeze: every runbook on every host is frozen by ann: fair"


def test_what_the_guards_said_last_is_what_is_kept(tmp_path):
    """A freeze after the answer, before it is kept."""
    controls = tmp_path / "controls"

    async def then_frozen(operator, effect, run, runbook, directory):
        happening = await attempt(operator, effect, run, runbook, directory)
        if effect is Effect.APPROVE:
            frozen_by(controls)
        return happening

    host = Host()
    where = operator(tmp_path, host, controls=controls)
    (run,) = asyncio.run(all_of(where, entry_of(HEAD + LIMIT), HOSTS[:1], then_frozen))
    assert (run.state, run.guards[-1].guard, host.asked) == (RunState.REFUSED, "freeze", [])


def test_while_another_process_is_at_the_gate_a_run_waits_and_the_others_of_its_own_go_on(tmp_path):
    host = Host()
    where = operator(tmp_path, host)
    at_the_gate, passed = threading.Event(), []

    async def waiting():
        running = asyncio.create_task(all_of(where, entry_of(HEAD + LIMIT), HOSTS[:1]))
        for _ in range(5):
            await asyncio.sleep(0.02)
            passed.append(where.store.load(where.store.run_ids()[0])[0].state)
        at_the_gate.set()
        return await asyncio.wait_for(running, 30)

    def another():
        with exclusive_lock(where.store.gate):
            held.set()
            assert at_the_gate.wait(30)

    held = threading.Event()
    thread = threading.Thread(target=another)
    thread.start()
    assert held.wait(30)
    (run,) = asyncio.run(waiting())
    thread.join()
    assert passed == [RunState.RAISED] * 5
    assert run.state is RunState.SUCCEEDED


NAMED = LIMIT.replace("- when:", "- id: limit\n    when:") + UNASKED
TWO = NAMED + LIMIT.replace("vm.swappiness: 10", "vm.dirty_ratio: 5")
SETS = {"vm.swappiness": 10}


class Freezing(Host):
    """Somebody freezes everything while the host makes its `after`th change."""

    def __init__(self, path, after, **told):
        super().__init__(**told)
        self.path, self.after = path, after

    @property
    def changed(self):
        return [args for name, args in self.asked if name != "undo"]

    def run(self, call):
        before = len(self.changed)
        answer = super().run(call)
        if before < len(self.changed) == self.after:
            frozen_by(self.path)
        return answer


def run_frozen(tmp_path, text, after, **told):
    controls = tmp_path / "controls"
    host = Freezing(controls, after, **told)
    (run,) = asyncio.run(all_of(operator(tmp_path, host, controls=controls), entry_of(HEAD + text), HOSTS[:1]))
    return run, host


@pytest.mark.parametrize("unreadable", [False, True])
def test_a_freeze_between_two_steps_stops_the_run_and_takes_back_what_it_did(tmp_path, monkeypatch, unreadable):
    if unreadable:
        monkeypatch.setitem(globals(), "frozen_by", lambda path: path.write_text("{"))
    run, host = run_frozen(tmp_path, TWO, 1)
    assert [args["settings"] for args in host.changed] == [SETS], "the second step was not begun"
    assert [(name, args.get("state")) for name, args in host.asked[1:]] == [("undo", "reverted")]
    assert (run.state, [undo.result for undo in run.undo]) == (RunState.UNDONE, ["restored"])
    assert run.reason.startswith("stopped before sysctl by freeze: ")
    assert ("cannot be read" in run.reason) is unreadable
    assert not run.guards[-1].passed


def test_a_freeze_after_the_last_step_lets_the_proof_end_and_taking_back_goes_on_under_it(tmp_path):
    run, _host = run_frozen(tmp_path / "helps", TWO, 2)
    assert run.state is RunState.SUCCEEDED, run.reason
    run, _host = run_frozen(tmp_path / "does not", TWO, 2, holds=False)
    assert (run.state, [undo.result for undo in run.undo]) == (RunState.UNDONE, ["restored"] * 2)


def test_a_freeze_between_the_gate_and_the_first_step_ends_the_run_with_nothing_changed(tmp_path):
    controls = tmp_path / "controls"

    async def frozen_first(operator, effect, run, runbook, directory):
        if effect is Effect.APPLY:
            frozen_by(controls)
        return await attempt(operator, effect, run, runbook, directory)

    host = Host()
    where = operator(tmp_path, host, controls=controls)
    (run,) = asyncio.run(all_of(where, entry_of(HEAD + TWO), HOSTS[:1], frozen_first))
    assert (run.state, host.asked, run.acted) == (RunState.REFUSED, [], False)
    assert run.reason == "freeze: every runbook on every host is frozen by ann: fair"


def test_a_freeze_between_two_remedies_of_a_chain_leaves_the_first_taken_back(tmp_path):
    run, host = run_frozen(tmp_path, TWO + "escalate: call ann\n", 1, holds=False)
    assert [args["settings"] for args in host.changed] == [SETS]
    assert (run.state, [undo.result for undo in run.undo]) == (RunState.UNDONE, ["restored"])
    assert "the next remedy was refused by freeze" in run.reason


def test_a_step_after_success_is_not_done_under_a_freeze_and_is_left_to_people(tmp_path):
    run, host = run_frozen(tmp_path, NAMED + BACK, 1)
    assert [args.get("settings") for args in host.changed] == [SETS], "the node was not given back"
    assert (run.state, run.undo) == (RunState.SUCCEEDED, ())
    assert "TO BE DONE BY HAND: gpu_drain" in run.reason
    assert "refused: freeze: every runbook on every host is frozen by ann: fair" in run.reason


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        (NAMED.replace("5m", "10m") + DRAIN, RunState.UNDONE, "frozen by ann: fair (asked for: Drain /demo"),
        (NAMED + TELL.replace("drained", "limit"), RunState.SUCCEEDED, "frozen by ann: fair (asked for: Tell the team"),
    ],
    ids=["among the steps", "after success"],
)
def test_under_a_freeze_no_person_is_asked_either(tmp_path, text, state, words):
    run, host = run_frozen(tmp_path, text, 1)
    assert (run.state, len(host.changed)) == (state, 1)
    assert words in run.reason
    assert run.answered[0].by == ""


def test_a_person_who_was_asked_before_the_freeze_is_waited_for_also_after_a_restart(tmp_path):
    """Who freezes everything to restart the control plane does not have what people are doing thrown away."""
    controls = tmp_path / "controls"
    entry = entry_of(HEAD + DRAIN)
    where = operator(tmp_path, Host(), controls=controls)
    opened = where.store.create(make_event(host=HOSTS[0]), entry, where.clock)
    waited = []

    class Killed(Exception):
        """Of the controller."""

    async def killed(_seconds):
        raise Killed

    async def ticked(_seconds):
        waited.append(opened.run.state)
        write_tick(opened.directory, opened.run, 1, where.clock, done=True, by="ana", words="seen")

    with pytest.raises(Killed):
        asyncio.run(drive(replace(where, pause=killed), opened, entry.runbook))
    where.clock.advance(1)
    frozen_by(controls, since_ns=where.clock.wall_ns())
    opened.record(Recovered("killed"), where.clock)
    run = asyncio.run(drive(replace(where, pause=ticked), opened, entry.runbook))
    opened.close()
    assert (run.state, waited, run.answered[0].by) == (RunState.SUCCEEDED, [RunState.AWAITING_PERSON], "ana")
