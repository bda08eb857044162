"""One look at Git as a flow run: the rules, then the objects of Prefect, then the hosts; each a task to watch.

The rules come first and owe Prefect nothing. `osremed gitops` does the work in a process of its own: rooms of one row
do not know each other, and a look that hangs is ended with everything it began.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.flows import Flow
from prefect.states import Completed, Failed

from osremed.core.errors import OsremedError, Unavailable
from osremed.core.record import record
from osremed.flows.object_kinds import FLOW
from osremed.flows.objects import ObjectResult, reconcile_objects
from osremed.report.text import show_markdown

_LOOK_S = 900.0
_HOSTS_S = 3600.0
_MAX_OUTPUT_BYTES = 16 << 20


@record
class Plane:
    """What every look is given: the arguments of the verbs of `osremed gitops`."""

    source: str
    state: str
    inventory: str
    collections: str


async def ask(plane: Plane, *words: str, timeout_s: float) -> Any:
    """The document that `osremed gitops <words>` prints, whatever its verdict. Unavailable if it gives none in time;
    it and its children are ended then."""
    argv = [sys.executable, "-m", "osremed", "gitops", *words, "--state", plane.state, "-o", "json"]
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True, limit=_MAX_OUTPUT_BYTES, env={**os.environ, "OSREMED_LANG": "en"},
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        raise Unavailable(f"gitops {words[0]} gave no answer within {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    try:
        return json.loads(out)
    except ValueError:
        said = err.decode("utf-8", "replace").strip() or f"exit code {process.returncode}"
        raise Unavailable(f"gitops {words[0]}: {said[-1000:]}") from None


async def look(plane: Plane) -> dict[str, Any]:
    """One look without Prefect: the status it leaves, with what the live rules want of Prefect as `wanted`."""
    found: dict[str, Any] = await ask(plane, "run", "--once", "--source", plane.source, timeout_s=_LOOK_S)
    return found


async def bring_objects(wanted: Mapping[str, Any], *, check: bool = False) -> tuple[ObjectResult, ...]:
    """What the rules want of Prefect, and the deployment that looks at them."""
    told = "Rules from Git: fetch, prove, check, go live. Hold it with: osremed gitops suspend"
    ours = {wanted["owner"]: {"interval_s": wanted["interval_s"], "description": told}}
    return await reconcile_objects(wanted["owner"], {**wanted["objects"], "deployments": ours}, check=check)


async def bring_to_hosts(plane: Plane, how: str) -> dict[str, Any]:
    words = ["hosts", "--inventory", plane.inventory, "--collections", plane.collections]
    found: dict[str, Any] = await ask(plane, *words, *(["--check"] if how == "check" else []), timeout_s=_HOSTS_S)
    return found


def _task(name: str, function: Callable[..., Awaitable[Any]]) -> Any:
    """A task that is tried once and keeps nothing: neither its result nor a cache."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(function)


def gitops_flow(plane: Plane, on_status: Callable[[dict[str, Any]], None]) -> Flow[Any, Any]:
    """The flow of one look; `on_status` is told what it found. Its end is the look's: `Applied` is green, a reason to
    refuse is not."""

    @flow(name=FLOW, flow_run_name="look at Git", persist_result=False, validate_parameters=False)
    async def one_look() -> State[Any]:
        log = get_run_logger()
        status = await _task("rules", look)(plane)
        on_status(status)
        log.log(logging.INFO if status["ready"] else logging.ERROR, "%s: %s", status["reason"], status["message"])
        objects = await _task("objects", bring_objects)(status["wanted"])
        faults = [f"{each.kind} {each.name}: {each.detail}" for each in objects if each.bad]
        hosts: Sequence[dict[str, str]] = ()
        if status.get("hosts_due"):
            try:
                found = await _task("hosts", bring_to_hosts)(plane, status["hosts_due"])
                hosts = found["hosts"]
            except OsremedError as error:
                faults.append(error.what)
            faults += [f"{each['host']}: {each['outcome']} {each['detail']}" for each in hosts if _is_bad(each)]
        for fault in faults:
            log.error("%s", fault)
        body, description = markdown_of(status, objects, hosts), _cell(status["message"])
        await acreate_markdown_artifact(body, key=FLOW, description=description)
        return end_of(status, faults)

    return one_look


def _is_bad(host: dict[str, str]) -> bool:
    return host["outcome"] in {"failed", "taken_back", "not_tried"}


def end_of(status: dict[str, Any], faults: Sequence[str]) -> State[Any]:
    """The state of the flow run: the reason as its name."""
    if not status["ready"] and status["reason"] != "Suspended":
        return Failed(name=status["reason"], message=status["message"])
    if faults:
        return Failed(name="NotAsWanted", message=f"{faults[0]} ({len(faults)} in all)")
    return Completed(name=status["reason"], message=status["message"])


def _cell(text: object) -> str:
    """Foreign text in a table: on one line, and nothing in it is markup."""
    return str(show_markdown(" ".join(str(text).split())))


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return [*lines, *(f"| {' | '.join(map(_cell, row))} |" for row in rows), ""]


def markdown_of(status: dict[str, Any], objects: Sequence[ObjectResult], hosts: Sequence[dict[str, str]]) -> str:
    """The artifact: conditions first, then what is not as it was."""
    lines = [f"## {_cell(status['reason'])}", "", _cell(status["message"]), ""]
    conditions = [(c["type"], c["status"], c["reason"], c["since"], c["message"]) for c in status["conditions"]]
    lines += _table(("condition", "status", "reason", "since", "message"), conditions)
    lines += [f"Live: set `{status['set'][:12] or 'none'}` of commit `{status['commit'][:12] or 'none'}`.", ""]
    changes = [(each["kind"], each["rule"]) for each in status["detail"].get("changes", ())]
    moved = [(each.kind, each.name, each.outcome, each.detail) for each in objects if each.outcome != "unchanged"]
    shown = [(each["host"], f"{each['policy']} {each['part']}", each["outcome"], each["detail"]) for each in hosts]
    for title, heads, rows in (
        ("Rules", ("change", "rule"), changes),
        ("Objects of Prefect", ("kind", "name", "outcome", "what differed"), moved),
        ("Hosts", ("host", "policy", "outcome", "detail"), shown),
    ):
        if rows:
            lines += [f"### {title}", "", *_table(heads, rows)]
    return "\n".join(lines)
