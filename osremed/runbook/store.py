"""Runs on disk: one directory a run, with its journal, its evidence, the runbook it began with and its report.

runs/<run_id>/journal/*.jsonl   happenings, the truth
runs/<run_id>/bundle/           evidence from before the change
runs/<run_id>/runbook.yaml      the runbook as it was when the run began
runs/<run_id>/approval.json     written by an approver
runs/<run_id>/tick-<n>.json     what a person said of step n, which they were asked to do
runs/gate                       locked by who lets a run in (`gate`)
runs/index                      ended runs as they were read last (`index`): a start without reading every journal

A run that takes another one back is named after it, so that the other is found from either; the journal of an ended run
stays as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from osremed.core.canonical import sha256_hex
from osremed.core.clock import Clock
from osremed.core.errors import NotFound, OsremedError
from osremed.core.event import Event
from osremed.core.files import read_bytes, write_atomic
from osremed.core.journal import Journal, read_journal
from osremed.core.record import record
from osremed.runbook.catalog import CatalogEntry
from osremed.runbook.document import Runbook
from osremed.runbook.index import Index, stamp_of
from osremed.runbook.lint import load_runbook
from osremed.runbook.model import Happening, Raised, Recovered, Run, RunState
from osremed.runbook.removal import remove_whole, sweep
from osremed.runbook.seals import Seal, seal_of
from osremed.runbook.state import Effect, Step, advance, begin, replay

_HAPPENING: TypeAdapter[Happening] = TypeAdapter(Happening)
_RUN: TypeAdapter[Run] = TypeAdapter(Run)
#: Before the runbook's name in a run that takes one of its runs back.
UNDOES = "undo:"
_KEPT = frozenset({RunState.SUCCEEDED, RunState.UNDO_INCOMPLETE})
_MAY_BE_ASKED_ANEW = frozenset({RunState.REFUSED, RunState.UNDO_INCOMPLETE})
_RUN_ID = re.compile(r"[0-9a-f]{16}")
_INDEX = "index"
_GATE = "gate"


class DamagedRun(OsremedError):
    """A run whose journal cannot be read back. It is left as it is, and named."""

    code = "run.damaged"


def run_as_json(run: Run) -> dict[str, Any]:
    document: dict[str, Any] = _RUN.dump_python(run, mode="json")
    return document


def run_id_for(event: Event, runbook: str) -> str:
    """The same event and runbook always give the same run: nothing is doubled (law 4)."""
    return sha256_hex(f"{event.id}|{event.host}|{runbook}".encode())[:16]


@record
class RunDirectory:
    path: str

    @property
    def journal(self) -> str:
        return os.path.join(self.path, "journal")

    @property
    def bundle(self) -> str:
        return os.path.join(self.path, "bundle")

    @property
    def runbook(self) -> str:
        return os.path.join(self.path, "runbook.yaml")

    @property
    def approval(self) -> str:
        return os.path.join(self.path, "approval.json")

    @property
    def answers(self) -> str:
        """Locked by who writes one: the first holds."""
        return os.path.join(self.path, "answers.lock")

    def tick(self, number: int) -> str:
        return os.path.join(self.path, f"tick-{number}.json")

    @property
    def report(self) -> str:
        return os.path.join(self.path, "report.html")

    @property
    def flow_run(self) -> str:
        """The id of the newest flow run that shows it; not there while Prefect has shown none."""
        return os.path.join(self.path, "flow_run")


class OpenRun:
    """A run with its journal open for writing. `record` is the only way it moves."""

    def __init__(
        self,
        run: Run,
        effect: Effect | None,
        journal: Journal,
        directory: RunDirectory,
        keep_seal: Callable[[Seal], None] | None = None,
    ) -> None:
        self.run, self.effect, self.directory = run, effect, directory
        self.unanswered = False  #: an effect was tried and its answer is not on disk
        self._journal, self._keep_seal = journal, keep_seal
        self._owes_seal = False

    def record(self, happening: Happening, clock: Clock, *, sealed: bool = True) -> None:
        """Checks that the state allows it, then journals it, then moves: the disk is never behind. The journal is
        sealed before the first change and at the end, unless who calls does that (`sealed` is False). An OSError of the
        seal comes after the move: `keep_owed_seal` tries again."""
        now_ns, before = clock.wall_ns(), self.run
        run, effect = advance(before, happening, now_ns)
        self._journal.append(_line(happening, now_ns))
        self.run, self.effect, self.unanswered = run, effect, False
        self._owes_seal = self._owes_seal or (sealed and (run.ended or run.acted > before.acted))
        self.keep_owed_seal()

    def keep_owed_seal(self) -> None:
        """Nothing follows, neither an effect nor the end, before this has returned."""
        if self._owes_seal and self._keep_seal:
            self._keep_seal(self.seal())
        self._owes_seal = False

    @property
    def ended(self) -> bool:
        """And sealed."""
        return self.run.ended and not self._owes_seal

    def seal(self) -> Seal:
        """Of all that is in the journal now."""
        return seal_of(self.run, self.directory.journal)

    def close(self) -> None:
        self._journal.close()


def _line(happening: Happening, now_ns: int) -> dict[str, Any]:
    return {"at_ns": now_ns, "happening": _HAPPENING.dump_python(happening, mode="json")}


Runs = tuple[Run, ...]


class RunStore:
    def __init__(self, directory: str, keep_seal: Callable[[Seal], None] | None = None) -> None:
        """Reads a run's journal once when it has ended (it does not change any more), else when it has changed. Not
        for several threads at once. `keep_seal` is given what seals the journals that are written through it."""
        self.directory, self.keep_seal = directory, keep_seal
        self._index = Index(os.path.join(directory, _INDEX), _RUN)
        self._ended: dict[str, tuple[str, Run]] = {}  #: with the stamp of its journal
        self._going_on: dict[str, tuple[str, Step]] = {}
        self._told: tuple[Runs, tuple[str, ...]] = (), ()
        self._told_of: tuple[Run, ...] = ()  #: those that went on then
        self._stale = True  #: an ended run came or went since
        self._looked = False  #: into the index
        os.makedirs(directory, mode=0o700, exist_ok=True)

    @property
    def gate(self) -> str:
        return os.path.join(self.directory, _GATE)

    def of(self, run_id: str) -> RunDirectory:
        """NotFound for anything that is not the id of an existing run."""
        path = os.path.join(self.directory, run_id)
        if not _RUN_ID.fullmatch(run_id) or not os.path.isdir(path):
            hint = "list them with: osremed runs list"
            raise NotFound(f"no run {run_id!r}", where=self.directory, hint=hint, code="not-found.run")
        return RunDirectory(path)

    def create(
        self,
        event: Event,
        entry: CatalogEntry,
        clock: Clock,
        *,
        requested_by: str = "",
        requested_uid: int | None = None,
    ) -> OpenRun | None:
        """The new run, on disk; None if this event and runbook already have one. BlockingIOError in the moment in which
        another process makes it."""
        run_id = run_id_for(event, entry.runbook.name)
        raised = Raised(
            run_id,
            entry.runbook.name,
            entry.digest,
            event,
            requested_by,
            looks_only=entry.runbook.looks_only,
            requested_uid=requested_uid,
            rules_commit=entry.commit,
            manual_s=entry.runbook.metadata.manual_time,
        )
        return self._begin(raised, entry.content, clock)

    def _begin(self, raised: Raised, runbook: bytes, clock: Clock) -> OpenRun | None:
        directory = RunDirectory(os.path.join(self.directory, raised.run_id))
        if self.has_begun(raised.run_id):
            return None
        os.makedirs(directory.path, mode=0o700, exist_ok=True)
        now_ns = clock.wall_ns()
        journal = Journal(directory.journal)
        try:
            if self.has_begun(raised.run_id):  # made since the first look, by one who has let go of it again
                journal.close()
                return None
            write_atomic(directory.runbook, runbook, mode=0o600)
            journal.append(_line(raised, now_ns))
        except OSError:
            journal.close()
            raise
        run, effect = begin(raised, now_ns)
        return OpenRun(run, effect, journal, directory, self.keep_seal)

    def create_undo(
        self, old: Run, clock: Clock, *, requested_by: str, why: str, requested_uid: int | None = None
    ) -> OpenRun | None:
        """The new run that takes `old` back, on disk; None if another one is under way or has done so. One that was
        refused, or left something to a person, may be asked for anew: it looks at the host afresh."""
        before = self._undoings(old)
        if before and self._replay(before[-1])[0].state not in _MAY_BE_ASKED_ANEW:
            return None
        event = self._undo_event(old, len(before), clock.wall_ns(), why)
        name = UNDOES + old.runbook
        run_id = run_id_for(event, name)
        raised = Raised(
            run_id,
            name,
            old.runbook_digest,
            event,
            requested_by,
            old.run_id,
            requested_uid=requested_uid,
            rules_commit=old.rules_commit,
        )
        return self._begin(raised, read_bytes(self.of(old.run_id).runbook), clock)

    def _undoings(self, old: Run) -> list[str]:
        """The runs that take it back, the oldest first."""
        found: list[str] = []
        while True:
            run_id = run_id_for(self._undo_event(old, len(found), 0, ""), UNDOES + old.runbook)
            if not self.has_begun(run_id):
                return found
            found.append(run_id)

    @staticmethod
    def _undo_event(old: Run, number: int, now_ns: int, why: str) -> Event:
        """What the other run saw, for the evidence that its runbook collects."""
        told = {**old.event.attributes, "undoes": old.run_id, "why": why}
        return Event(f"undo-{old.run_id}-{number}", "run.undo", old.host, now_ns, told)

    def _linked(self, run: Run) -> Run:
        newest = self._undoings(run)[-1:] if run.state in _KEPT else []
        return replace(run, undone_by=newest[0]) if newest else run

    def runbook_of(self, run_id: str) -> Runbook:
        """The runbook the run started with, not today's."""
        return load_runbook(self.of(run_id).runbook)

    def load(self, run_id: str) -> tuple[Run, Effect | None]:
        """The run as its journal tells it. DamagedRun if it cannot be told."""
        run, effect = self._loaded(run_id)
        return self._linked(run), effect

    def _loaded(self, run_id: str) -> Step:
        if run_id in self._ended:
            return self._ended[run_id][1], None
        stamp = stamp_of(self._journal(run_id))  # before the reading: what is written meanwhile is read again
        before, step = self._going_on.get(run_id, ("", None))
        if step is None or not stamp or stamp != before:
            step = self._replay(run_id)
        if step[0].ended:
            self._has_ended(run_id, stamp, step[0])
        else:
            self._going_on[run_id] = stamp, step
        return step

    def _has_ended(self, run_id: str, stamp: str, run: Run) -> None:
        self._ended[run_id] = stamp, run
        self._going_on.pop(run_id, None)
        self._stale = True

    def _journal(self, run_id: str) -> str:
        return RunDirectory(os.path.join(self.directory, run_id)).journal

    def open(self, run_id: str) -> OpenRun:
        """As it is once nobody else writes it, so it may have ended. BlockingIOError while somebody does; DamagedRun as
        `load`."""
        directory = self.of(run_id)
        if not self.has_begun(run_id):
            raise DamagedRun("the journal has no entry", where=directory.journal)
        journal = Journal(directory.journal)
        try:
            run, effect = self._replay(run_id)
        except BaseException:
            journal.close()
            raise
        return OpenRun(run, effect, journal, directory, self.keep_seal)

    def happenings(self, run_id: str) -> tuple[tuple[int, Happening], ...]:
        """(wall clock nanoseconds, happening) as journaled. DamagedRun if one cannot be read."""
        directory = self.of(run_id)
        try:
            contents = read_journal(directory.journal)
            if contents.damaged:
                raise DamagedRun("the journal is damaged", where=contents.damaged[0])
            lines = [(entry.record["at_ns"], entry.record["happening"]) for entry in contents.entries]
            return tuple((at_ns, _HAPPENING.validate_python(happening)) for at_ns, happening in lines)
        except (OSError, KeyError, ValidationError) as error:
            raise DamagedRun(f"the journal cannot be read: {error}", where=directory.journal) from error

    def _replay(self, run_id: str) -> Step:
        return replay(self.happenings(run_id))

    def run_ids(self) -> tuple[str, ...]:
        """Runs that have begun. A directory without a journal entry has not: its event will be delivered again."""
        names = sorted(os.listdir(self.directory))
        return tuple(name for name in names if name in self._ended or self.has_begun(name))

    def has_begun(self, run_id: str) -> bool:
        journal = self._journal(run_id)
        named = bool(_RUN_ID.fullmatch(run_id)) and os.path.isdir(journal)
        return named and bool(read_journal(journal, max_entries=1).entries)

    def runs(self) -> tuple[Runs, tuple[str, ...]]:
        """(every readable run, oldest first; why each other one is not). Reads what is new or has changed since the
        last call, at the first one what the index does not tell."""
        names = set(os.listdir(self.directory))
        for run_id in [run_id for run_id in self._ended if run_id not in names]:
            del self._ended[run_id]
            self._stale = True
        unread = sorted(names.difference(self._ended))
        if not self._looked:
            self._looked = True
            unread = [run_id for run_id in unread if not self._is_indexed(run_id)]
        damaged: list[str] = []
        for run_id in unread:
            try:
                if run_id in self._going_on or self.has_begun(run_id):
                    self._loaded(run_id)
            except (OsremedError, FileNotFoundError) as error:
                self._going_on.pop(run_id, None)
                if os.path.isdir(self._journal(run_id)):  # else it was removed meanwhile
                    damaged.append(str(error))
        for run_id in self._going_on.keys() - names:
            del self._going_on[run_id]
        return self._all(tuple(damaged))

    def _all(self, damaged: tuple[str, ...]) -> tuple[Runs, tuple[str, ...]]:
        """The same answer while nothing has moved: to sort ten thousand costs more than to look at them."""
        going_on = tuple(run for _stamp, (run, _effect) in self._going_on.values())
        if self._stale or going_on != self._told_of or damaged != self._told[1]:
            ended = (run for _stamp, run in self._ended.values())
            good = sorted((*ended, *going_on), key=lambda run: (run.raised_ns, run.run_id))
            undone_by = {run.undoes: run.run_id for run in good if run.undoes}
            for number, run in enumerate(good):
                if run.run_id in undone_by:
                    good[number] = replace(run, undone_by=undone_by[run.run_id])
            self._told, self._told_of, self._stale = (tuple(good), damaged), going_on, False
        return self._told

    def _is_indexed(self, run_id: str) -> bool:
        """True, and then it is known, if the index has it from the journal as that is now."""
        stamp = stamp_of(self._journal(run_id))
        run = self._index.take(run_id, stamp)
        if run is None or run.run_id != run_id or not run.ended:
            return False
        self._has_ended(run_id, stamp, run)
        return True

    def keep_index(self, most: int = 500) -> bool:
        """Writes down ended runs for whoever starts next, at most so many; False once all are. For one process: the one
        that leads."""
        return self._index.keep(self._ended, most)

    def remove(self, run_id: str) -> None:
        """The ended run and all that belongs to it, gone; killed in the midst of it, `sweep` does the rest."""
        self.of(run_id)
        remove_whole(self.directory, run_id)

    def sweep(self) -> None:
        """What is left of runs whose removal broke off, gone."""
        sweep(self.directory)


def open_unfinished(
    store: RunStore, clock: Clock, why: str, *, host: str = "", without: Collection[str] = ()
) -> Iterator[OpenRun]:
    """Every unfinished run (of `host`) that nobody drives, opened and told why; the caller drives it to its end.
    `without` are ids of events whose runs somebody else is about to open."""
    for run in store.runs()[0]:
        if run.ended or (host and run.host != host) or run.event.id in without:
            continue
        try:
            opened = store.open(run.run_id)
        except BlockingIOError:
            continue
        if opened.run.ended:  # whoever drove it has let go of it since the first look
            opened.close()
            continue
        try:
            opened.record(Recovered(why), clock)
        except OSError:
            opened.close()
            raise
        yield opened
