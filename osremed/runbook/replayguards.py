"""Guards over past time: which runs a set of rules would have let in, event by event, at the time of each.

What a run took and how it ended is taken from the run there was; where there was none, it is taken to have lasted a
minute and to have helped. Guards that only people or the disk can answer (freezes, damaged journals, changes left half
undone) say yes: the replay asks what the rules would do, not what the day was like. Scope and the policies of groups
are asked where an inventory says who is in them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from osremed.core.event import Event
from osremed.core.record import record
from osremed.runbook.catalog import CatalogEntry
from osremed.runbook.document import Runbook
from osremed.runbook.guards import Situation, refusing_guard
from osremed.runbook.model import RunState
from osremed.runbook.replayfleet import Fleet, Policies, telling
from osremed.runbook.store import RunStore, run_id_for

_ASSUMED_S = 60.0


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


class _PastRun:
    """What guards look at of a run. It goes through time with the events: begun, then ended."""

    __slots__ = (
        "_ends_as",
        "acted",
        "admitted",
        "ended",
        "ends_ns",
        "event",
        "host",
        "looks_only",
        "raised_ns",
        "run_id",
        "runbook",
        "state",
        "updated_ns",
    )

    def __init__(self, run_id: str, runbook: Runbook, event: Event) -> None:
        self.run_id, self.runbook, self.event, self.host = run_id, runbook.name, event, event.host
        self.looks_only = runbook.looks_only
        self.state, self.raised_ns, self.updated_ns = RunState.RAISED, event.time_ns, event.time_ns
        self.admitted = self.ended = self.acted = False

    def begin(self, course: Course, acts: bool) -> None:
        self.state, self.admitted, self.acted = RunState.APPLYING if acts else RunState.COLLECTING, True, acts
        self.ends_ns, self._ends_as = self.raised_ns + round(course.took_s * 1e9), course.state

    def be_at(self, now_ns: int) -> None:
        if now_ns >= self.ends_ns:
            self.state, self.updated_ns, self.ended = self._ends_as, self.ends_ns, True


_NONE: deque[_PastRun] = deque()  #: stays empty


class PastRuns:
    """The runs one set of `rules`, with its `policies`, would have begun so far on this fleet. Memory and time of a
    question are bounded by what guards can look back on, not by the number of events."""

    def __init__(self, rules: Iterable[Runbook], policies: Policies, courses: Courses, fleet: Fleet) -> None:
        guards = [*(rule.guards for rule in rules), *(policy.whole for policy in policies)]
        self._courses, self._fleet, self.told = courses, fleet, telling(policies, fleet)
        self._long_s = max((max(g.recurrence.per, g.failures.pause, g.cooldown) for g in guards), default=0.0)
        self._wide_s = max((max(g.storm.per, g.blast_radius.per if g.blast_radius else 0) for g in guards), default=0.0)
        self._last = max((max(g.breaker.of, g.failures.max) for g in guards), default=0)
        self._of_host: dict[str, deque[_PastRun]] = {}
        self._of_runbook: dict[str, deque[_PastRun]] = {}
        self.refusals: Counter[str] = Counter()

    def ask(self, entry: CatalogEntry, event: Event, *, acts: bool) -> str:
        """The guard that says no, or "" and the run begins; `acts` says whether it would change something. Events come
        in the order of their time."""
        name, host, now_ns = entry.runbook.name, event.host, event.time_ns
        run = _PastRun(run_id_for(event, name), entry.runbook, event)
        others = self._looked_at(name, host, now_ns)
        held, why = self.told(host, name)
        known, size = self._fleet.has(host), self._fleet.hosts
        now = Situation(run, entry.runbook, others, size, known, now_ns, restrictions=held, unrestricted_why=why)
        guard = refusing_guard(now)
        if guard:
            self.refusals[guard] += 1
        else:
            run.begin(self._courses.get(run.run_id, _ASSUMED), acts)
            self._of_host.setdefault(host, deque()).append(run)
            self._of_runbook.setdefault(name, deque()).append(run)
        return guard

    def _looked_at(self, runbook: str, host: str, now_ns: int) -> Sequence[_PastRun]:
        """Each once, as it is now."""
        here, fleet = self._of_host.get(host, _NONE), self._of_runbook.get(runbook, _NONE)
        _forget(here, now_ns, self._long_s, keep=self._last)
        _forget(fleet, now_ns, self._wide_s, keep=self._last)
        seen = {run.run_id for run in here}
        others = [*here, *[run for run in fleet if run.run_id not in seen]]
        for run in others:
            if not run.ended:
                run.be_at(now_ns)
        return others


def _forget(runs: deque[_PastRun], now_ns: int, window_s: float, *, keep: int) -> None:
    """Drops the oldest that ended before the window, but for the last few."""
    while len(runs) > keep and runs[0].ends_ns < now_ns - window_s * 1e9:
        runs.popleft()
