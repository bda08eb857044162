"""A canary as people watch it in Prefect: one flow run, a task a wave, at its end where it stands. It only reads: who
drives the canary knows nothing of it and never waits for it."""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import Any

from prefect import flow, get_run_logger, tags, task
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from osremed.core.errors import OsremedError
from osremed.core.files import write_atomic
from osremed.core.log import Log
from osremed.flows.flow import PREFECT_FAILURES, end_abandoned
from osremed.report.text import show_markdown
from osremed.runbook.canary import Canary, HostEnded, fate
from osremed.runbook.fanout import Followed, canary_ids, load, place_of

_LOOK_S = 1.0
_AGAIN_S = 30.0
_LOG = Log("canary-flow")


class CanaryShow:
    """`look` begins to show what Prefect does not show yet, each canary once; call it while Prefect answers."""

    def __init__(self, canaries: str, console: str = "") -> None:
        """`console`, the URL of its pages, is what the flow runs link to."""
        self._canaries, self._console = canaries, console
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._done: set[str] = set()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._under_way.values())

    def look(self) -> None:
        names = canary_ids(self._canaries)
        self._done.intersection_update(names)
        for canary_id in names:
            if canary_id not in self._under_way and canary_id not in self._done:
                task = self._under_way[canary_id] = asyncio.create_task(self._show(canary_id))
                task.add_done_callback(partial(self._let_go, canary_id))

    def _let_go(self, canary_id: str, _task: asyncio.Task[None]) -> None:
        del self._under_way[canary_id]

    async def _show(self, canary_id: str) -> None:
        """A canary that cannot be read is left out: others tell of it. When Prefect fails it is shown anew later."""
        try:
            if not is_shown(self._canaries, canary_id):
                await end_abandoned(_tag(canary_id), "its dispatcher was ended; the canary goes on in a new flow run")
                await show_canary(self._canaries, canary_id, self._console)
            self._done.add(canary_id)
        except OsremedError:
            self._done.add(canary_id)
        except PREFECT_FAILURES as error:
            _LOG.error("Prefect failed, the canary goes on", canary=canary_id, error=str(error))
            await asyncio.sleep(_AGAIN_S)


def _tag(canary_id: str) -> str:
    return f"canary:{canary_id}"


def is_shown(canaries: str, canary_id: str) -> bool:
    """Whether Prefect was told of its end, or it ended before canaries were shown at all."""
    canary = load(canaries, canary_id)
    return canary.ended and (not canary.planned.at_ns or os.path.exists(place_of(canaries, canary_id, "shown")))


async def show_canary(canaries: str, canary_id: str, console: str = "") -> None:
    """Returns when the canary has ended and Prefect has been told. Raises what Prefect raises."""
    followed = Followed(canaries, canary_id)
    planned = followed.now().planned

    @flow(name="canary", flow_run_name=f"{planned.runbook} canary {canary_id}", persist_result=False)
    async def canary_flow(canary_id: str, runbook: str, hosts: int) -> State[Any]:  # noqa: ARG001 shown as parameters
        write_atomic(place_of(canaries, canary_id, "flow_run"), f"{flow_run.id}\n".encode("ascii"), mode=0o600)
        if console:
            words = "this canary in osremed's console"
            key = f"console-canary-{canary_id}"
            await acreate_link_artifact(f"{console}/canaries/{canary_id}", link_text=words, key=key)
        number = 0
        while not (canary := followed.now()).ended or number < len(canary.waves):
            if number < len(canary.waves):
                number += 1
                await _wave_as_task(followed, number)
            else:
                await asyncio.sleep(_LOOK_S)
        told = canary.stopped or "every host had its run"
        body, description = as_markdown(canary, console), str(show_markdown(told))
        await acreate_markdown_artifact(body, key=f"canary-{canary_id}", description=description)
        write_atomic(place_of(canaries, canary_id, "shown"), b"", mode=0o600)
        return prefect_state(canary)

    with tags(_tag(canary_id), f"{planned.runbook}@{planned.digest[:8]}"):
        await canary_flow(canary_id, planned.runbook, len(planned.hosts), return_state=True)
    if not is_shown(canaries, canary_id):
        raise RuntimeError("the flow run ended before the canary did")


async def _wave_as_task(followed: Followed, number: int) -> None:
    """Until each of its hosts has come to its end, or the canary has."""

    @task(name=f"wave {number}", cache_policy=NO_CACHE, persist_result=False)
    async def wave_task() -> Any:
        log, told = get_run_logger(), set[str]()
        log.info("%s", ", ".join(followed.now().waves[number - 1]))
        while True:
            canary = followed.now()
            wave = canary.waves[number - 1]
            ended = [canary.outcomes[host] for host in wave if host in canary.outcomes]
            for each in ended:
                if each.host not in told:
                    told.add(each.host)
                    level = logging.WARNING if fate(each) == "failed" else logging.INFO
                    log.log(level, "%s: %s %s", each.host, each.state.value, each.reason)
            if canary.ended or len(ended) == len(wave):
                return _wave_state(ended, len(wave))
            await asyncio.sleep(_LOOK_S)

    begun: Any = wave_task(return_state=True)  # typed as if it were no coroutine
    await begun


def _wave_state(ended: list[HostEnded], hosts: int) -> State[Any]:
    failed = [each for each in ended if fate(each) == "failed"]
    if failed:
        return Failed(message=f"{len(failed)} of {hosts} hosts were not kept")
    return Completed(message=f"{len(ended)} of {hosts} hosts came to their end")


def prefect_state(canary: Canary) -> State[Any]:
    """The end of a canary in Prefect's words."""
    if canary.stopped:
        return Failed(name="STOPPED", message=canary.stopped)
    return Completed(name="DONE", message="every host had its run")


def as_markdown(canary: Canary, console: str) -> str:
    """Where it stands, a table a wave; each run leads to its page in the console. Words of hosts are no markup."""
    lines = [f"**{show_markdown(canary.stopped or 'every host had its run')}**", ""]
    for number, wave in enumerate(canary.waves, 1):
        lines += [f"## Wave {number}", "", "| host | state | run | why |", "|---|---|---|---|"]
        lines += [_row(host, canary.outcomes.get(host), console) for host in wave]
        lines.append("")
    if canary.untouched:
        lines += ["## Untouched", "", ", ".join(str(show_markdown(host)) for host in canary.untouched), ""]
    return "\n".join(lines)


def _row(host: str, ended: HostEnded | None, console: str) -> str:
    if ended is None:
        return f"| {show_markdown(host)} | untouched | | |"
    run = f"[{ended.run_id}]({console}/runs/{ended.run_id})" if console else ended.run_id
    return f"| {show_markdown(host)} | {ended.state.value} | {run} | {show_markdown(ended.reason)} |"
