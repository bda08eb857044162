"""A canary whose driver is killed is found by the dispatcher and driven on: no host is changed twice."""

import asyncio
import signal
import subprocess
import sys

import pytest

from osremed.flows.canary_watch import CanaryWatch
from osremed.flows.settings import ControlPaths
from osremed.flows.verbs import publish_into
from osremed.runbook.canary import Stop
from osremed.runbook.fanout import load, write_stop
from osremed.runbook.model import RunState
from tests.crash.canary_driver import HOSTS, ID, operator_on
from tests.crash.test_crash import ROOT

#: planned, three waves, four hosts, ended
LINES = 9


def argv(state, *words):
    return [sys.executable, "-m", "tests.crash.canary_driver", state, *words]


def canaries_of(state):
    return ControlPaths(state).canaries


async def look_once(watch):
    """What a tick of the dispatcher takes, driven to its end. How many."""
    watch.look()
    tasks = watch.tasks
    await asyncio.gather(*tasks)
    return len(tasks)


def watch_of(state):
    async def at_once(_seconds):
        await asyncio.sleep(0)

    operator = operator_on(state, at_once)
    return CanaryWatch(operator, canaries_of(state), lambda run: publish_into(operator.store, run))


def changes(state):
    with open(f"{state}/changes", encoding="utf-8") as file:
        return [line.split()[0] for line in file]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(2, LINES + 1))
def test_a_canary_killed_at_this_line_is_driven_on_and_no_host_is_changed_twice(tmp_path, when, number):
    state = str(tmp_path)
    killed = subprocess.run(argv(state, when, str(number)), cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ended_before = load(canaries_of(state), ID).ended
    assert asyncio.run(look_once(watch_of(state))) == (0 if ended_before else 1)
    canary = load(canaries_of(state), ID)
    assert (canary.ended, canary.stopped) == (True, "")
    assert set(canary.outcomes) == set(HOSTS)
    for each in canary.outcomes.values():  # what its neighbour in the wave was doing is not known: it is taken back
        assert each.state is RunState.SUCCEEDED or "the controller stopped in" in each.reason
    changed = changes(state)
    assert len(changed) == len(set(changed))
    assert {each.host for each in canary.outcomes.values() if each.state is RunState.SUCCEEDED} <= set(changed)


def test_a_canary_that_somebody_drives_is_left_to_them_until_they_are_killed(tmp_path, capfd):
    state = str(tmp_path)
    with subprocess.Popen(argv(state, "rests", "0"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout.readline() == "rests\n"
            watch = watch_of(state)
            assert asyncio.run(look_once(watch)) == 0
            assert changes(state) == ["web-1"]
        finally:
            driver.kill()
    assert asyncio.run(look_once(watch)) == 1
    assert watch.tasks == []
    assert sorted(changes(state)) == list(HOSTS)
    assert f"a canary that nobody drives is driven on canary={ID}" in capfd.readouterr().err.replace('"', "")
    assert asyncio.run(look_once(watch)) == 0


def test_a_canary_that_was_stopped_while_nobody_drove_it_ends_without_touching_a_host(tmp_path):
    state = str(tmp_path)
    with subprocess.Popen(argv(state, "rests", "0"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout.readline() == "rests\n"
        driver.kill()
    write_stop(canaries_of(state), ID, Stop("ben", "enough", 1))
    assert asyncio.run(look_once(watch_of(state))) == 1
    assert load(canaries_of(state), ID).stopped == "ben stopped it: enough"
    assert changes(state) == ["web-1"]


def test_a_dispatcher_that_ends_leaves_the_canary_to_the_next_also_one_it_had_only_just_taken(tmp_path):
    state = str(tmp_path)
    with subprocess.Popen(argv(state, "rests", "0"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout.readline() == "rests\n"
        driver.kill()

    async def ends_at_once():
        watch = watch_of(state)
        watch.look()
        (task,) = watch.tasks
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)

    asyncio.run(ends_at_once())
    assert asyncio.run(look_once(watch_of(state))) == 1
    assert load(canaries_of(state), ID).ended


def test_a_canary_that_cannot_be_read_is_told_once_and_left_alone(tmp_path, capfd):
    state = str(tmp_path)
    (tmp_path / "canaries" / ID / "journal").mkdir(parents=True)
    watch = watch_of(state)
    assert asyncio.run(look_once(watch)) == asyncio.run(look_once(watch)) == 0
    assert capfd.readouterr().err.count("needs a human") == 1
