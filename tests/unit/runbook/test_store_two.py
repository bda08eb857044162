"""Two that want the same run: one has it, whoever comes first, also if the other has ended by then."""

from __future__ import annotations

import subprocess
import sys

from osremed.core.journal import read_journal
from osremed.runbook.store import RunStore

EVENTS = 150

CREATES = """
import sys
from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.runbook.catalog import load_entry
from osremed.runbook.store import RunStore
store, entry, won = RunStore(sys.argv[1]), load_entry("runbooks/near-oom/runbook.yaml"), 0

def created(event):
    while True:
        try:
            return store.create(event, entry, SystemClock())
        except BlockingIOError:  # the other makes it now: the dispatcher asks again, too
            continue

print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    opened = created(Event(f"e{number}", "memory.near_oom", "web-1", 1))
    if opened is not None:
        won += 1
        opened.close()
print(won, flush=True)
"""


def test_two_processes_that_make_the_same_runs_make_each_once(tmp_path):
    argv = [sys.executable, "-c", CREATES, str(tmp_path), str(EVENTS)]
    both = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        assert one.stdout.readline() == "ready\n"
    for one in both:
        one.stdin.write("go\n")
        one.stdin.flush()
    won = [int(one.communicate(timeout=240)[0]) for one in both]
    assert sum(won) == EVENTS
    store = RunStore(str(tmp_path))
    journals = [read_journal(store.of(run_id).journal).entries for run_id in store.run_ids()]
    assert [len(entries) for entries in journals] == [1] * EVENTS
