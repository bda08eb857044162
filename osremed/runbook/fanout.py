"""Drives a canary: its journal, and the runs of its hosts through the same operator as any other run.

canaries/<canary_id>/journal/*.jsonl   what happened, the truth
canaries/<canary_id>/book.yaml         the runbook as it was when it began; its mtime is when the canary was asked for
canaries/<canary_id>/stop.json         who stops it, and why; whoever drives it looks before each run
canaries/<canary_id>/flow_run, shown   the id of the newest flow run that shows it; there when its end was told there
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput, NotFound, OsremedError
from osremed.core.event import Event
from osremed.core.files import fsync_directory, read_bytes, write_atomic
from osremed.core.journal import Journal, read_journal
from osremed.runbook.canary import Canary, Entry, Planned, Stop, WaveBegan, fold, outcome_of, what_next
from osremed.runbook.catalog import CatalogEntry, load_entry
from osremed.runbook.guards import hosts_in
from osremed.runbook.model import Recovered, Run
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import run_id_for

#: Calls to hosts at once, whatever the runbook allows: each is a process of its own on the controller.
_AT_ONCE = 8
_POLL_S = 0.5
_BOOK = "book.yaml"
#: Before the id of a canary that is not whole yet.
MAKING = ".new-"
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)
_ID = re.compile(r"[0-9a-f]{16}")


def event_id_of(canary_id: str) -> str:
    return f"canary-{canary_id}"


def canary_of(event_id: str) -> str:
    """The canary that a run with this event is of; "" for any other run."""
    word, _, name = event_id.partition("-")
    return name if word == "canary" and _ID.fullmatch(name) else ""


def canary_ids(canaries: str) -> list[str]:
    """All there are, in no order that means anything."""
    found = os.listdir(canaries) if os.path.isdir(canaries) else []
    return sorted(name for name in found if _ID.fullmatch(name))


def newest_first(canaries: str) -> list[str]:
    """All there are, by when they were asked for, which no journal is read for; one whose time is not known is last."""
    began: dict[str, int] = {}
    for name in canary_ids(canaries):
        try:
            began[name] = os.stat(os.path.join(canaries, name, _BOOK)).st_mtime_ns
        except OSError:
            began[name] = 0
    return sorted(began, key=lambda name: (began[name], name), reverse=True)


def canary_event(planned: Planned, name: str, host: str, time_ns: int) -> Event:
    """One id for all hosts: with the host it makes the run's id, so a host has one run however often it is asked."""
    return Event(event_id_of(planned.canary_id), name, host, time_ns, planned.attributes)


def _directory(canaries: str, canary_id: str) -> str:
    path = os.path.join(canaries, canary_id)
    if not _ID.fullmatch(canary_id) or not os.path.isdir(path):
        raise NotFound(f"no canary {canary_id!r}", where=canaries, hint="osremed canary list shows which there are")
    return path


def begin(canaries: str, planned: Planned, entry: CatalogEntry) -> None:
    """The canary, on disk, whole or not at all; nothing is touched yet."""
    directory = os.path.join(canaries, planned.canary_id)
    making = os.path.join(canaries, f"{MAKING}{planned.canary_id}")
    shutil.rmtree(making, ignore_errors=True)  # of one that was killed here
    os.makedirs(making, mode=0o700)
    book = os.path.join(making, _BOOK)
    write_atomic(book, entry.content, mode=0o600)
    if planned.at_ns:
        os.utime(book, ns=(planned.at_ns, planned.at_ns))
    journal = Journal(os.path.join(making, "journal"))
    try:
        journal.append(_line(planned))
    finally:
        journal.close()
    os.rename(making, directory)
    fsync_directory(canaries)


def has_begun(canaries: str, canary_id: str) -> bool:
    return os.path.isdir(os.path.join(canaries, canary_id))


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


class Followed:
    """A canary that is looked at again and again: its journal is read when it has changed, which costs a fifth of a
    second where ten thousand hosts are in it."""

    def __init__(self, canaries: str, canary_id: str) -> None:
        self._canaries, self._id = canaries, canary_id
        self._seen: tuple[list[tuple[str, int, int]], Canary] | None = None

    def now(self) -> Canary:
        """As its journal tells it. BadInput if that is damaged."""
        stamp = self._stamp()  # before the reading: what is written meanwhile is read again
        if self._seen is None or self._seen[0] != stamp:
            self._seen = stamp, load(self._canaries, self._id)
        return self._seen[1]

    def _stamp(self) -> list[tuple[str, int, int]]:
        with os.scandir(place_of(self._canaries, self._id, "journal")) as files:
            seen = [(each.name, each.stat()) for each in files]
        return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in seen)


def events_going_on(canaries: str, ended: set[str]) -> frozenset[str]:
    """Ids of the events of canaries that have not ended, or cannot be read: they count on their runs. `ended`: those
    that had at the last look, which are not read again."""
    names = canary_ids(canaries)
    ended.intersection_update(names)
    for name in names:
        with contextlib.suppress(OsremedError, OSError):
            if name not in ended and load(canaries, name).ended:
                ended.add(name)
    return frozenset(event_id_of(name) for name in names if name not in ended)


def _line(entry: Entry) -> Mapping[str, Any]:
    document: dict[str, Any] = _ENTRY.dump_python(entry, mode="json")
    return document


def write_stop(canaries: str, canary_id: str, stop: Stop) -> Stop:
    """The stop that holds: the first one."""
    before = read_stop(canaries, canary_id)
    if before is None:
        document = {"by": stop.by, "why": stop.why, "at_ns": stop.at_ns}
        write_atomic(_stop_path(canaries, canary_id), canonical_json(document), mode=0o600)
    return before or stop


def read_stop(canaries: str, canary_id: str) -> Stop | None:
    """None unless somebody stops it. What cannot be read stops it, too: nobody knows what was said."""
    try:
        document = json.loads(read_bytes(_stop_path(canaries, canary_id)))
        return Stop(str(document["by"]), str(document["why"]), int(document["at_ns"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Stop("somebody", f"their words cannot be read: {error!r}", 0)


def place_of(canaries: str, canary_id: str, name: str) -> str:
    """A file beside its journal."""
    return os.path.join(_directory(canaries, canary_id), name)


def _stop_path(canaries: str, canary_id: str) -> str:
    return place_of(canaries, canary_id, "stop.json")


@contextlib.contextmanager
def driving(canaries: str, canary_id: str) -> Iterator[Journal]:
    """Within it nobody else drives the canary. BlockingIOError while another does."""
    journal = Journal(os.path.join(_directory(canaries, canary_id), "journal"))
    try:
        yield journal
    finally:
        journal.close()


async def roll(operator: Operator, canaries: str, canary_id: str) -> Canary:
    """Goes on from where the journal ends, to the canary's end. BlockingIOError while another process does."""
    with driving(canaries, canary_id) as journal:
        return await go_on(operator, canaries, canary_id, journal)


async def go_on(operator: Operator, canaries: str, canary_id: str, journal: Journal) -> Canary:
    """The canary at its end; `journal` is that of `driving`."""
    canary = load(canaries, canary_id)
    entry = replace(load_entry(place_of(canaries, canary_id, _BOOK)), commit=canary.planned.rules_commit)

    def stop() -> Stop | None:
        return read_stop(canaries, canary_id)

    while not canary.ended:
        if hosts := [host for host in canary.left if stop() is None or _has_run(operator, canary, entry, host)]:
            await _wave(operator, canary, entry, hosts, journal=journal, stop=stop)
        else:
            line = what_next(canary, stop())
            if isinstance(line, WaveBegan) and canary.waves:
                await _rest(operator, canary.planned.settle_s, stop)
            if isinstance(line, WaveBegan) and stop() is not None:
                continue
            journal.append(_line(line))
        canary = load(canaries, canary_id)
    return canary


async def _rest(operator: Operator, settle_s: float, stop: Callable[[], Stop | None]) -> None:
    """Ends early when somebody stops the canary."""
    resting = asyncio.ensure_future(operator.pause(settle_s))
    try:
        while not (await asyncio.wait([resting], timeout=_POLL_S))[0]:
            if stop() is not None:
                return
        await resting
    finally:
        resting.cancel()


def _has_run(operator: Operator, canary: Canary, entry: CatalogEntry, host: str) -> bool:
    event = canary_event(canary.planned, entry.runbook.events[0], host, 0)
    return operator.store.has_begun(run_id_for(event, entry.runbook.name))


async def _wave(
    operator: Operator,
    canary: Canary,
    entry: CatalogEntry,
    hosts: list[str],
    *,
    journal: Journal,
    stop: Callable[[], Stop | None],
) -> None:
    """A run for each host that has none yet, as many at once as the runbook allows in the fleet; none begins any more
    once somebody has stopped the canary."""
    allowed = hosts_in(entry.runbook.guards.concurrency.fleet, len(operator.hosts))
    gate = asyncio.Semaphore(min(allowed, _AT_ONCE))

    async def one(host: str) -> None:
        async with gate:
            if stop() is not None and not _has_run(operator, canary, entry, host):
                return
            run = await _run(operator, canary.planned, entry, host)
        journal.append(_line(outcome_of(run)))

    ended = await asyncio.gather(*(one(host) for host in hosts), return_exceptions=True)
    broken = [each for each in ended if each is not None]
    if broken:  # the others came to their end first
        raise broken[0]


async def _run(operator: Operator, planned: Planned, entry: CatalogEntry, host: str) -> Run:
    event = canary_event(planned, entry.runbook.events[0], host, operator.clock.wall_ns())
    run_id = run_id_for(event, entry.runbook.name)
    opened = operator.store.create(event, entry, operator.clock, requested_by=planned.by, requested_uid=planned.by_uid)
    while opened is None:
        run, _effect = operator.store.load(run_id)
        if run.ended:
            return run
        try:
            opened = operator.store.open(run_id)
        except BlockingIOError:  # the dispatcher found it first and finishes it
            await operator.pause(_POLL_S)
            continue
        if not opened.run.ended:
            opened.record(Recovered("the canary went on"), operator.clock)
    try:
        return await drive(operator, opened, operator.store.runbook_of(run_id))
    finally:
        opened.close()
