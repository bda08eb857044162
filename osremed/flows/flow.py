"""One flow for every runbook: the run's effects as Prefect tasks, so that people can watch them. Prefect shows the run;
the journal owns it."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

import httpx
from prefect import flow, get_client, get_run_logger, tags, task
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State, StateType
from prefect.context import TagsContext
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed

from osremed.core.action import Status
from osremed.core.files import write_atomic
from osremed.core.log import Log
from osremed.core.probe import Verdict
from osremed.report.text import show_markdown
from osremed.runbook.document import Runbook
from osremed.runbook.gate import restrictions_on
from osremed.runbook.model import (
    Applied,
    Approved,
    Collected,
    Confirmed,
    Decided,
    Finished,
    Happening,
    PersonAnswered,
    Refused,
    Run,
    RunState,
    Undone,
    Verified,
)
from osremed.runbook.modes import mode_of
from osremed.runbook.operate import Operator, attempt, drive
from osremed.runbook.state import Effect
from osremed.runbook.store import OpenRun, RunDirectory

#: The run's report as Markdown; may also write files beside the run.
Publish = Callable[[Run], str]

#: What Prefect's client raises when its server is gone or refuses.
PREFECT_FAILURES = (PrefectException, httpx.HTTPError, OSError, TimeoutError, RuntimeError)
FLOW = "runbook"
RUN_TAG = "run:"
_LINK_LIMIT_S = 10.0
_COMMIT_SHOWN = 12
_LOG = Log("flow")
_GREEN = frozenset({RunState.SUCCEEDED, RunState.REFUSED})


def prefect_state(run: Run) -> State[Any]:
    """The end of a run in Prefect's words: its own state as the name, the reason as the message. A change that was
    taken back is not green."""
    make = Completed if run.state in _GREEN else Failed
    return make(name=run.state.value, message=run.reason)


async def show_run(operator: Operator, opened: OpenRun, runbook: Runbook, publish: Publish, console: str = "") -> Run:
    """Drives the run to its end inside a Prefect flow run named `<runbook> <host>`, then publishes its report there.
    Each finds the other: the flow run's id lies beside the run's journal, and with `console`, the URL of its pages, the
    flow run has a link to the run's.

    Once begun, the run ends whatever Prefect does. Raises what Prefect raises when the flow cannot even begin, or when
    the report cannot be published."""

    async def attempt_as_task(
        operator: Operator, effect: Effect, run: Run, runbook: Runbook, directory: RunDirectory
    ) -> Happening:
        """The effect is tried once, whatever Prefect does: its answer is kept outside the task."""
        answers: list[Happening] = []

        @task(name=effect.value, cache_policy=NO_CACHE, persist_result=False)
        async def effect_task() -> None:
            if run.asked:
                get_run_logger().info("a person is asked to do step %d: %s", run.asked.number, run.asked.instruction)
            answers.append(await attempt(operator, effect, run, runbook, directory))
            level = logging.INFO if _is_good(answers[0]) else logging.WARNING
            get_run_logger().log(level, "%s", talk(answers[0]))

        try:
            # Without the flow run's tags: for each tag of a task Prefect asks its server for a slot of a limit by that
            # name, and on SQLite those requests are refused when runs come at once.
            with TagsContext(current_tags=set()):
                await effect_task()
        except PREFECT_FAILURES as error:
            _LOG.error("Prefect failed, the run goes on", run=run.run_id, effect=effect.value, error=str(error))
        return answers[0] if answers else await attempt(operator, effect, run, runbook, directory)

    @flow(name=FLOW, flow_run_name=f"{opened.run.runbook} {opened.run.host}", persist_result=False)
    async def run_flow(run_id: str, runbook_name: str, host: str) -> State[Any]:  # noqa: ARG001 shown as parameters
        linking = asyncio.create_task(_link(opened, console))
        ended = await drive(operator, opened, runbook, attempt_as_task)
        await linking
        description = str(show_markdown(ended.reason))  # Prefect draws it as Markdown
        await acreate_markdown_artifact(publish(ended), key=f"run-{run_id}", description=description)
        return prefect_state(ended)

    run = opened.run
    mode = mode_of(runbook, *restrictions_on(operator, run))
    with tags(*run_tags(run, unasked=mode.auto)):
        await run_flow(run.run_id, run.runbook, run.host, return_state=True)
    return opened.run


async def _link(opened: OpenRun, console: str) -> None:
    """Beside the run, which does not wait for it; gives up when Prefect does not answer in time."""
    run_id = opened.run.run_id
    try:
        write_atomic(opened.directory.flow_run, f"{flow_run.id}\n".encode("ascii"), mode=0o600)
        if console:
            words = "this run in osremed's console"
            making = acreate_link_artifact(f"{console}/runs/{run_id}", link_text=words, key=f"console-{run_id}")
            await asyncio.wait_for(making, _LINK_LIMIT_S)
    except PREFECT_FAILURES as error:
        _LOG.error("no link between the run and its flow run", run=run_id, error=str(error))


def run_tags(run: Run, *, unasked: bool) -> tuple[str, ...]:
    """What people filter by in Prefect; the first names the run. `unasked`: its mode lets it act by itself. A run that
    takes another one back never does."""
    mode = "auto" if unasked and not run.undoes else "suggest"
    commit = (f"commit:{run.rules_commit[:_COMMIT_SHOWN]}",) if run.rules_commit else ()
    runbook = f"{run.runbook}@{run.runbook_digest[:8]}"
    return _tag_of(run), runbook, f"host:{run.host}", f"mode:{mode}", *commit


def _tag_of(run: Run) -> str:
    return f"{RUN_TAG}{run.run_id}"


def _is_good(happening: Happening) -> bool:
    if isinstance(happening, Verified):
        return all(each.verdict is Verdict.HOLDS for each in happening.results)
    if isinstance(happening, (Applied, Finished)):
        return happening.outcome.status is Status.OK
    if isinstance(happening, PersonAnswered):
        return happening.done and all(guard.passed for guard in happening.guards)
    return not isinstance(happening, (Refused, Undone))


@functools.singledispatch
def talk(happening: Happening) -> str:
    """What a person reads in the run's log."""
    return f"{happening.kind}: {getattr(happening, 'detail', '')}"


@talk.register
def _(happening: Collected) -> str:
    return "\n".join(
        [
            f"evidence {happening.bundle[:12]}",
            *(f"no evidence from {name}: {why}" for name, why in happening.gaps.items()),
        ]
    )


@talk.register
def _(happening: Decided) -> str:
    found = [f"finding {finding.name}: {finding.summary}" for finding in happening.findings] or ["no finding"]
    steps = [f"plan: {step.action} ({step.risk} risk)\n{step.diff}" for step in happening.plan.steps]
    return "\n".join([*found, *happening.notes, *(steps or ["nothing to change"]), *happening.plan.order])


@talk.register
def _(happening: Approved) -> str:
    return "\n".join([happening.by, *(f"guard {guard.guard}: {guard.detail}" for guard in happening.guards)])


@talk.register
def _(happening: Applied) -> str:
    return f"step {happening.step}: {happening.outcome.status.value} {happening.outcome.detail}".strip()


@talk.register
def _(happening: PersonAnswered) -> str:
    guards = (f"guard {guard.guard}: {guard.detail}" for guard in happening.guards)
    return "\n".join([f"step {happening.number} {happening.said}", *guards])


@talk.register
def _(happening: Finished) -> str:
    return f"after success {happening.step}: {happening.outcome.status.value} {happening.outcome.detail}".strip()


@talk.register
def _(happening: Verified) -> str:
    return "\n".join(f"{each.verdict.value}: {each.probe} {each.tolerance}" for each in happening.results)


@talk.register
def _(happening: Undone) -> str:
    return "\n".join(f"{each.result}: {each.action} {each.detail}" for each in happening.results)


@talk.register
def _(happening: Confirmed) -> str:
    return "the host keeps the change" if happening.confirmed else f"not confirmed: {happening.detail}"


async def end_abandoned_flow_runs(run: Run) -> int:
    """Marks as crashed the flow runs of this run that still say Running though their dispatcher is gone; how many."""
    return await end_abandoned(_tag_of(run), "its dispatcher was killed; the run goes on in a new flow run")


async def end_abandoned(tag: str, why: str) -> int:
    """The same of the flow runs with this tag."""
    async with get_client() as client:
        found = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[tag]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])),
            )
        )
        for abandoned in found:
            crashed: State[Any] = Crashed(message=why)
            await client.set_flow_run_state(abandoned.id, crashed, force=True)
        return len(found)


async def warm_up() -> None:
    """Makes the client once, so that the first run does not pay for it: 0.26 s instead of 0.93 s, measured."""
    async with get_client() as client:
        await client.read_flow_runs(limit=1)
