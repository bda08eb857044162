"""Drives one run through Ansible on this machine and dies, by SIGKILL, before or after its K-th journal line, or as
soon as the change is seen on the host.

crash_driver.py DIRECTORY before|after|seen K
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.executor.runner import AnsibleExecutor, Inventory
from osremed.runbook.catalog import load_entry
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from tests.crash.driver import arm, die
from tests.support.console_state import ROOT


def operator_of(directory: Path) -> Operator:
    """As a dispatcher has it; the executor first ends what a killed one left."""
    executor = AnsibleExecutor(str(directory / "hosts.json"), str(ROOT / "collections"), str(directory / "work"))
    return Operator(executor, RunStore(str(directory / "runs")), SystemClock(), Inventory(executor))


def die_when_changed(path: Path) -> None:
    before = path.read_bytes()

    def watch() -> None:
        while path.read_bytes() == before:
            time.sleep(0.0005)
        die()

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    directory, when, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    operator = operator_of(directory)
    if when == "seen":
        die_when_changed(directory / "changed")
    else:
        arm(when, number)
    entry = load_entry(str(directory / "settings/runbook.yaml"))
    opened = operator.store.create(
        Event("e1", "test.asked", "here", operator.clock.wall_ns(), {}), entry, operator.clock
    )
    if opened is not None:
        asyncio.run(drive(operator, opened, entry.runbook))
    os._exit(0)  # the warm ansible-playbook ends with this process


if __name__ == "__main__":
    main()
