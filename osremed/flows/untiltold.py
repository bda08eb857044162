"""Serving until a signal says stop, in a thread of its own: in the main one Prefect takes SIGTERM over for as long as a
flow runs, and ends the process with a traceback, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def serve_until_told(
    serve: Callable[[asyncio.Event], Coroutine[Any, Any, None]], on_hangup: Callable[[], object] | None = None
) -> None:
    """Runs `serve(stop)` to its end; SIGTERM and SIGINT set `stop`, SIGHUP calls `on_hangup` in the same loop. For the
    main thread alone. Raises what `serve` raises."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def tell(call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has just ended
            loop.call_soon_threadsafe(call)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: tell(stop.set))
    if on_hangup is not None:
        signal.signal(signal.SIGHUP, lambda *_: tell(on_hangup))

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve(stop))
        finally:
            loop.close()  # what `serve` has left behind would not end when cancelled: nobody waits for it

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="serve") as pool:
        pool.submit(run).result()
