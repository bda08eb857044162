"""Drives one run and dies, by SIGKILL, before or after its K-th journal line, or inside the change itself.

driver.py STORE HOST_ROOT helps|hurts before|after|inside|scheduler K [RUNBOOK]
"""

import asyncio
import os
import signal
import sys

from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.core.journal import Journal
from osremed.runbook.catalog import load_entry
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from tests.support.acting import acts
from tests.support.module_executor import ModuleExecutor, _change

EVENT = {"level": "high", "sensitivity": "low", "scope": "/demo", "available_ratio": 0.03, "limit_bytes": 1 << 29}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(when, number):
    """Every journal line goes through here; the K-th one is the last thing this process sees."""
    if when == "inside":
        write = _change.put_state

        def put_state(*args):
            if number == 1:
                write(*args)
            die()

        _change.put_state = put_state
        return
    if when == "scheduler":
        arm_scheduler(number)
        return
    real, seen = Journal.append, 0

    def append(self, rec):
        nonlocal seen
        seen += 1
        if when == "before" and seen == number:
            die()
        seq = real(self, rec)
        if when == "after" and seen == number:
            die()
        return seq

    Journal.append = append


def arm_scheduler(number):
    """Inside its K-th change, an odd K before it is made and an even one after."""
    real, seen = ModuleExecutor.kubectl, 0

    def kubectl(self, words, timeout_s, changed=False):
        nonlocal seen
        seen += 2 * (words[1] != "get")
        if words[1] != "get" and seen - 1 == number:
            die()
        told = real(self, words, timeout_s, changed)
        if words[1] != "get" and seen == number:
            die()
        return told

    ModuleExecutor.kubectl = kubectl


def main():
    store_dir, host_root, helps, when, number, *path = sys.argv[1:]
    arm(when, int(number))
    clock = SystemClock()
    operator = Operator(
        ModuleExecutor(host_root, helps=helps == "helps"),
        RunStore(store_dir),
        clock,
        frozenset({"node-1"}),
        restrict=acts,
    )
    entry = load_entry(path[0] if path else "runbooks/near-oom/runbook.yaml")
    event = Event("e1", "memory.near_oom", "node-1", clock.wall_ns(), EVENT)
    opened = operator.store.create(event, entry, clock)
    if opened is not None:
        ended = asyncio.run(drive(operator, opened, entry.runbook))
        print(ended.state.value, operator.store.happenings(ended.run_id)[-1][1].kind)


if __name__ == "__main__":
    main()
