"""Drives one run that asks people and dies, by SIGKILL, before or after its K-th journal line, or as a tick is written.

ask_driver.py STORE HOST_ROOT helps|hurts yes|no before|after|ticked K
"""

import asyncio
import sys
from dataclasses import replace

from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.runbook.catalog import load_entry
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from osremed.runbook.ticks import write_tick
from tests.crash.driver import EVENT, arm, die
from tests.support.acting import acts
from tests.support.module_executor import ModuleExecutor


def operator_on(store_dir, host_root, helps):
    return Operator(
        ModuleExecutor(host_root, helps=helps == "helps"),
        RunStore(store_dir),
        SystemClock(),
        frozenset({"node-1"}),
        restrict=acts,
    )


def drive_answered(operator, opened, says, *, dies_at_tick=0):
    """The run, driven to its end; a person answers each question with `says`."""

    async def answer(_seconds):
        number = opened.run.asked.number
        done = says == "yes"
        write_tick(opened.directory, opened.run, number, operator.clock, done=done, by="ana", words="seen")
        if number == dies_at_tick:
            die()

    try:
        runbook = operator.store.runbook_of(opened.run.run_id)
        return asyncio.run(drive(replace(operator, pause=answer), opened, runbook))
    finally:
        opened.close()


def main():
    store_dir, host_root, helps, says, when, number = sys.argv[1:]
    if when != "ticked":
        arm(when, int(number))
    operator = operator_on(store_dir, host_root, helps)
    event = Event("e1", "memory.near_oom", "node-1", operator.clock.wall_ns(), EVENT)
    opened = operator.store.create(event, load_entry("tests/crash/asks.yaml"), operator.clock)
    dies = int(number) if when == "ticked" else 0
    ended = drive_answered(operator, opened, says, dies_at_tick=dies)
    print(ended.state.value, operator.store.happenings(ended.run_id)[-1][1].kind)


if __name__ == "__main__":
    main()
