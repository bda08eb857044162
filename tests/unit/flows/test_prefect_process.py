"""Prefect's server on SQLite must not stand still because its event loop collects garbage. The same here in small: a
cursor in garbage, its connection waiting in a thread for the lock that the main thread has."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sqlite3, sys, threading, time
from osremed.flows.prefect_process import collect_beside

collect, waits_s = sys.argv[2] == "beside", float(sys.argv[3])
if collect:
    collect_beside()
holder = sqlite3.connect(sys.argv[1], isolation_level=None)
holder.execute("PRAGMA journal_mode=WAL")
waiter = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False, timeout=waits_s)
holder.execute("BEGIN IMMEDIATE")
said = []

def wait():
    began_s = time.monotonic()
    try:
        waiter.execute("BEGIN IMMEDIATE")
        said.append("has the lock")
    except sqlite3.OperationalError as error:
        # Not its words: the other thread resets a statement on this connection, and with it what the error says.
        waited = time.monotonic() - began_s > 0.9 * waits_s
        said.append("waited in vain" if waited else str(error))

thread = threading.Thread(target=wait)
cursor = waiter.cursor()
cursor.execute("PRAGMA busy_timeout")  # its row is not fetched: the statement is reset when the cursor ends
circle = [cursor]
circle.append(circle)
del cursor
thread.start()
time.sleep(0.5)
del circle
kept = []
for _ in range(200_000):  # collections, were they made here
    kept.append([])
time.sleep(0.6)  # and there
holder.execute("COMMIT")
thread.join()
print(*said)
"""


def outcome(tmp_path, how, waits_s):
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "some.db"), how, str(waits_s)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=240)
    return done.stdout.strip()


def test_who_has_the_lock_goes_on_while_garbage_waits_for_a_connection(tmp_path):
    assert outcome(tmp_path, "beside", 60) == "has the lock"


def test_without_it_the_lock_is_waited_for_in_vain(tmp_path):
    """Why it is there: fails once an interpreter or SQLite no longer waits, and then it can go."""
    assert outcome(tmp_path, "stock", 4) == "waited in vain"


def test_garbage_is_still_collected(tmp_path):
    program = """
import gc, time, weakref
from osremed.flows.prefect_process import collect_beside
class Circle: pass
collect_beside()
one = Circle(); one.itself = one
gone = weakref.ref(one); del one
kept = []
until = time.monotonic() + 30
while gone() is not None and time.monotonic() < until:
    kept += [[] for _ in range(1000)]
    time.sleep(0.01)
print(gone() is None, gc.isenabled())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False"]
