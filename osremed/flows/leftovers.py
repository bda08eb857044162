"""Flow runs that say Running though their run has ended: Prefect did not answer at its end, or the dispatcher was
killed between the run's last line and what it tells Prefect."""

from __future__ import annotations

from typing import Any

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Crashed

from osremed.core.errors import OsremedError
from osremed.flows.flow import FLOW, RUN_TAG, prefect_state
from osremed.runbook.model import Run
from osremed.runbook.store import RunStore

_PAGE = 200
_OPEN = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
#: Who has just written a run's last line tells Prefect itself.
SETTLES_S = 30.0


async def settle_flow_runs(store: RunStore, now_ns: int) -> int:
    """Gives the flow runs of this store's runs that have long ended the end of their run; how many. Raises what Prefect
    raises."""
    settled = 0
    async with get_client() as client:
        for each in await _said_to_be_open(client):
            run = _ended_run(store, each, now_ns)
            if run is not None:
                end = await _end_of(client, each, run)
                await client.set_flow_run_state(each.id, end, force=True)
                settled += 1
    return settled


async def _said_to_be_open(client: PrefectClient) -> list[FlowRun]:
    """The newest first."""
    found: list[FlowRun] = []
    while page := await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(state=_OPEN),
        sort=FlowRunSort.START_TIME_DESC,
        limit=_PAGE,
        offset=len(found),
    ):
        found += page
    return found


def _ended_run(store: RunStore, shown: FlowRun, now_ns: int) -> Run | None:
    """None for a run that goes on, has ended just now, or is another control plane's."""
    run_id = next((tag.removeprefix(RUN_TAG) for tag in shown.tags if tag.startswith(RUN_TAG)), "")
    try:
        run, _effect = store.load(run_id)
    except (OsremedError, OSError):  # not of this store, or not to be read: `recover` says so
        return None
    return run if run.ended and now_ns - run.updated_ns >= SETTLES_S * 1e9 else None


async def _end_of(client: PrefectClient, shown: FlowRun, run: Run) -> State[Any]:
    """That of its run for the last one of it; each before was left by a dispatcher that was killed."""
    same = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"{RUN_TAG}{run.run_id}"]))
    (last,) = await client.read_flow_runs(flow_run_filter=same, sort=FlowRunSort.START_TIME_DESC, limit=1)
    if last.id == shown.id:
        return prefect_state(run)
    return Crashed(message="its dispatcher was killed; the run went on in another flow run")
