"""How good the automation itself is: what it was asked, what it did, what helped, what came back."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.core.record import record
from osremed.runbook.model import ENDED, Run, RunState

#: A run that helped and was needed again on the same host within this time did not last.
_RECURS_WITHIN_NS = 24 * 3600 * 10**9


@record
class Ending:
    """What is counted of an ended run, also when the run itself is not kept any more."""

    run_id: str
    runbook: str
    host: str
    state: RunState
    event_ns: int
    raised_ns: int
    updated_ns: int
    acted: bool
    false_fire: bool
    manual_s: float | None = None
    waited_s: float = 0.0


def ending_of(run: Run) -> Ending:
    false_fire = bool(run.bundle) and not run.findings
    times = run.event.time_ns, run.raised_ns, run.updated_ns
    by_people = run.manual_s, run.waited_ns / 1e9
    return Ending(run.run_id, run.runbook, run.host, run.state, *times, run.acted, false_fire, *by_people)


@record
class Grade:
    """Counts of runs of one runbook; ratios are None where nothing was counted. `seconds` is the median from the event
    to the end of a kept run. `time_saved_s` is what people would have taken for the kept runs by hand, as the runbook
    said when each began (`manual_time`), less for each the median time that people were waited for, and not below 0;
    None where no run's runbook said it."""

    runbook: str
    runs: int
    refused: int  #: by a guard, a plan without a change, or an approver
    false_fires: int  #: evidence was collected and nothing was found
    acted: int
    kept: int
    undone: int
    undo_incomplete: int
    recurred: int
    seconds: float | None
    time_saved_s: float | None = None

    @property
    def success_ratio(self) -> float | None:
        return self.kept / self.acted if self.acted else None

    @property
    def undo_ratio(self) -> float | None:
        return (self.undone + self.undo_incomplete) / self.acted if self.acted else None

    @property
    def recurrence_ratio(self) -> float | None:
        return self.recurred / self.kept if self.kept else None

    def as_json(self) -> dict[str, Any]:
        names = ("runbook", "runs", "refused", "false_fires", "acted", "kept", "undone", "undo_incomplete", "recurred")
        ratios = ("seconds", "time_saved_s", "success_ratio", "undo_ratio", "recurrence_ratio")
        return {name: getattr(self, name) for name in (*names, *ratios)}


def grades(runs: Iterable[Run], *, since_ns: int = 0, removed: Iterable[Ending] = ()) -> tuple[Grade, ...]:
    """One grade a runbook, by name, over the runs that ended since then, with those that are not kept any more."""
    endings = {each.run_id: each for each in removed}
    endings.update((run.run_id, ending_of(run)) for run in runs)
    books: dict[str, list[Ending]] = {}
    for each in endings.values():
        if each.state in ENDED and each.updated_ns >= since_ns:
            books.setdefault(each.runbook, []).append(each)
    return tuple(_grade(name, books[name]) for name in sorted(books))


def _grade(name: str, runs: Sequence[Ending]) -> Grade:
    acted = [run for run in runs if run.acted]
    kept = [run for run in acted if run.state is RunState.SUCCEEDED]
    took = [(run.updated_ns - run.event_ns) / 1e9 for run in kept]
    states = [run.state for run in runs]
    return Grade(
        runbook=name,
        runs=len(runs),
        refused=states.count(RunState.REFUSED),
        false_fires=sum(run.false_fire for run in runs),
        acted=len(acted),
        kept=len(kept),
        undone=states.count(RunState.UNDONE),
        undo_incomplete=states.count(RunState.UNDO_INCOMPLETE),
        recurred=sum(1 for run in kept if _came_back(run, runs)),
        seconds=statistics.median(took) if took else None,
        time_saved_s=_saved_s([run.manual_s for run in runs], kept),
    )


def _saved_s(declared: Sequence[float | None], kept: Sequence[Ending]) -> float | None:
    if all(manual_s is None for manual_s in declared):
        return None
    counted = [(run.manual_s, run.waited_s) for run in kept if run.manual_s is not None]
    if not counted:
        return 0.0
    by_hand_s = sum(manual_s for manual_s, _waited_s in counted)
    waited_s = len(counted) * statistics.median(waited_s for _manual_s, waited_s in counted)
    return max(0.0, by_hand_s - waited_s)


def _came_back(run: Ending, runs: Sequence[Ending]) -> bool:
    after = (other.raised_ns - run.updated_ns for other in runs if other.host == run.host and other is not run)
    return any(0 < since_ns < _RECURS_WITHIN_NS for since_ns in after)


_METRICS: Mapping[str, str] = {
    "runs": "Ended runs",
    "refused": "Runs a guard, the plan or an approver refused",
    "false_fires": "Runs that found nothing",
    "acted": "Runs that may have changed a host",
    "kept": "Runs whose change was verified and kept",
    "undone": "Runs whose change was taken back",
    "undo_incomplete": "Runs whose change could not be taken back completely",
    "recurred": "Kept runs after which the need came back within a day",
}


def as_prometheus(found: Sequence[Grade]) -> str:
    """Text exposition format; a gauge each, because old runs may be removed."""
    lines = []
    for name, help_text in _METRICS.items():
        lines += [f"# HELP osremed_runs_{name} {help_text}", f"# TYPE osremed_runs_{name} gauge"]
        lines += [f'osremed_runs_{name}{{runbook="{each.runbook}"}} {getattr(each, name)}' for each in found]
    saved = [each for each in found if each.time_saved_s is not None]
    if saved:
        name, help_text = "osremed_runs_time_saved_seconds", "What people would have taken for the kept runs by hand"
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
        lines += [f'{name}{{runbook="{each.runbook}"}} {each.time_saved_s:.0f}' for each in saved]
    return "\n".join(lines) + "\n"
