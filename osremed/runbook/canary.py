"""One runbook over many hosts: one host, then two, then twice as many as before, until too many were not kept. Pure.

A canary is the fold of its journal, as a run is. Each host has a run of its own, with every guard, its verification and
its undo; the next wave begins when every run of the one before has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from osremed.core.errors import BadInput
from osremed.core.language import filled
from osremed.core.phrase import Fill, plain
from osremed.core.record import field, record
from osremed.runbook.model import Run, RunState


@record
class Planned:
    """`stop_share`: more hosts than this share that were not kept end it; `settle_s`: rest between two waves."""

    canary_id: str
    runbook: str
    digest: str
    hosts: tuple[str, ...]
    attributes: Mapping[str, Any]
    stop_share: float
    settle_s: float
    by: str
    at_ns: int = 0  #: when it was asked for; 0: before this was kept
    by_uid: int | None = None  #: as `Run.requested_uid`
    rules_commit: str = ""  #: as `Run.rules_commit`
    kind: Literal["planned"] = "planned"


@record
class WaveBegan:
    hosts: tuple[str, ...]
    kind: Literal["wave"] = "wave"


@record
class HostEnded:
    host: str
    run_id: str
    state: RunState
    reason: str
    kind: Literal["host"] = "host"


@record
class Ended:
    """`stopped`: why before its time; "" when every host had its run."""

    stopped: str
    kind: Literal["ended"] = "ended"


Entry = Annotated[Planned | WaveBegan | HostEnded | Ended, Field(discriminator="kind")]


@record
class Stop:
    """What a person said who stops a canary."""

    by: str
    why: str
    at_ns: int

    @property
    def said(self) -> str:
        return _stop_words(self, plain)


def _stop_words(stop: Stop, fill: Fill) -> str:
    return fill("{1} stopped it: {2}", stop.by, stop.why) if stop.why else fill("{1} stopped it", stop.by)


@record
class Canary:
    planned: Planned
    waves: tuple[tuple[str, ...], ...] = ()
    outcomes: Mapping[str, HostEnded] = field(default_factory=dict)
    ended: bool = False
    stopped: str = ""

    @property
    def failed(self) -> list[HostEnded]:
        return [each for each in self.outcomes.values() if fate(each) == "failed"]

    @property
    def left(self) -> tuple[str, ...]:
        """Hosts of the wave under way whose runs have not ended."""
        wave = self.waves[-1] if self.waves else ()
        return tuple(host for host in wave if host not in self.outcomes)

    @property
    def untouched(self) -> tuple[str, ...]:
        """Hosts no wave has reached; once it has ended, also those of the last wave that had no run."""
        reached = set(self.outcomes) if self.ended else {host for wave in self.waves for host in wave}
        return tuple(host for host in self.planned.hosts if host not in reached)


def fate(ended: HostEnded) -> Literal["kept", "nothing", "failed"]:
    """`nothing`: the host was as wanted. What a guard or a person refused is not known to be well: failed."""
    if ended.state is RunState.SUCCEEDED:
        return "kept"
    return "nothing" if ended.state is RunState.REFUSED and ended.reason.startswith("plan: ") else "failed"


def fold(entries: Iterable[Entry]) -> Canary:
    """BadInput for a journal that does not begin with its plan."""
    canary: Canary | None = None
    outcomes: dict[str, HostEnded] = {}  # one for all: a copy for each of ten thousand hosts is most of the work
    for entry in entries:
        if isinstance(entry, Planned):
            outcomes = {}
            canary = Canary(entry, outcomes=outcomes)
        elif canary is None:
            raise BadInput("a canary begins with its plan")
        elif isinstance(entry, HostEnded):
            outcomes[entry.host] = entry
        elif isinstance(entry, WaveBegan):
            canary = replace(canary, waves=(*canary.waves, entry.hosts))
        else:
            canary = replace(canary, ended=True, stopped=entry.stopped)
    if canary is None:
        raise BadInput("an empty journal is no canary")
    return canary


def outcome_of(run: Run) -> HostEnded:
    return HostEnded(run.host, run.run_id, run.state, run.reason)


def why_stop(canary: Canary, fill: Fill = plain) -> str:
    """Why no further host is touched; "" while all is well enough. `plain` words are for the journal."""
    failed, share = canary.failed, canary.planned.stop_share
    half = next((each for each in failed if each.state is RunState.UNDO_INCOMPLETE), None)
    if half is not None:
        return fill("{1} could not be taken back completely: {2}", half.host, half.reason)
    if len(failed) <= share * len(canary.outcomes):
        return ""
    last, counts = failed[-1], (str(len(failed)), str(len(canary.outcomes)), f"{share:.0%}")
    return fill("{1} of {2} hosts were not kept, more than {3}; {4}: {5}", *counts, last.host, last.reason)


def what_next(canary: Canary, stop: Stop | None) -> WaveBegan | Ended:
    """What follows when no run is under way any more. A person's stop leaves alone whoever had no run; it does not
    change the end of a canary that reached every host."""
    if why := why_stop(canary):
        return Ended(why)
    wave = next_wave(canary)
    if stop is not None and (wave or canary.left):
        return Ended(stop.said)
    return WaveBegan(wave) if wave else Ended("")


def next_wave(canary: Canary) -> tuple[str, ...]:
    """The hosts of the next wave, () when there are none left. A wave in which nothing was kept has proven nothing, so
    the next one is no larger."""
    return canary.untouched[: _size(canary)]


def _size(canary: Canary) -> int:
    if not canary.waves:
        return 1
    last = canary.waves[-1]
    proven = any(fate(canary.outcomes[host]) == "kept" for host in last if host in canary.outcomes)
    return max(2 * len(last) if proven else len(last), 1)


def waves_if_all_goes_well(hosts: tuple[str, ...]) -> list[tuple[str, ...]]:
    waves, begin, size = [], 0, 1
    while begin < len(hosts):
        waves.append(hosts[begin : begin + size])
        begin, size = begin + size, 2 * size
    return waves


_FATES = {
    RunState.SUCCEEDED: "kept",
    RunState.REFUSED: "not changed",
    RunState.UNDONE: "TAKEN BACK",
    RunState.UNDO_INCOMPLETE: "NOT TAKEN BACK",
}


def state_of(canary: Canary, stop: Stop | None) -> Literal["under way", "stopping", "done", "stopped"]:
    if canary.ended:
        return "stopped" if canary.stopped else "done"
    return "under way" if stop is None else "stopping"


def row_of(canary: Canary, stop: Stop | None) -> dict[str, Any]:
    """One line of a list: where it stands, in counts."""
    planned, fates = canary.planned, Counter(fate(each) for each in canary.outcomes.values())
    return {
        "canary_id": planned.canary_id,
        "at_ns": planned.at_ns or None,
        "state": state_of(canary, stop),
        "runbook": planned.runbook,
        "by": planned.by,
        "hosts": len(planned.hosts),
        "waves": len(canary.waves),
        **{name: fates[name] for name in ("kept", "nothing", "failed")},
        "untouched": len(canary.untouched),
        "stopped": canary.stopped,
    }


def why_stopped(canary: Canary, stop: Stop | None) -> str:
    """Why it ended before its time, in the language that is spoken; as it was recorded where other words were."""
    if canary.stopped == why_stop(canary):
        return why_stop(canary, filled)
    return _stop_words(stop, filled) if stop is not None and canary.stopped == stop.said else canary.stopped


def describe(canary: Canary, stop: Stop | None = None) -> str:
    """Where it stands, host by host, in the language that is spoken: what is kept, what was taken back, what nobody
    touched."""
    planned, state = canary.planned, state_of(canary, stop)
    shown = filled(state.upper() if state.startswith("stop") else state)
    what = (planned.canary_id, planned.runbook, str(len(planned.hosts)), shown)
    lines = [filled("canary {1}  {2} on {3} hosts: {4}", *what)]
    if stop is not None and not canary.ended:
        lines.append(filled("  {1}; runs that are under way end, no other begins", _stop_words(stop, filled)))
    if canary.stopped:
        lines.append(filled("  stopped in wave {1}: {2}", str(len(canary.waves)), why_stopped(canary, stop)))
    for number, wave in enumerate(canary.waves, 1):
        lines.append(filled("  wave {1}", str(number)))
        lines += [f"    {host:<24} {_fate_line(canary, host)}" for host in wave]
    if canary.untouched:
        lines.append(filled("  untouched: {1}", ", ".join(canary.untouched)))
    return "\n".join(lines)


def _fate_line(canary: Canary, host: str) -> str:
    ended = canary.outcomes.get(host)
    if ended is None:
        return filled("untouched") if canary.ended else filled("under way")
    word = filled("as wanted already") if fate(ended) == "nothing" else filled(_FATES[ended.state])
    return filled("{1}  run {2} {3}: {4}", word, ended.run_id, ended.state.value, ended.reason)
