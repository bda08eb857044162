"""Drives a canary: its journal, and the runs of its hosts through the same operator as any other run.

canaries/<canary_id>/journal/*.jsonl   what happened, the truth
canaries/<canary_id>/book.yaml         the runbook as it was when it began
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from osremed.core.errors import BadInput, NotFound, OsremedError
from osremed.core.event import Event
from osremed.core.files import write_atomic
from osremed.core.journal import Journal, read_journal
from osremed.runbook.canary import Canary, Ended, Entry, Planned, WaveBegan, fold, next_wave, outcome_of, why_stop
from osremed.runbook.catalog import CatalogEntry, load_entry
from osremed.runbook.guards import hosts_in
from osremed.runbook.model import Recovered, Run
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import run_id_for

#: Calls to hosts at once, whatever the runbook allows: each is a process of its own on the controller.
_AT_ONCE = 8
_POLL_S = 0.5
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)
_ID = re.compile(r"[0-9a-f]{16}")


def _event_id(canary_id: str) -> str:
    return f"canary-{canary_id}"


def canary_event(planned: Planned, name: str, host: str, time_ns: int) -> Event:
    """One id for all hosts: with the host it makes the run's id, so a host has one run however often it is asked."""
    return Event(_event_id(planned.canary_id), name, host, time_ns, planned.attributes)


def _directory(canaries: str, canary_id: str) -> str:
    path = os.path.join(canaries, canary_id)
    if not _ID.fullmatch(canary_id) or not os.path.isdir(path):
        raise NotFound(f"no canary {canary_id!r}", where=canaries, hint="its id was printed when it began")
    return path


def begin(canaries: str, planned: Planned, entry: CatalogEntry) -> None:
    """The canary, on disk; nothing is touched yet."""
    directory = os.path.join(canaries, planned.canary_id)
    os.makedirs(directory, mode=0o700)
    write_atomic(os.path.join(directory, "book.yaml"), entry.content, mode=0o600)
    journal = Journal(os.path.join(directory, "journal"))
    try:
        journal.append(_line(planned))
    finally:
        journal.close()


def load(canaries: str, canary_id: str) -> Canary:
    """As its journal tells it. BadInput if that is damaged."""
    path = os.path.join(_directory(canaries, canary_id), "journal")
    contents = read_journal(path)
    if contents.damaged:
        raise BadInput("the canary's journal is damaged", where=contents.damaged[0])
    try:
        return fold(_ENTRY.validate_python(entry.record) for entry in contents.entries)
    except ValidationError as error:
        raise BadInput(f"not a canary's journal: {error}", where=path) from error


def events_going_on(canaries: str) -> frozenset[str]:
    """Ids of the events of canaries that have not ended, or cannot be read: they count on their runs."""
    found = []
    for name in os.listdir(canaries) if os.path.isdir(canaries) else ():
        try:
            ended = load(canaries, name).ended
        except (OsremedError, OSError):
            ended = False
        found += [] if ended else [_event_id(name)]
    return frozenset(found)


def _line(entry: Entry) -> Mapping[str, Any]:
    document: dict[str, Any] = _ENTRY.dump_python(entry, mode="json")
    return document


async def roll(operator: Operator, canaries: str, canary_id: str) -> Canary:
    """Goes on from where the journal ends, to the canary's end. BlockingIOError while another process does."""
    directory = _directory(canaries, canary_id)
    entry = load_entry(os.path.join(directory, "book.yaml"))
    journal = Journal(os.path.join(directory, "journal"))
    try:
        canary = load(canaries, canary_id)
        while not canary.ended:
            if canary.left:
                await _wave(operator, canary, entry, journal)
            elif why := why_stop(canary):
                journal.append(_line(Ended(why)))
            elif wave := next_wave(canary):
                if canary.waves:
                    await operator.pause(canary.planned.settle_s)
                journal.append(_line(WaveBegan(wave)))
            else:
                journal.append(_line(Ended("")))
            canary = load(canaries, canary_id)
        return canary
    finally:
        journal.close()


async def _wave(operator: Operator, canary: Canary, entry: CatalogEntry, journal: Journal) -> None:
    """A run for each host that has none yet, as many at once as the runbook allows in the fleet."""
    allowed = hosts_in(entry.runbook.guards.concurrency.fleet, len(operator.hosts))
    gate = asyncio.Semaphore(min(allowed, _AT_ONCE))

    async def one(host: str) -> None:
        async with gate:
            run = await _run(operator, canary.planned, entry, host)
        journal.append(_line(outcome_of(run)))

    ended = await asyncio.gather(*(one(host) for host in canary.left), return_exceptions=True)
    broken = [each for each in ended if each is not None]
    if broken:  # the others came to their end first
        raise broken[0]


async def _run(operator: Operator, planned: Planned, entry: CatalogEntry, host: str) -> Run:
    event = canary_event(planned, entry.runbook.events[0], host, operator.clock.wall_ns())
    run_id = run_id_for(event, entry.runbook.name)
    opened = operator.store.create(event, entry, operator.clock, requested_by=planned.by)
    while opened is None:
        run, _effect = operator.store.load(run_id)
        if run.ended:
            return run
        try:
            opened = operator.store.open(run_id)
        except BlockingIOError:  # the dispatcher found it first and finishes it
            await operator.pause(_POLL_S)
            continue
        opened.record(Recovered("the canary went on"), operator.clock)
    try:
        return await drive(operator, opened, operator.store.runbook_of(run_id))
    finally:
        opened.close()
