"""One Prefect client for all runs of a process: few connections, and soon again what SQLite could not take at once.

When runs come at once, Prefect's server on SQLite answers some requests with 503, each when its read was overtaken by
another write. Prefect's client waits 2, 4, 8 and 16 s before it asks again, while nobody works; tried again after
tenths of a second they go through (Prefect 3.8, bench/runbook_flow.py). A client of its own for each run, which is
Prefect's way, has up to 16 connections each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from prefect import get_client
from prefect.context import AsyncClientContext
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED, temporary_settings

_CONNECTIONS = 4
_KEEPS_S = 25.0  # as Prefect's own client
_BUSY = 503
_TRIES = 8
_FIRST_S, _LONGEST_S = 0.05, 0.8


class SoonAgain(httpx.AsyncHTTPTransport):
    """Asks again what was answered with 503, up to 3 s long; who asked sees the last answer, and Prefect's own patience
    begins. That answer says that nothing was done."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        wait_s = _FIRST_S
        answer = await super().handle_async_request(request)
        for _ in range(_TRIES):
            if answer.status_code != _BUSY or "Retry-After" in answer.headers:
                break
            await answer.aclose()
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 spreads them, no secret
            wait_s = min(2 * wait_s, _LONGEST_S)
            answer = await super().handle_async_request(request)
        return answer


@asynccontextmanager
async def one_client() -> AsyncIterator[None]:
    """What is started within shares the client. Makes no request by itself: Prefect may be away.

    And events of Prefect's own (the states of tasks) are tried twice and not eleven times, 7 s each: all that wait are
    tried before the process ends, when Prefect is away as well. Those that failed go with the next that does not."""
    limits = httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_KEEPS_S)
    shared = AsyncClientContext()
    # Not by the context's own `httpx_settings`: with those, only who asks for the same ones is given this client.
    transport = SoonAgain(limits=limits, retries=3)
    shared.client = get_client(sync_client=False, httpx_settings={"transport": transport})
    async with AsyncExitStack() as stack:
        with temporary_settings({PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}):
            await stack.enter_async_context(shared)
        stack.callback(EventsWorker.set_client_override, None)
        EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=1)
        yield
