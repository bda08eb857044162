"""The reconciler as a deployment of Prefect: its schedule, its runs and their end are seen there.

One warm process makes the runs: a process a run, as `serve()` of Prefect has it, costs three seconds of CPU every
minute. The clock is ours. When Prefect is down the look is made without it: Git is the truth, Prefect shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort
from prefect.flow_engine import run_flow_async
from prefect.states import Cancelled, Pending
from prefect.utilities.engine import propose_state

from osremed.core.errors import OsremedError
from osremed.core.log import Log
from osremed.core.record import record
from osremed.flows.flow import PREFECT_FAILURES
from osremed.flows.gitops_flow import Plane, bring_objects, gitops_flow, look
from osremed.flows.listening import listen, serving
from osremed.flows.object_kinds import FLOW
from osremed.flows.webhook import webhook_app

_INTERVAL_S = 60.0  #: until the first look has read the source
_LOG = Log("gitops")


@record
class ServeSettings:
    """`webhook` is where wake-ups are taken: (address, port, secret), or None."""

    plane: Plane
    webhook: tuple[str, int, str] | None = None


class Reconciler:
    """`serve_until` looks once at the start, every interval, and when woken."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings, self._flow = settings, gitops_flow(settings.plane, self._on_status)
        self._wanted: dict[str, Any] = {}
        self._deployment: UUID | None = None
        self._looks = 0

    def _on_status(self, status: dict[str, Any]) -> None:
        self._wanted, self._looks = status["wanted"], self._looks + 1

    @property
    def _interval_s(self) -> float:
        return float(self._wanted.get("interval_s", _INTERVAL_S))

    async def serve_until(self, stop: asyncio.Event) -> None:
        """A look under way is ended with it; the next one finishes what it began."""
        woken, loop = asyncio.Event(), asyncio.get_running_loop()
        with self._webhook(lambda: loop.call_soon_threadsafe(woken.set)):
            looking = asyncio.create_task(self._look_on(woken, stop))
            told = asyncio.create_task(stop.wait())
            await asyncio.wait([looking, told], return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                looking.result()  # it never ends by itself: what broke it is an error
            told.cancel()
            looking.cancel()
            await asyncio.wait([looking])
            if not looking.cancelled() and looking.exception():
                _LOG.warning("a look was under way", ended=str(looking.exception())[:500])

    async def _look_on(self, woken: asyncio.Event, stop: asyncio.Event) -> None:
        """Cancelled in the middle of a flow, Prefect's engine answers and goes on: so `stop` is asked, too."""
        began_s = time.monotonic()
        await self._bare("the first look")
        while not stop.is_set():
            due_s = max(1.0, began_s + self._interval_s - time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), due_s)
            wake, began_s = woken.is_set(), time.monotonic()
            woken.clear()
            shown = bool(self._wanted) and await self._shown(wake=wake)
            if not shown and not stop.is_set():
                await self._bare("Prefect does not let it")

    @contextlib.contextmanager
    def _webhook(self, wake: Any) -> Iterator[None]:
        if self._settings.webhook is None:
            yield
            return
        host, port, secret = self._settings.webhook
        listener = listen("webhook", host, port)
        with serving("webhook", webhook_app(secret, wake), listener):
            _LOG.info("ready", webhook=f"http://{host}:{listener.getsockname()[1]}/v1/wake")
            yield

    async def _shown(self, *, wake: bool) -> bool:
        """One look as a flow run; False if Prefect did not let it begin."""
        before = self._looks
        try:
            if self._deployment is None:
                self._deployment = await _deploy(self._wanted)
            run = await self._claim(self._deployment, wake=wake)
            await run_flow_async(self._flow, flow_run=run, parameters={}, return_type="state")
        except (*PREFECT_FAILURES, Abort) as error:
            _LOG.error("Prefect failed", error=str(error)[:500])
            self._deployment = None  # made anew: somebody may have removed it
        return self._looks != before

    async def _claim(self, deployment: UUID, *, wake: bool) -> FlowRun:
        """The newest run that Prefect scheduled until now, which covers those before it; if it has none, a new one:
        its scheduler looks ahead once a minute, and a look does not wait for it."""
        async with get_client() as client:
            due = await client.get_scheduled_flow_runs_for_deployments(
                [deployment], scheduled_before=datetime.now(timezone.utc)
            )
            due.sort(key=lambda run: str(run.expected_start_time))
            if wake or not due:
                due.append(await client.create_flow_run_from_deployment(deployment, tags=["woken"] if wake else []))
            for late in due[:-1]:
                await client.set_flow_run_state(late.id, Cancelled(message="a later look covers it"))
            await propose_state(client, Pending(), flow_run_id=due[-1].id)
            return await client.read_flow_run(due[-1].id)

    async def _bare(self, why: str) -> None:
        """A look that Prefect does not see."""
        try:
            status = await look(self._settings.plane)
            self._on_status(status)
            tell = _LOG.info if status["ready"] else _LOG.error
            tell("looked without Prefect", because=why, reason=status["reason"], why=status["message"])
        except OsremedError as error:
            _LOG.error("cannot look now, the live rules stay", error=str(error))


async def _deploy(wanted: dict[str, Any]) -> UUID:
    """Brings Prefect's objects, the deployment among them, to what is wanted; the deployment's id."""
    for each in await bring_objects(wanted):
        if each.bad:
            _LOG.error("Prefect is not as wanted", kind=each.kind, name=each.name, why=each.detail)
    async with get_client() as client:
        return (await client.read_deployment_by_name(f"{FLOW}/{wanted['owner']}")).id
