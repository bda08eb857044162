"""Verbs of people who say stop, go on, and why: freeze, unfreeze, acknowledge, reset-breaker, why-not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from osremed.core.answer import Answer
from osremed.core.clock import rfc3339
from osremed.core.columns import at_right, padded
from osremed.core.errors import BadInput, ExitCode, NotFound
from osremed.core.event import Event, event_from_json
from osremed.core.files import write_atomic
from osremed.core.journal import read_journal
from osremed.core.language import filled
from osremed.core.units import format_duration, parse_duration_s
from osremed.flows.settings import ControlPaths
from osremed.runbook.audit import Checked, person, verify, written_by_hand
from osremed.runbook.catalog import load_catalog
from osremed.runbook.controls import Controls, Freeze, change_controls, read_controls
from osremed.runbook.matcher import Matcher
from osremed.runbook.model import RunState
from osremed.runbook.retention import retired
from osremed.runbook.sealcheck import CheckedRuns, check_runs
from osremed.runbook.stats import Grade, as_prometheus, grades
from osremed.runbook.store import RunStore

_GRADES = (("RUNS", 5), ("REFUSED", 8), ("NOTHING", 8), ("ACTED", 6), ("KEPT", 6), ("UNDONE", 7), ("AGAIN", 6))


def _paths(state: str) -> ControlPaths:
    return ControlPaths(os.path.abspath(state))


def _noted(paths: ControlPaths, verb: str, **what: Any) -> None:
    with written_by_hand(paths.hands) as audit:
        audit.append({"verb": verb, "by": person(), **what})


def _freeze_lines(controls: Controls) -> list[str]:
    now_ns = time.time_ns()
    lines = []
    for each in controls.freezes:
        until = filled("until {1}", rfc3339(each.until_ns)) if each.until_ns else filled("until it is lifted")
        over = "" if each.covers(each.runbook, each.host, now_ns) else filled(" (over)")
        lines.append(filled("frozen: {1}, by {2} {3}: {4}", _scope(each), each.by, until + over, each.reason))
    return lines or [filled("nothing is frozen")]


def _scope(freeze: Freeze) -> str:
    """`freeze.scope` in the language that is spoken."""
    return filled("{1} on {2}", freeze.runbook or filled("every runbook"), freeze.host or filled("every host"))


def freeze(
    *,
    state: str,
    reason: str | None = None,
    runbook: str | None = None,
    host: str | None = None,
    hold: str | None = None,
) -> Answer:
    """Stops changes at once: everywhere, of one runbook, on one host, or both. A run makes no further step: one that is
    among its steps takes back what it did, one that has made them all is proven, and kept or taken back. Without a
    reason: shows what is frozen."""
    paths = _paths(state)
    path = paths.controls
    if reason is None:
        if runbook or host or hold:
            raise BadInput("a freeze needs --reason", hint="who comes after you wants to know why nothing happens")
        controls = read_controls(path)
        return Answer(controls.model_dump(), "\n".join(_freeze_lines(controls)))
    now_ns = time.time_ns()
    until_ns = now_ns + round(parse_duration_s(hold) * 1e9) if hold else 0
    made = Freeze(
        runbook=runbook or "", host=host or "", by=person(), reason=reason, since_ns=now_ns, until_ns=until_ns
    )
    _noted(paths, "freeze", freeze=made.model_dump())
    controls = change_controls(path, lambda said: said.model_copy(update={"freezes": (*_others(said, made), made)}))
    return Answer(controls.model_dump(), "\n".join(_freeze_lines(controls)))


def _others(said: Controls, made: Freeze) -> tuple[Freeze, ...]:
    return tuple(each for each in said.freezes if (each.runbook, each.host) != (made.runbook, made.host))


def unfreeze(*, state: str, runbook: str | None = None, host: str | None = None, every: bool = False) -> Answer:
    """Lifts the freeze of just that scope; `every` lifts all."""
    paths = _paths(state)
    path = paths.controls
    wanted = (runbook or "", host or "")
    found = [each for each in read_controls(path).freezes if every or (each.runbook, each.host) == wanted]
    if not found:
        scope = f"{runbook or 'every runbook'} on {host or 'every host'}"
        raise NotFound(f"{scope} is not frozen", where=path, hint="osremed freeze shows what is")
    _noted(paths, "unfreeze", freezes=[each.model_dump() for each in found])
    controls = change_controls(
        path, lambda said: said.model_copy(update={"freezes": tuple(x for x in said.freezes if x not in found)})
    )
    return Answer(controls.model_dump(), "\n".join(_freeze_lines(controls)))


def acknowledge(*, run_id: str, state: str) -> Answer:
    """A human has seen to a change that could not be taken back completely: its host is the automation's again."""
    paths = _paths(state)
    run, _effect = RunStore(paths.runs).load(run_id)
    if run.state is not RunState.UNDO_INCOMPLETE:
        raise BadInput(f"run {run_id} is {run.state.value}", hint="only UNDO_INCOMPLETE needs a human")
    _noted(paths, "acknowledge", run_id=run_id)
    controls = change_controls(
        paths.controls,
        lambda said: said.model_copy(update={"acknowledged": tuple(sorted({*said.acknowledged, run_id}))}),
    )
    return Answer(controls.model_dump(), filled("{1} is free for runs again", run.host))


def reset_breaker(*, runbook: str, state: str) -> Answer:
    """Closes the breaker of a runbook: the runs before now do not count against it any more."""
    paths = _paths(state)
    _noted(paths, "reset-breaker", runbook=runbook)
    controls = change_controls(
        paths.controls,
        lambda said: said.model_copy(update={"resets": {**said.resets, runbook: time.time_ns()}}),
    )
    return Answer(controls.model_dump(), filled("the breaker of {1} is closed", runbook))


def audit(*, state: str) -> Answer:
    """Whether the audits of the dispatcher and of people's commands are whole, and the journals of runs as these say
    that they were. Exit code 1 if not."""
    paths = _paths(state)
    chains = {"decisions": verify(paths.decisions), "hands": verify(paths.hands)}
    lines = []
    for name, each in chains.items():
        since = filled(" after {1}, older ones are not kept", each.anchor[:16]) if each.anchor else ""
        last = (each.head or filled("none")) + since
        lines.append(filled("{1}: {2} entries, last {3}", filled(name), str(each.entries), last))
        lines += [filled("  FAULT {1}", fault) for fault in each.faults]
    runs = (
        check_runs(RunStore(paths.runs), (paths.decisions, paths.hands)) if os.path.isdir(paths.runs) else CheckedRuns()
    )
    lines += _run_lines(runs)
    checked: dict[str, Checked | CheckedRuns] = {**chains, "runs": runs}
    faulty = any(each.faults for each in checked.values())
    document = {name: {**asdict(each), "faults": list(each.faults)} for name, each in checked.items()}
    return Answer(document, "\n".join(lines), ExitCode.FAILED if faulty else ExitCode.OK)


def _run_lines(runs: CheckedRuns) -> Iterator[str]:
    counts = (runs.sealed, runs.under_way, runs.removed)
    yield filled("runs: {1} checked by their seals, {2} under way, {3} removed by retention", *map(str, counts))
    yield from (filled("  FAULT {1}", fault) for fault in runs.faults)
    for run_id in runs.open_ended:
        yield filled("  run {1}: its end is in no audit: whoever drove it was cut off there", run_id)
    if runs.unsealed:
        yield filled("  {1} ended runs are in no audit that is kept", str(runs.unsealed))


def stats(*, state: str, since: str = "30d", prometheus: str | None = None) -> Answer:
    """How good the automation is, a runbook a line. `prometheus` also writes the counts there, whole, for a textfile
    collector."""
    paths = _paths(state)
    since_ns = time.time_ns() - round(parse_duration_s(since) * 1e9)
    runs, (removed, _seq) = RunStore(paths.runs).runs()[0], retired(paths.hands)
    found = grades(runs, since_ns=since_ns, removed=removed)
    if prometheus:
        write_atomic(prometheus, as_prometheus(found).encode("utf-8"))
    heads = " ".join(at_right(filled(word), columns) for word, columns in _GRADES)
    head = f"{padded(filled('RUNBOOK'), 24)} {heads}  {filled('MEDIAN')}"
    lines = [head, *map(_grade_line, found)] if found else [filled("no run has ended yet")]
    lines += [
        filled("{1} saved about {2} of people's time, by the `manual_time` it declares", each.runbook, saved)
        for each in found
        if (saved := _saved(each))
    ]
    return Answer({"runbooks": [each.as_json() for each in found]}, "\n".join(lines))


def _saved(each: Grade) -> str:
    if each.time_saved_s is None:
        return ""
    return format_duration(each.time_saved_s) if each.time_saved_s else "0 s"


def _grade_line(each: Grade) -> str:
    took = format_duration(each.seconds) if each.seconds is not None else "-"
    undone = each.undone + each.undo_incomplete
    counts = f"{each.refused:>8} {each.false_fires:>8} {each.acted:>6} {each.kept:>6} {undone:>7} {each.recurred:>6}"
    return f"{each.runbook:<24} {each.runs:>5} {counts}  {took}"


def why_not(*, event_id: str, state: str, runbooks: str | None = None) -> Answer:
    """What became of an event with each runbook: no match, a guard's no, or its run. `runbooks` asks a set of rules
    that was not in force."""
    paths = _paths(state)
    past = _until(paths, event_id)
    event = past[-1]
    lines = [filled("{1} of {2} at {3}", event.name, event.host, rfc3339(event.time_ns))]
    if runbooks:
        answers = _asked_anew(Matcher(load_catalog(runbooks)), past)
    else:
        answers = [item for item in _decisions(paths) if item["event"] == event_id]
    store = RunStore(paths.runs)
    for item in answers:
        lines += _told(item, store)
    if not answers:
        lines.append(filled("not decided yet: is the dispatcher running?"))
    return Answer({"event": event.as_json(), "decisions": answers}, "\n".join(lines))


def _asked_anew(matcher: Matcher, events: list[Event]) -> list[dict[str, Any]]:
    """What these rules say to the last of the events, having heard those before it."""
    for event in events[:-1]:
        matcher.hear(event)
    found = {match.entry.runbook.name: match for match in matcher.hear(events[-1])}
    unnamed = f"it does not name {events[-1].name}"
    return [
        _as_decision(name, found[name].matched, found[name].why)
        if name in found
        else _as_decision(name, False, unnamed)
        for name in sorted(matcher.catalog)
    ]


def _as_decision(name: str, matched: bool, why: str) -> dict[str, Any]:
    return {"runbook": name, "matched": matched, "why": why, "run_id": "", "admitted": False}


def _decisions(paths: ControlPaths) -> Iterator[dict[str, Any]]:
    if os.path.isdir(paths.decisions):
        for entry in read_journal(paths.decisions).entries:
            if "event" in entry.record:
                yield dict(entry.record)


def _until(paths: ControlPaths, event_id: str) -> list[Event]:
    """The events that were taken in, up to this one."""
    entries = read_journal(paths.intake).entries if os.path.isdir(paths.intake) else ()
    for place in reversed(range(len(entries))):
        if entries[place].record.get("id") == event_id:
            return [event_from_json(entry.record) for entry in entries[: place + 1]]
    raise NotFound(f"no event {event_id!r}", where=paths.intake, hint="the id is in: osremed runs show, fastoom events")


def _told(item: dict[str, Any], store: RunStore) -> list[str]:
    run_id = str(item.get("run_id") or "")
    if not item["runbook"]:
        return [f"  {item['why']}"]
    told = (item["runbook"], item["why"])
    wanted = item["matched"]
    lines = [filled("  {1}: wanted it: {2}", *told) if wanted else filled("  {1}: does not want it: {2}", *told)]
    if run_id:
        try:
            run, _effect = store.load(run_id)
        except NotFound:
            return [*lines, filled("    run {1} is not kept any more", run_id)]
        lines.append(filled("    run {1} is {2}: {3}", run_id, run.state.value, run.reason))
        lines += [
            filled("    guard {1}: {2}: {3}", each.guard, filled("ok") if each.passed else filled("NO"), each.detail)
            for each in run.guards
        ]
    return lines
