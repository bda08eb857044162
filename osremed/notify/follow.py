"""Finds what is new: runs that came to rest, interventions that hosts told. It only reads what others write, so no run
ever waits for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput
from osremed.core.event import event_from_json
from osremed.core.files import read_bytes, write_atomic
from osremed.core.journal import Cursor, read_journal
from osremed.flows.settings import ControlPaths
from osremed.notify.message import STATES, Message, of_intervention, of_run, told_of
from osremed.notify.traces import spans_of
from osremed.runbook.store import RunStore


class Follower:
    """`news` gives each fact at least once: `settle` is called when they are on disk elsewhere. What was there before
    the first start is history and told to nobody."""

    def __init__(self, paths: ControlPaths, directory: str) -> None:
        self._paths = paths
        self._seen_path = os.path.join(directory, "seen.json")
        self._cursor = Cursor(os.path.join(directory, "intake.cursor"))
        self._store: RunStore | None = None
        self._seq = self._cursor.load()
        self._seen: dict[str, str] = {}
        self._given_seq, self._given = self._seq, self._seen  #: what `settle` makes true
        if os.path.exists(self._seen_path):
            self._seen = self._given = self._read()
            return
        for _ in self.news():
            pass
        write_atomic(self._seen_path, canonical_json(self._given), mode=0o600)
        self.settle()

    def _read(self) -> dict[str, str]:
        """BadInput if the file is damaged: everything would be told again."""
        try:
            seen = json.loads(read_bytes(self._seen_path))
            return {str(run_id): str(state) for run_id, state in seen.items()}
        except (ValueError, AttributeError) as error:
            hint = "move it away: what is there then is history, and what comes is told"
            raise BadInput(f"not what was written: {error}", where=self._seen_path, hint=hint) from error

    def news(self) -> Iterator[Message]:
        """Everything since the last `settle`."""
        yield from self._runs()
        yield from self._interventions()

    def _runs(self) -> Iterator[Message]:
        if not os.path.isdir(self._paths.runs):
            return
        self._store = self._store or RunStore(self._paths.runs)
        runs, _damaged = self._store.runs()
        here = {}
        for run in sorted(runs, key=lambda each: each.updated_ns):
            before = self._seen.get(run.run_id, "")
            here[run.run_id] = before
            if run.state in STATES and told_of(run) != before:
                here[run.run_id] = told_of(run)
                state = before.partition("-")[0]
                yield of_run(run, ends=state if state != run.state.value else "")
        self._given = here

    def _interventions(self) -> Iterator[Message]:
        if not os.path.isdir(self._paths.intake):
            return
        for entry in read_journal(self._paths.intake, after_seq=self._seq).entries:
            self._given_seq = entry.seq
            try:
                message = of_intervention(event_from_json(entry.record))
            except BadInput:
                continue  # a damaged line; `osremed audit verify` and the dispatcher name it
            if message is not None:
                yield message

    def traced(self, message: Message) -> Message:
        """The message with the spans of its run, if that has ended."""
        if not message.run_id or self._store is None:
            return message
        run, _effect = self._store.load(message.run_id)
        if not run.ended:
            return message
        return replace(message, spans=spans_of(run, self._store.happenings(run.run_id)))

    def settle(self) -> None:
        """After it, what was given is not given again. Costs nothing when nothing was."""
        if self._given != self._seen:
            write_atomic(self._seen_path, canonical_json(self._given), mode=0o600)
            self._seen = self._given
        if self._given_seq != self._seq:
            self._cursor.store(self._given_seq)
            self._seq = self._given_seq
