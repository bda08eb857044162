"""Guards over past time: which runs a set of rules would have let in, event by event, at the time of each.

What a run took and how it ended is taken from the run there was; where there was none, it is taken to have lasted a
minute and to have helped. Guards that only people or the disk can answer (freezes, damaged journals, changes left half
undone, scope) say yes: the replay asks what the rules would do, not what the day was like.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

from osremed.core.action import Outcome, Status
from osremed.core.event import Event
from osremed.core.record import record
from osremed.runbook.catalog import CatalogEntry
from osremed.runbook.document import Runbook
from osremed.runbook.guards import Situation, refusing_guard
from osremed.runbook.model import Run, RunState
from osremed.runbook.store import RunStore, run_id_for

_ASSUMED_S = 60.0
_APPLIED = (Outcome(Status.OK, changed=True),)


@record
class Course:
    """How long a run took and how it ended."""

    took_s: float = _ASSUMED_S
    state: RunState = RunState.SUCCEEDED


_ASSUMED = Course()
#: Run id -> its course, where it is known.
Courses = Mapping[str, Course]


def recorded_courses(store: RunStore) -> Courses:
    """The runs there were. One that a guard refused tells nothing about how it would have gone."""
    return {
        run.run_id: Course((run.updated_ns - run.raised_ns) / 1e9, run.state)
        for run in store.runs()[0]
        if run.ended and run.state is not RunState.REFUSED
    }


@record
class _Begun:
    running: Run
    ended: Run

    def at(self, now_ns: int) -> Run:
        return self.ended if now_ns >= self.ended.updated_ns else self.running


def _at(run: Run, state: RunState, updated_ns: int, acts: bool) -> Run:
    """The run, admitted, in a later state. Spelled out: `replace` costs five times as much."""
    return Run(
        run.run_id,
        run.runbook,
        run.runbook_digest,
        run.event,
        state,
        "",
        run.raised_ns,
        updated_ns,
        admitted=True,
        applied=_APPLIED if acts else (),
    )


class PastRuns:
    """The runs one set of `rules` would have begun so far. Memory and time of a question are bounded by what guards can
    look back on, not by the number of events."""

    def __init__(self, rules: Iterable[Runbook], courses: Courses, fleet_hosts: int) -> None:
        guards = [rule.guards for rule in rules]
        self._courses, self._fleet_hosts = courses, fleet_hosts
        self._long_s = max((max(g.recurrence.per, g.failures.pause, g.cooldown) for g in guards), default=0.0)
        self._wide_s = max((max(g.storm.per, g.blast_radius.per if g.blast_radius else 0) for g in guards), default=0.0)
        self._last = max((max(g.breaker.of, g.failures.max) for g in guards), default=0)
        self._of_host: dict[str, deque[_Begun]] = {}
        self._of_runbook: dict[str, deque[_Begun]] = {}
        self.refusals: Counter[str] = Counter()

    def ask(self, entry: CatalogEntry, event: Event, *, acts: bool) -> str:
        """The guard that says no, or "" and the run begins; `acts` says whether it would change something. Events come
        in the order of their time."""
        name, now_ns = entry.runbook.name, event.time_ns
        run = Run(run_id_for(event, name), name, entry.digest, event, RunState.RAISED, "", now_ns, now_ns)
        others = [begun.at(now_ns) for begun in self._looked_at(entry, event.host, now_ns)]
        guard = refusing_guard(Situation(run, entry.runbook, others, self._fleet_hosts, True, now_ns))
        if guard:
            self.refusals[guard] += 1
        else:
            self._begin(run, acts)
        return guard

    def _begin(self, run: Run, acts: bool) -> None:
        course = self._courses.get(run.run_id, _ASSUMED)
        ended_ns = run.raised_ns + round(course.took_s * 1e9)
        begun = _Begun(
            _at(run, RunState.APPLYING if acts else RunState.COLLECTING, run.raised_ns, acts),
            _at(run, course.state, ended_ns, acts),
        )
        self._of_host.setdefault(run.host, deque()).append(begun)
        self._of_runbook.setdefault(run.runbook, deque()).append(begun)

    def _looked_at(self, entry: CatalogEntry, host: str, now_ns: int) -> Iterable[_Begun]:
        here, fleet = self._of_host.get(host, deque()), self._of_runbook.get(entry.runbook.name, deque())
        _forget(here, now_ns, self._long_s, keep=self._last)
        _forget(fleet, now_ns, self._wide_s, keep=self._last)
        seen = {begun.running.run_id for begun in here}
        return [*here, *(begun for begun in fleet if begun.running.run_id not in seen)]


def _forget(runs: deque[_Begun], now_ns: int, window_s: float, *, keep: int) -> None:
    """Drops the oldest that ended before the window, but for the last few."""
    while len(runs) > keep and runs[0].ended.updated_ns < now_ns - window_s * 1e9:
        runs.popleft()
