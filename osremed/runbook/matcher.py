"""Events in, matches out: every trigger of a set of runbooks, found by the event's name, with what each remembers.

Bounded: a trigger keeps the memory of at most `max_groups` groups; the one not heard of for longest is forgotten first,
and the answer to the event that pushed it out says so.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from osremed.core.event import Event
from osremed.runbook.catalog import CatalogEntry, Match, event_as_data
from osremed.runbook.expressions import ExpressionFailed, condition_holds
from osremed.runbook.triggers import Trigger
from osremed.runbook.windows import Heard, Kept, Kind, hear, kind_of, ring, span_ns

MAX_GROUPS = 20_000
#: Hosts tell a little later than it happens: time answers only when it is over for so long.
LATE_NS = 2 * 10**9
_MISSING = object()
Group = tuple[str, ...]
#: (nanoseconds, number of the listener, its group)
Due = tuple[int, int, Group]


class _Listener:
    """One trigger of one runbook, and what it remembers of each group."""

    def __init__(
        self, entry: CatalogEntry, trigger: Trigger, number: int, max_groups: int, wake: Callable[[Due], None]
    ) -> None:
        """`wake` is told whenever time is to answer."""
        self.entry, self.trigger, self.number, self._wake = entry, trigger, number, wake
        self.kind, self.clauses = kind_of(trigger), trigger.clauses
        none = tuple(trigger.none or ())
        #: Event name -> (number, condition) of the clauses that want it, and the conditions of `not` that do.
        self._wanted = {
            name: (
                tuple((number, each.where) for number, each in enumerate(self.clauses) if each.event == name),
                tuple(each.where for each in none if each.event == name),
            )
            for name in {each.event for each in (*self.clauses, *none)}
        }
        self.groups: OrderedDict[Group, Kept] = OrderedDict()
        self.forgotten = 0
        self._max_groups = max_groups
        self._anew_ns = max(span_ns(trigger), 10**9)

    @property
    def names(self) -> Iterable[str]:
        return self._wanted.keys()

    @property
    def key(self) -> tuple[str, str]:
        """The same key: the same question, so its memory outlives a change of the rest of the runbook."""
        return self.entry.runbook.name, self.trigger.model_dump_json()

    def listen(self, event: Event, data: Mapping[str, Any]) -> list[Match]:
        """What it says to an event it names; the last says what became of the event itself."""
        heard = self._heard(event, data)
        if not (heard.clauses or heard.vetoed or heard.cleared):
            return [self._no(heard.unsure or self._false(event))]
        if self.kind is Kind.EACH:
            clause = self.clauses[heard.clauses[0]]
            return [Match(self.entry, True, f"on {clause.event} where {clause.where or 'always'}", event)]
        group = self._group(data)
        if isinstance(group, str):
            return [self._no(group)]
        found, kept, note = [], self.groups.get(group), ""
        if kept is not None and event.time_ns < kept.latest_ns - self._anew_ns:
            kept, note = None, "; the clock went back, so it begins anew"
        if kept is not None:
            heard = replace(heard, at_ns=max(event.time_ns, kept.latest_ns))
            if 0 < kept.due_ns <= heard.at_ns:
                found = self.ring(group)
                kept = self.groups.get(group)
        said = hear(self.trigger, kept, heard)
        note += self._keep(group, said.kept)
        if said.event is None:
            return [*found, self._no(said.why + note)]
        return [*found, Match(self.entry, True, said.why + note, said.event)]

    def ring(self, group: Group) -> list[Match]:
        """Its due time has come."""
        said = ring(self.trigger, self.groups[group])
        self._keep(group, said.kept)
        return [Match(self.entry, True, said.why, said.event, timed=True)] if said.event is not None else []

    def _no(self, why: str) -> Match:
        return Match(self.entry, False, why)

    def _false(self, event: Event) -> str:
        wanted = [where for _number, where in self._wanted[event.name][0] if where]
        return f"`{wanted[0]}` is false" if wanted else f"{event.name} is only for its `not`, which is false"

    def _heard(self, event: Event, data: Mapping[str, Any]) -> Heard:
        about, unsure = {"event": data}, []

        def holds(condition: str | None) -> bool:
            try:
                return condition is None or condition_holds(condition, about)
            except ExpressionFailed as error:
                unsure.append(error.what)
                return False

        wanted, unwanted = self._wanted[event.name]
        found = tuple([number for number, where in wanted if holds(where)])
        vetoed = any(map(holds, unwanted))
        cleared = False
        if self.kind is Kind.HELD:
            clear = self.trigger.clear
            cleared = holds(clear) if clear is not None else not found and not unsure
        return Heard(event, event.time_ns, found, vetoed, cleared, unsure[0] if unsure else "")

    def _group(self, data: Mapping[str, Any]) -> Group | str:
        """The values that tell its group apart; a str says which one the event lacks."""
        values = []
        for name in self.trigger.group_by:
            value: Any = data
            for part in name.split("."):
                value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
            if value is _MISSING:
                return f"the event has no `{name}` to group by"
            values.append(repr(value))
        return tuple(values)

    def _keep(self, group: Group, kept: Kept | None) -> str:
        if kept is None:
            self.groups.pop(group, None)
            return ""
        before = self.groups.get(group)
        if kept.due_ns and (before is None or before.due_ns != kept.due_ns):
            self._wake((kept.due_ns, self.number, group))
        self.groups[group] = kept
        self.groups.move_to_end(group)
        if len(self.groups) <= self._max_groups:
            return ""
        oldest, _ = self.groups.popitem(last=False)
        self.forgotten += 1
        return f"; {self._max_groups} groups are kept: ({', '.join(oldest)}) was forgotten"


class Matcher:
    """`hear` each event in the order it came, `due` when time has gone by."""

    def __init__(self, catalog: Mapping[str, CatalogEntry], *, max_groups: int = MAX_GROUPS) -> None:
        self.catalog = catalog
        self._due: list[Due] = []
        self._listeners = [
            _Listener(entry, trigger, number, max_groups, self._wake)
            for number, (entry, trigger) in enumerate(
                (entry, trigger) for entry in catalog.values() for trigger in entry.runbook.on
            )
        ]
        self._by_name: dict[str, list[_Listener]] = {}
        for listener in self._listeners:
            for name in listener.names:
                self._by_name.setdefault(name, []).append(listener)

    @property
    def forgotten(self) -> int:
        """Groups whose memory was given up because there were too many."""
        return sum(listener.forgotten for listener in self._listeners)

    @property
    def remembers(self) -> frozenset[str]:
        """Names of the events that some trigger counts beyond the moment."""
        stateful = (each for each in self._listeners if each.kind is not Kind.EACH)
        return frozenset(name for each in stateful for name in each.names)

    def hear(self, event: Event) -> list[Match]:
        """What each runbook that names the event says: its matches, else why not. Never raises: a condition without a
        value does not match, and says so."""
        listeners = self._by_name.get(event.name)
        if not listeners:
            return []
        data = event_as_data(event)
        if len(listeners) == 1:
            return _told(listeners[0].listen(event, data))
        said: dict[str, list[Match]] = {}
        for listener in listeners:
            said.setdefault(listener.entry.runbook.name, []).extend(listener.listen(event, data))
        return [match for each in said.values() for match in _told(each)]

    def due(self, now_ns: int) -> list[Match]:
        """What begins because time went by, in the order of time."""
        found: list[Match] = []
        while self._due and self._due[0][0] + LATE_NS <= now_ns:
            item = heapq.heappop(self._due)
            if self._stands(item):
                found += self._listeners[item[1]].ring(item[2])
        return found

    def adopt(self, before: Matcher) -> None:
        """Takes over what the set before remembered for triggers that are the same."""
        old = {listener.key: listener for listener in before._listeners}
        for listener in self._listeners:
            same = old.get(listener.key)
            if same is not None:
                listener.groups, listener.forgotten = same.groups, same.forgotten
                self._due += [(kept.due_ns, listener.number, group) for group, kept in same.groups.items()]
        heapq.heapify(self._due)

    def rebuild(self, events: Iterable[Event], decided: Container[tuple[str, str]]) -> None:
        """Remembers again what events that were decided long ago had left; begins nothing. `decided` has (event
        id, runbook) of what was decided because its time had come."""
        names = self.remembers
        for event in events:
            if event.name in names:
                self.hear(event)
        for item in sorted(self._due):
            listener = self._listeners[item[1]]
            if self._stands(item) and (listener.groups[item[2]].last.id, listener.entry.runbook.name) in decided:
                listener.ring(item[2])

    def _wake(self, item: Due) -> None:
        heapq.heappush(self._due, item)
        if len(self._due) > 4 * sum(len(each.groups) for each in self._listeners) + 1000:
            self._due = [each for each in set(self._due) if self._stands(each)]
            heapq.heapify(self._due)

    def _stands(self, item: Due) -> bool:
        kept = self._listeners[item[1]].groups.get(item[2])
        return kept is not None and 0 < kept.due_ns == item[0]


def _told(said: list[Match]) -> list[Match]:
    """Of one runbook: every match (one run an event), else one no with every reason."""
    yes = {match.event.id: match for match in reversed(said) if match.event is not None}
    if yes:
        return list(reversed(yes.values()))
    if len(said) == 1:
        return said
    return [replace(said[0], why="; ".join(dict.fromkeys(match.why for match in said)))]
