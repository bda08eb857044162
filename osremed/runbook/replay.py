"""Past events under two sets of rules: what each would have decided, and where they differ.

Matching is decided for every event. Findings and plan are decided where the evidence of that time was kept (an earlier
run of the same event); elsewhere the answer ends with "a run begins". Each says whether a person would be asked first.
Guards are asked at the time of each event, see `replayguards`, on a fleet that the answer names, see `replayfleet`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput, NotFound, OsremedError
from osremed.core.event import Event, event_from_json
from osremed.core.evidence import Bundle, load_bundle
from osremed.core.files import read_bytes
from osremed.core.journal import read_journal
from osremed.core.language import filled
from osremed.core.record import field, record
from osremed.runbook.catalog import CatalogEntry, Match
from osremed.runbook.decide import decide
from osremed.runbook.matcher import Matcher
from osremed.runbook.model import Run
from osremed.runbook.modes import mode_of
from osremed.runbook.replayfleet import Fleet, FleetTold, Policies, fleet_lines, told_of
from osremed.runbook.replayguards import Courses, PastRuns
from osremed.runbook.replaymodes import WORDS, How, how_begun, how_decided, modes_text
from osremed.runbook.store import RunStore

Catalog = Mapping[str, CatalogEntry]
#: The evidence of an event's run, if it was kept.
Evidence = Callable[[Event], "Bundle | None"]
NO_RUN = "no run"


@record
class Difference:
    """One event and runbook that the two sets answer differently."""

    event_id: str
    event: str
    host: str
    runbook: str
    old: str
    new: str

    def as_json(self) -> dict[str, str]:
        names = ("event_id", "event", "host", "runbook", "old", "new")
        return {name: getattr(self, name) for name in names}


@record
class Replayed:
    """`decisions` counts event x runbook pairs in which at least one set begins a run; `unreadable` journal lines."""

    events: int
    decisions: int
    with_evidence: int
    differences: tuple[Difference, ...]
    unreadable: int
    refusals: Mapping[str, int] = field(default_factory=dict)  #: guard -> runs it would have refused under the new set
    modes: Mapping[How, int] = field(default_factory=dict)  #: how many of the runs the new set begins would ask, or act
    fleet: FleetTold | None = None  #: None: guards and policies were not asked

    @property
    def refused(self) -> str:
        """Who would refuse how often under the new set, in words."""
        return ", ".join(f"{guard} {count}" for guard, count in sorted(self.refusals.items())) or "none"

    @property
    def changed_share(self) -> float:
        return len(self.differences) / self.decisions if self.decisions else 0.0

    def as_json(self) -> dict[str, Any]:
        differences = [each.as_json() for each in self.differences]
        return {
            "events": self.events,
            "decisions": self.decisions,
            "with_evidence": self.with_evidence,
            "unreadable": self.unreadable,
            "refusals": dict(self.refusals),
            "modes": dict(self.modes),
            "fleet": self.fleet.as_json() if self.fleet else None,
            "differences": differences,
        }


def read_events(directory: str, *, since_ns: int) -> tuple[tuple[Event, ...], int]:
    """(the events of a journal since then, how many lines could not be read)."""
    if not os.path.isdir(directory):
        return (), 0
    contents = read_journal(directory)
    events, unreadable = [], len(contents.damaged)
    for entry in contents.entries:
        try:
            event = event_from_json(entry.record)
        except OsremedError:
            unreadable += 1
            continue
        if event.time_ns >= since_ns:
            events.append(event)
    return tuple(events), unreadable


def past_events(source: str, *, since_ns: int = 0) -> tuple[tuple[Event, ...], int]:
    """The same of a journal, or of a file with one event as JSON a line, whatever its age there. NotFound if it is
    neither; BadInput if not one line is an event."""
    if not os.path.isfile(source):
        if not os.path.isdir(source):
            raise NotFound("no events", where=source, hint="a file of JSON lines, or a journal")
        return read_events(source, since_ns=since_ns)
    events, wrong = [], 0
    for number, line in enumerate(read_bytes(source).splitlines(), 1):
        try:
            events.append(event_from_json(json.loads(line), where=f"{source}:{number}"))
        except (ValueError, RecursionError, BadInput):
            wrong += 1
    if wrong and not events:
        raise BadInput("not one line is an event", where=source, hint="one JSON object a line, as the intake has them")
    return tuple(events), wrong


def kept_evidence(store: RunStore) -> Evidence:
    """The bundle of any run of the event: evidence does not depend on which runbook asked for it first."""
    runs_of: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(store.runs()[0], key=lambda run: run.runbook):
        runs_of.setdefault((run.event.id, run.host), []).append(run)

    def find(event: Event) -> Bundle | None:
        for run in runs_of.get((event.id, event.host), ()):
            path = store.of(run.run_id).bundle
            if os.path.isdir(path):
                try:
                    return load_bundle(path)
                except (OsremedError, OSError):
                    continue
        return None

    return find


def no_evidence(_event: Event) -> Bundle | None:
    return None


@record
class Said:
    """`words` are equal when the decision is; `how` is "" where no run begins."""

    words: str
    how: How | Literal[""] = ""


_NOTHING = Said(NO_RUN)


def answer(match: Match, bundle: Bundle | None, past: PastRuns | None = None) -> Said:
    """What the rules say to what a match begins with. Without `past` neither guards nor policies are asked."""
    entry, event = match.entry, match.event
    if event is None:
        return _NOTHING
    mode = mode_of(entry.runbook, *(past.told(event.host, entry.runbook.name) if past else ()))
    decision = decide(entry.runbook, event, bundle, mode) if bundle is not None else None
    guard = past.ask(entry, event, acts=decision is None or bool(decision.intents)) if past else ""
    if guard:
        return Said(f"refused by {guard}")
    if decision is None:
        how = how_begun(entry.runbook, event, mode)
        return Said(f"a run begins; {WORDS[how]}", how)
    how = how_decided(decision)
    findings = ", ".join(finding.name for finding in decision.findings) or "nothing found"
    plan = "; ".join(f"{intent.action} {canonical_json(intent.args).decode()}" for intent in decision.intents)
    return Said(f"{findings} -> {f'{plan}; {WORDS[how]}' if plan else 'no change'}", how)


Matches = dict[tuple[str, str], Match]


def _matches(matcher: Matcher, event: Event) -> Matches:
    """What begins a run at this event or because of the time until then: (runbook, event id) -> match."""
    found: dict[tuple[str, str], Match] = {}
    for said in (matcher.due(event.time_ns), matcher.hear(event)):
        for match in said:
            if match.event is not None:
                found[match.entry.runbook.name, match.event.id] = match
    return found


class _Sets:
    """Two sets of rules that hear the same events: what they have in common is matched once."""

    def __init__(self, old: Catalog, new: Catalog) -> None:
        names = {name for name in old.keys() & new.keys() if old[name].runbook == new[name].runbook}
        self._common = Matcher({name: new[name] for name in names})
        self._old, self._new = (
            Matcher({name: entry for name, entry in catalog.items() if name not in names}) for catalog in (old, new)
        )
        self.equal = len(names) == len(old) == len(new)

    def hear(self, event: Event) -> tuple[Matches, Matches]:
        both = _matches(self._common, event)
        if self.equal:
            return both, both
        old, new = _matches(self._old, event), _matches(self._new, event)
        return (both | old if old else both), (both | new if new else both)


def replay_events(
    events: Iterable[Event],
    old: Catalog,
    new: Catalog,
    evidence: Evidence,
    *,
    unreadable: int = 0,
    courses: Courses | None = None,
    fleet: Fleet | None = None,
    policies: tuple[Policies, Policies] = ((), ()),
) -> Replayed:
    """Both answers to every event, in the order of their time. Pure but for reading evidence. `courses` are the runs
    there were; without them guards are not asked. `policies` are those of the old and of the new set; without a `fleet`
    a share is one of the hosts that had events. What a window still waits for when the events end begins nothing."""
    differences: list[Difference] = []
    modes: Counter[How] = Counter()
    decisions = with_evidence = 0
    ordered = sorted(events, key=lambda event: event.time_ns)
    hosts = frozenset(event.host for event in ordered)
    fleet = fleet or Fleet("events", len(hosts))
    before, after = (
        PastRuns([entry.runbook for entry in catalog.values()], theirs, courses, fleet) if courses is not None else None
        for catalog, theirs in zip((old, new), policies, strict=True)
    )
    sets = _Sets(old, new)
    same = sets.equal and policies[0] == policies[1]
    for event in ordered:
        was, now = sets.hear(event)
        if not was and not now:
            continue
        for key in sorted(was.keys() | now.keys()):
            begun = (now.get(key) or was[key]).event or event
            bundle = evidence(begun)
            decisions += 1
            with_evidence += bundle is not None
            said_now = answer(now[key], bundle, after) if key in now else _NOTHING
            if said_now.how:
                modes[said_now.how] += 1
            if same:
                continue
            words = (answer(was[key], bundle, before) if key in was else _NOTHING).words
            if words != said_now.words:
                differences.append(Difference(begun.id, begun.name, begun.host, key[0], words, said_now.words))
    counts = len(ordered), decisions, with_evidence
    if after is None:
        return Replayed(*counts, tuple(differences), unreadable, modes=dict(modes))
    told = told_of(fleet, policies[1], hosts)
    return Replayed(*counts, tuple(differences), unreadable, dict(after.refusals), dict(modes), told)


def told_lines(replayed: Replayed) -> Iterator[str]:
    """Who would be asked, and on which fleet it was, in the language that is spoken."""
    if replayed.modes:
        yield filled("the runs that begin: {1}", modes_text(replayed.modes))
    if replayed.fleet is None:
        yield filled("neither guards nor policies of groups were asked: the mode is that of the runbook")
    else:
        yield from fleet_lines(replayed.fleet)
