"""Events -> decisions kept, runs begun. Every answer is kept, also a no: `osremed why-not` reads them.

A storm stays small: an event of a host on which a run of the same runbook is under way belongs to that run, and what
the guards have just refused they are not asked again for ten seconds: on that host, or, where the host does not matter
to the answer, on any. What was refused because its host was busy is asked again when it is not (`waiting`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from osremed.core.event import Event
from osremed.core.log import Log
from osremed.core.record import record
from osremed.core.units import format_duration
from osremed.runbook.audit import Audit
from osremed.runbook.catalog import CatalogEntry, Match, match
from osremed.runbook.guards import unknown_words
from osremed.runbook.matcher import Matcher
from osremed.runbook.model import Refused, Run
from osremed.runbook.operate import Operator, attempt
from osremed.runbook.state import Effect
from osremed.runbook.store import OpenRun, run_id_for
from osremed.runbook.waiting import Waiting, again, original_id

#: The guards' no holds for later events of the same runbook and host for so long.
REFUSAL_HOLDS_S = 10.0
#: They say no to every host alike, and minutes long: asking for each of ten thousand would only make as many runs.
_FOR_ALL_HOSTS = frozenset({"storm", "breaker"})
_ANY_HOST = ""
_REMEMBERED_REFUSALS = 20_000
_LOG = Log("deciding")


@record
class Question:
    """One answer to be given. Without a match: the runbooks that do not name the event, `others` of them. `after` is
    the refused run for whose event it is asked again."""

    event: Event
    match: Match | None
    others: int = 0
    after: str = ""


def _matched(refused: Run, entry: CatalogEntry) -> Match:
    """Whether the runbook of today wants the event that the one of then did."""
    if entry.digest == refused.runbook_digest:
        return Match(entry, True, "it matched then")
    return match(entry, refused.event)


class Deciding:
    """`start` is given each run that was let in; whoever drives it says `ended` when it has."""

    def __init__(
        self,
        operator: Operator,
        audit: Audit,
        catalog: Mapping[str, CatalogEntry],
        start: Callable[[OpenRun], None],
    ) -> None:
        self.matcher = Matcher(catalog)
        self._operator, self._audit, self._start = operator, audit, start
        self._active: dict[tuple[str, str], OpenRun] = {}
        self._refused: OrderedDict[tuple[str, str], tuple[int, Run]] = OrderedDict()
        self._lines: list[dict[str, Any]] = []
        self._waiting = Waiting()

    def use(self, catalog: Mapping[str, CatalogEntry]) -> None:
        """Decides by these from now on; triggers that are the same keep what they remember."""
        new = Matcher(catalog)
        new.adopt(self.matcher)
        self.matcher = new

    def begun(self, opened: OpenRun) -> None:
        """Until it has ended, later events of its host belong to it."""
        self._active[opened.run.runbook, opened.run.host] = opened

    def ended(self, opened: OpenRun) -> None:
        if self._active.get((opened.run.runbook, opened.run.host)) is opened:
            del self._active[opened.run.runbook, opened.run.host]
        self._waiting.note(opened.run)

    def recover(self, runs: Iterable[Run]) -> None:
        """What the last dispatcher refused for the moment; what is too old by now is not asked again."""
        now_ns = self._operator.clock.wall_ns()
        self._waiting.rebuild(run for run in runs if not self._too_old(run, now_ns))

    def _too_old(self, run: Run, now_ns: int) -> bool:
        entry = self.matcher.catalog.get(run.runbook)
        return entry is None or now_ns - run.event.time_ns > entry.runbook.guards.max_event_age * 1e9

    def hear(self, events: Iterable[Event]) -> deque[Question]:
        """What is to be answered. Each event is heard once, whatever becomes of the answers."""
        questions: deque[Question] = deque()
        for event in events:
            found = self.matcher.hear(event)
            questions += (Question(match.event or event, match) for match in found)
            others = len(self.matcher.catalog) - len({match.entry.runbook.name for match in found})
            if others:
                questions.append(Question(event, None, others))
        return questions

    def due(self, now_ns: int) -> deque[Question]:
        """What time has brought."""
        return deque(Question(match.event, match) for match in self.matcher.due(now_ns) if match.event)

    def again(self) -> deque[Question]:
        """Events whose host was busy and is not any more."""
        if not self._waiting:
            return deque()
        catalog, ready = self.matcher.catalog, self._waiting.take_ready(self._operator.store.runs()[0])
        known = ((run, catalog[run.runbook]) for run in ready if run.runbook in catalog)
        return deque(Question(again(run), _matched(run, entry), after=run.run_id) for run, entry in known)

    async def answer(self, questions: deque[Question]) -> None:
        """Answers and takes away each, then keeps the answers. After an OSError (the disk takes nothing) it is called
        again with what is left."""
        while questions:
            self._lines.append(await self._line(questions[0]))
            questions.popleft()
            await asyncio.sleep(0)  # runs go on meanwhile
        if self._lines:
            self._audit.append_all(self._lines)
            self._lines = []

    async def _line(self, asked: Question) -> dict[str, Any]:
        event, match = asked.event, asked.match
        if match is None:
            why = f"{asked.others} of {len(self.matcher.catalog)} runbooks do not name {event.name}"
            return {"event": event.id, "host": event.host, "runbook": "", "matched": False, "why": why}
        answer = await self._ask(match.entry, event, after=asked.after) if match.matched else {"why": match.why}
        told = original_id(event.id) if asked.after else event.id
        line = {"event": told, "host": event.host, "runbook": match.entry.runbook.name, "matched": match.matched}
        line.update({"run_id": "", "admitted": False, **answer})
        if asked.after:
            line["why"] = f"asked again, for its host was busy at run {asked.after}: {line['why']}"
        if match.timed:
            line.update(timed=True, why=f"{match.why}; {line['why']}")
        if match.matched:
            _LOG.info("decided", name=event.name, **{key: value for key, value in line.items() if key != "seal"})
        return line

    async def _ask(self, entry: CatalogEntry, event: Event, *, after: str) -> dict[str, Any]:
        """Makes the run and asks the guards, unless the event belongs to one there is."""
        key, run_id = (entry.runbook.name, event.host), run_id_for(event, entry.runbook.name)
        active = self._active.get(key)
        if active is not None and not active.run.ended and active.run.run_id != run_id:
            why = f"run {active.run.run_id} is under way on {event.host}: it belongs to that"
            return {"why": why, "run_id": active.run.run_id}
        hosts = self._operator.hosts
        if event.host not in hosts:  # names cost whoever sends them nothing: they make no runs
            return {"why": f"scope: {unknown_words(event.host, len(hosts))}"}
        now_ns = self._operator.clock.wall_ns()
        if after:
            self._refused.pop(key, None)  # it was refused for a moment that is over
        for of in (key, (entry.runbook.name, _ANY_HOST)):
            at_ns, refused = self._refused.get(of, (0, None))
            if refused and refused.run_id != run_id and 0 <= now_ns - at_ns < REFUSAL_HOLDS_S * 1e9:
                ago, on = format_duration((now_ns - at_ns) / 1e9), "" if of is key else f" on {refused.host}"
                return {"why": f"refused {ago} before{on}, and so is this: {refused.reason}", "run_id": refused.run_id}
        opened = self._operator.store.create(event, entry, self._operator.clock)
        if opened is None:
            return {"why": "this event has its run already"}
        try:
            happening = await attempt(self._operator, Effect.ADMIT, opened.run, entry.runbook, opened.directory)
            opened.record(happening, self._operator.clock, sealed=False)
        except BaseException:  # it is found as one that nobody drives
            opened.close()
            raise
        run = opened.run
        answer = {"why": run.reason, "run_id": run.run_id, "admitted": not run.ended}
        if run.ended:
            answer["seal"] = opened.seal().as_json()  # in the line of its decision: in a storm there are many
            opened.close()
            for_all = isinstance(happening, Refused) and happening.guard in _FOR_ALL_HOSTS
            self._remember((key[0], _ANY_HOST) if for_all else key, now_ns, run)
            self._waiting.note(run)
        else:
            self.begun(opened)
            self._start(opened)
        return answer

    def _remember(self, key: tuple[str, str], now_ns: int, run: Run) -> None:
        self._refused[key] = now_ns, run
        self._refused.move_to_end(key)
        if len(self._refused) > _REMEMBERED_REFUSALS:
            self._refused.popitem(last=False)
