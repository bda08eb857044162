"""Verbs of a canary: one runbook over many hosts, a few first, in this process and without Prefect."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict
from typing import Any

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode
from osremed.core.log import Log
from osremed.core.units import parse_duration_s, parse_ratio
from osremed.executor.runner import AnsibleExecutor
from osremed.flows.settings import ControlPaths
from osremed.flows.verbs import operator_of, publish_into
from osremed.runbook.audit import person, written_by_hand
from osremed.runbook.canary import Canary, Planned, describe, waves_if_all_goes_well
from osremed.runbook.catalog import CatalogEntry, load_entry, match
from osremed.runbook.fanout import begin, canary_event, load, roll
from osremed.runbook.operate import Operator
from osremed.runbook.preview import preview

_LOG = Log("canary")


def _hosts(executor: AnsibleExecutor, wanted: str) -> tuple[str, ...]:
    """A group of the inventory by name, or hosts in the order they are given. BadInput for one there is not."""
    if wanted in executor.groups:
        hosts = tuple(sorted(executor.groups[wanted]))
    else:
        hosts = tuple(dict.fromkeys(name.strip() for name in wanted.split(",")))
    strange = [host for host in hosts if host not in executor.hosts]
    if strange or not hosts:
        hint = f"groups are {', '.join(sorted(executor.groups))}"
        raise BadInput(f"{strange[0] if strange else wanted!r} names no host", where="--hosts", hint=hint)
    return hosts


def _attributes(text: str | None) -> dict[str, Any]:
    try:
        given = json.loads(text) if text else {}
    except ValueError as error:
        raise BadInput(f"not JSON: {error}", where="--attributes") from error
    if not isinstance(given, dict):
        raise BadInput("attributes are an object", where="--attributes")
    return given


def canary_start(
    *,
    runbook: str,
    hosts: str,
    state: str,
    inventory: str,
    collections: str,
    attributes: str | None = None,
    max_failed: str = "0%",
    settle: str = "0s",
    check: bool = False,
) -> Answer:
    """The runbook on one host, then two, then twice as many each time; every host verified before the next wave. Stops
    when more than `max_failed` of the hosts so far were not kept. `check` shows the waves and the first host's plan."""
    paths = ControlPaths(os.path.abspath(state))
    entry = load_entry(runbook if os.path.isfile(runbook) else os.path.join(runbook, "runbook.yaml"))
    share, settle_s, given = parse_ratio(max_failed), parse_duration_s(settle), _attributes(attributes)
    executor = AnsibleExecutor(inventory, collections, paths.work)
    try:
        wanted = _hosts(executor, hosts)
        name = os.urandom(8).hex()
        planned = Planned(name, entry.runbook.name, entry.digest, wanted, given, share, settle_s, person())
        first = canary_event(planned, entry.runbook.events[0], wanted[0], time.time_ns())
        found = match(entry, first)
        if not found.matched:
            hint = "give the attributes it asks for with --attributes"
            raise BadInput(f"{planned.runbook} does not want this: {found.why}", hint=hint)
        operator = operator_of(executor, paths, os.path.dirname(os.path.dirname(os.path.abspath(entry.path))))
        if check:
            return _preview(operator, entry, planned)
        with written_by_hand(paths.hands) as audit:
            audit.append({"verb": "canary", "by": planned.by, "canary": name, "runbook": runbook, "hosts": wanted})
        begin(paths.canaries, planned, entry)
        _LOG.info("began", canary=name, hosts=len(wanted))
        return _roll(operator, paths, name)
    finally:
        executor.close()


def _preview(operator: Operator, entry: CatalogEntry, planned: Planned) -> Answer:
    waves = waves_if_all_goes_well(planned.hosts)
    event = canary_event(planned, entry.runbook.events[0], planned.hosts[0], time.time_ns())
    plan = asyncio.run(preview(operator, entry.runbook, event))
    lines = [f"wave {number}: {', '.join(wave)}" for number, wave in enumerate(waves, 1)]
    document = {"waves": waves, "first": plan.document}
    code = ExitCode.REFUSED if plan.refused else ExitCode.OK
    return Answer(document, "\n".join([*lines, f"on {planned.hosts[0]}:", plan.text]), code)


def canary_resume(*, canary_id: str, state: str, runbooks: str, inventory: str, collections: str) -> Answer:
    """Goes on with a canary whose process was ended. What a run was doing on its host is taken back first."""
    paths = ControlPaths(os.path.abspath(state))
    load(paths.canaries, canary_id)
    executor = AnsibleExecutor(inventory, collections, paths.work)
    try:
        return _roll(operator_of(executor, paths, os.path.abspath(runbooks)), paths, canary_id)
    finally:
        executor.close()


def _roll(operator: Operator, paths: ControlPaths, canary_id: str) -> Answer:
    try:
        canary = asyncio.run(roll(operator, paths.canaries, canary_id))
    except BlockingIOError:
        raise BadInput(f"canary {canary_id} is driven by another process") from None
    for ended in canary.outcomes.values():
        publish_into(operator.store, operator.store.load(ended.run_id)[0])
    return _answer(canary)


def canary_show(*, canary_id: str, state: str) -> Answer:
    """Where a canary stands: each host's run, where it stopped and why, whom it did not touch."""
    return _answer(load(ControlPaths(os.path.abspath(state)).canaries, canary_id))


def _answer(canary: Canary) -> Answer:
    document = {
        **asdict(canary.planned),
        "ended": canary.ended,
        "stopped": canary.stopped,
        "waves": canary.waves,
        "hosts": {host: asdict(ended) for host, ended in canary.outcomes.items()},
        "untouched": canary.untouched,
    }
    return Answer(document, describe(canary), ExitCode.FAILED if canary.stopped else ExitCode.OK)
