"""Guards hold when the change is made, not when they were first asked."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

from osremed.core.clock import FakeClock
from osremed.core.files import exclusive_lock_on
from osremed.runbook.controls import Controls, Freeze, change_controls
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, attempt, drive
from osremed.runbook.state import Effect
from osremed.runbook.store import RunStore
from tests.unit.runbook.conftest import make_event
from tests.unit.runbook.test_irreversible import HEAD, LIMIT, Host, entry_of

HOSTS = tuple(f"node-{number}" for number in range(1, 5))
ONE_AN_HOUR = HEAD.replace("fleet: 1}", "fleet: 9}, blast_radius: {hosts: 1, per: 1h}")
WATCH = "\nwatch: [{probe: io.stall_ratio, better: lower, worse_by: 5%, within: 5s, for: 0s}]\n"


def frozen_by(path, who="ann"):
    freeze = Freeze(by=who, reason="fair", since_ns=0)
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
    return Operator(host, RunStore(str(tmp_path / "runs")), FakeClock(), frozenset(HOSTS), str(controls))


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
        with exclusive_lock_on(where.store.directory, os.O_RDONLY | os.O_DIRECTORY, wait=True):
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
