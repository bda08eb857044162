"""Takes a kept run back and dies, by SIGKILL, before or after the K-th journal line, or inside the change itself.

undo_driver.py STORE HOST_ROOT before|after|inside K
"""

import sys

from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.runbook.catalog import load_entry
from tests.crash.driver import EVENT, arm
from tests.support.kept import ask, drive_answered, kept_run, operator_on


def main():
    store_dir, host_root, when, number = sys.argv[1:]
    where = operator_on(store_dir, host_root)
    event = Event("e1", "memory.near_oom", "node-1", SystemClock().wall_ns(), EVENT)
    old = kept_run(where, load_entry("runbooks/near-oom/runbook.yaml"), event)
    arm(when, int(number))
    ended = drive_answered(where, ask(where, old))
    print(ended.state.value, where.store.happenings(ended.run_id)[-1][1].kind)


if __name__ == "__main__":
    main()
