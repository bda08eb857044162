"""Prefect's command line with garbage collected in a thread of its own: how its server is started here.

A cursor of SQLite that ends in the garbage collector resets its statement, and that waits for the mutex of its
connection. When the connection, lent to somebody else meanwhile, waits in its own thread for SQLite's lock, and who has
that lock needs the event loop to go on, and the event loop happens to be who collects, then all of the server stands
still until the busy timeout of 60 s has passed ("database is locked"). Seen by py-spy in Prefect 3.8 on Python 3.11
when 30 runs came at once. A thread of its own may wait there: the interpreter is free meanwhile."""

from __future__ import annotations

import gc
import threading
import time

_LOOKS_S = 0.25
_WHOLE_S = 60.0  #: a collection of everything takes a fifth of a second of CPU here


def collect_beside() -> None:
    """From now on garbage is collected by a thread, for as long as the process lives."""
    thresholds = gc.get_threshold()
    gc.disable()
    threading.Thread(target=_collect, args=(thresholds[0], thresholds[1]), name="garbage", daemon=True).start()


def _collect(most_objects: int, most_collections: int) -> None:
    """The young as the interpreter does, looked at four times a second; everything once a minute."""
    next_s = time.monotonic() + _WHOLE_S
    while True:
        time.sleep(_LOOKS_S)
        objects, collections, _ = gc.get_count()
        if time.monotonic() >= next_s:
            gc.collect()
            next_s = time.monotonic() + _WHOLE_S
        elif collections > most_collections:
            gc.collect(1)
        elif objects > most_objects:
            gc.collect(0)


def main() -> None:
    from prefect.cli import app  # noqa: PLC0415 its imports are the larger part of what there is to collect

    collect_beside()
    app()


if __name__ == "__main__":
    main()
