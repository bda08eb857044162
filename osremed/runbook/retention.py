"""Which finished runs need not be kept any longer, and their removal.

A run stays while anybody may still ask for it: a person who would take it back, one who has to see to what is half
undone, a guard that looks back at it. What statistics count of a removed run is in the audit of people's commands, in
the entry that says it was removed; that entry is on disk before anything is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

from pydantic import TypeAdapter, ValidationError

from osremed.core.errors import BadInput
from osremed.core.journal import read_journal
from osremed.core.record import record
from osremed.runbook.audit import Audit
from osremed.runbook.document import Guards, Runbook
from osremed.runbook.guardpolicy import Restrict
from osremed.runbook.model import Run, RunState
from osremed.runbook.operator import Operator
from osremed.runbook.stats import Ending, ending_of
from osremed.runbook.undoing import steps_back

_VERB = "retire"
DAY_S = 86400.0
#: Removed at once: those who give commands wait for the audit meanwhile.
BATCH = 100
#: A guard may look back at many, and asking for each costs a look at the policies.
_LOOKED_AT = 1000
_ENDING: TypeAdapter[Ending] = TypeAdapter(Ending)


@record
class Keep:
    """How many runs stay (0: all), for how long (0: for ever), and how long at least one that can still be taken
    back."""

    most: int = 10_000
    age_s: float = 365 * DAY_S
    undo_s: float = 30 * DAY_S


def outlived(
    runs: Sequence[Run], keep: Keep, *, acknowledged: Collection[str], now_ns: int
) -> Iterator[tuple[Run, ...]]:
    """Pure. Those that are too old or too many and that no person can ask for any more, the oldest first; each with the
    runs that took it back after it: they say that it was."""
    newest = sorted(runs, key=lambda run: run.updated_ns, reverse=True)
    excess = frozenset(run.run_id for run in newest[keep.most :]) if keep.most else frozenset[str]()
    families: dict[str, list[Run]] = {}
    for run in reversed(newest):
        families.setdefault(run.undoes or run.run_id, []).append(run)

    def over(run: Run) -> bool:
        unwanted = run.run_id in excess or 0 < keep.age_s <= _age_s(run, now_ns)
        return unwanted and not _a_persons(run, keep, acknowledged, now_ns)

    for family in families.values():
        if all(map(over, family)):
            yield tuple(sorted(family, key=lambda run: (run.undoes != "", run.raised_ns)))


def _age_s(run: Run, now_ns: int) -> float:
    return (now_ns - run.updated_ns) / 1e9


def _a_persons(run: Run, keep: Keep, acknowledged: Collection[str], now_ns: int) -> bool:
    """It goes on, it was not taken back completely and nobody has seen to it, or it can be taken back and is young
    enough."""
    age_s = _age_s(run, now_ns)
    if not run.ended or age_s < DAY_S:
        return True
    if run.state is RunState.UNDO_INCOMPLETE and run.run_id not in acknowledged:
        return True
    return age_s < keep.undo_s and _can_be_taken_back(run)


def _can_be_taken_back(run: Run) -> bool:
    try:
        return bool(steps_back(run))
    except BadInput:
        return False


def looks_back_s(guards: Guards) -> float:
    """Pure. To these a run that ended longer ago says nothing, but to the breaker."""
    wide_s = guards.blast_radius.per if guards.blast_radius else 0.0
    per_s = (guards.recurrence.per, guards.storm.per, guards.failures.pause)
    return max(guards.cooldown, guards.max_event_age, wide_s, *per_s)


class _Guarding:
    """What guards look back at, among these runs."""

    def __init__(self, runs: Sequence[Run], rules: Mapping[str, Runbook], restrict: Restrict, now_ns: int) -> None:
        self._rules, self._restrict, self._now_ns = rules, restrict, now_ns
        self._acted: dict[str, list[Run]] = {}  #: by runbook, the newest first
        for run in sorted(runs, key=lambda run: run.updated_ns, reverse=True):
            if run.ended and run.acted:
                self._acted.setdefault(run.runbook, []).append(run)

    def looks_at(self, run: Run) -> bool:
        """True while a guard of its runbook, or of a group that its host is in, does, or nobody can say."""
        acted = self._acted.get(run.runbook, [])
        if run.runbook in self._rules and self._asks(self._rules[run.runbook].guards, run, acted):
            return True
        try:
            groups = self._restrict(run.host, run.runbook)
        except BadInput:
            return True
        bound = (each for each in groups if each.names)
        return any(self._asks(each.guards, run, (of for of in acted if of.host in each.hosts)) for each in bound)

    def _asks(self, guards: Guards, run: Run, acted: Iterable[Run]) -> bool:
        """For its age, or for the breaker as one of the last."""
        young = _age_s(run, self._now_ns) < looks_back_s(guards)
        return young or any(run is each for each in itertools.islice(acted, guards.breaker.of))


def retire(
    operator: Operator, hands: str, rules: Mapping[str, Runbook], keep: Keep, *, held: Collection[str] = ()
) -> int:
    """Removes some of what need not be kept, each with an entry in the audit `hands`; how many. `held`: ids of events
    whose runs somebody counts on. BlockingIOError while another command has the audit; OSError when the disk takes no
    entry: then nothing is removed."""
    store = operator.store
    store.sweep()
    if not _chosen(operator, rules, keep, held):
        return 0
    audit = Audit(hands)
    try:  # looked at anew: now nobody begins to take one back
        chosen = _chosen(operator, rules, keep, held)
        if chosen:
            audit.append_all([{"verb": _VERB, "by": "retention", "run": asdict(ending_of(run))} for run in chosen])
        for run in chosen:
            store.remove(run.run_id)
    finally:
        audit.close()
    return len(chosen)


def _chosen(operator: Operator, rules: Mapping[str, Runbook], keep: Keep, held: Collection[str]) -> list[Run]:
    said, now_ns = operator.said(), operator.clock.wall_ns()
    runs, damaged = operator.store.runs()
    if said is None or damaged:  # what people want, and what there is, is not known
        return []
    guarding = _Guarding(runs, rules, operator.restrict, now_ns)
    chosen: list[Run] = []
    for family in itertools.islice(outlived(runs, keep, acknowledged=said.acknowledged, now_ns=now_ns), _LOOKED_AT):
        if not any(run.event.id in held or guarding.looks_at(run) for run in family):
            chosen += family
        if len(chosen) >= BATCH:
            break
    return chosen


def retired(hands: str, *, after_seq: int = -1) -> tuple[tuple[Ending, ...], int]:
    """(what statistics count of removed runs, number of the last entry looked at). A run whose removal was broken off
    may be told twice."""
    contents = read_journal(hands, after_seq=after_seq) if os.path.isdir(hands) else None
    entries = contents.entries if contents else ()
    found = []
    for entry in entries:
        if entry.record.get("verb") == _VERB:
            with contextlib.suppress(ValidationError):  # `osremed audit verify` says what is wrong with it
                found.append(_ENDING.validate_python(entry.record.get("run")))
    return tuple(found), entries[-1].seq if entries else after_seq
