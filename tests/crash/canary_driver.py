"""Drives one canary over replayed hosts and dies, by SIGKILL, before or after the K-th line of its journal; or rests
for ever between its first two waves and says so.

canary_driver.py STATE before|after|rests K
"""

import asyncio
import os
import signal
import sys

from osremed.core.clock import SystemClock
from osremed.core.journal import Journal
from osremed.flows.settings import ControlPaths
from osremed.runbook.canary import Planned
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.catalog import load_entry
from osremed.runbook.fanout import begin, roll
from osremed.runbook.operate import Operator
from osremed.runbook.store import RunStore
from tests.support.acting import acts

CASE = "runbooks/near-oom/cases/policy-too-low.yaml"
HOSTS = ("web-1", "web-2", "web-3", "web-4")
ID = "0123456789abcdef"


class Hosts(ReplayedHost):
    """Each change is a line of a file: which host, and by which process."""

    def __init__(self, state):
        super().__init__(load_case(CASE).given)
        self.changes = os.path.join(state, "changes")

    def run(self, call):
        if call.module.endswith("fastoom_policy") and not call.check:
            with open(self.changes, "a", encoding="utf-8") as file:
                file.write(f"{call.host} {os.getpid()}\n")
        return super().run(call)


def operator_on(state, pause=asyncio.sleep):
    store = RunStore(ControlPaths(state).runs)
    return Operator(
        Hosts(state),
        store,
        SystemClock(),
        frozenset(f"web-{number}" for number in range(400)),
        pause=pause,
        restrict=acts,
    )


def planned_on(state, settle_s=0.0):
    """The canary on disk; nobody drives it yet."""
    entry = load_entry("runbooks/near-oom/runbook.yaml")
    attributes = load_case(CASE).given.event["attributes"]
    planned = Planned(ID, "near-oom", entry.digest, HOSTS, attributes, 1.0, settle_s, "ann", 1)
    begin(ControlPaths(state).canaries, planned, entry)


def arm(when, number):
    real, seen = Journal.append, 0

    def append(self, rec):
        nonlocal seen
        counts = "canaries" in self.directory
        seen += counts
        if counts and when == "before" and seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        seq = real(self, rec)
        if counts and when == "after" and seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return seq

    Journal.append = append


async def for_ever(_seconds):
    print("rests", flush=True)
    await asyncio.sleep(3600)


def main():
    state, when, number = sys.argv[1:]
    if when != "rests":
        arm(when, int(number))
    planned_on(state, 3600.0 if when == "rests" else 0.0)
    operator = operator_on(state, for_ever if when == "rests" else asyncio.sleep)
    asyncio.run(roll(operator, ControlPaths(state).canaries, ID))


if __name__ == "__main__":
    main()
