"""Verbs of the control plane: the dispatcher, one run by hand, and what became of the runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from osremed.core.answer import Answer
from osremed.core.clock import SystemClock, rfc3339
from osremed.core.errors import BadInput, ExitCode, NotFound
from osremed.core.event import Event, event_from_json, new_event_id
from osremed.core.files import read_bytes, write_atomic
from osremed.core.language import filled
from osremed.core.units import parse_duration_s
from osremed.executor.runner import AnsibleExecutor, Inventory
from osremed.flows.leading import leading
from osremed.flows.settings import ControlPaths, page_url, prefect_environment
from osremed.flows.wait import limit_of, until_ended
from osremed.report.assemble import story_of
from osremed.report.page import render_html, render_markdown
from osremed.runbook.approvals import SHOWN_CHARS, answering
from osremed.runbook.audit import NOTED_VARIABLE, caller_uid, person, user_of, written_by_hand
from osremed.runbook.catalog import load_entry, match
from osremed.runbook.guardpolicy import policies_beside, restricting
from osremed.runbook.model import Run, RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.preview import preview
from osremed.runbook.retention import Keep
from osremed.runbook.seals import sealed_by_hand
from osremed.runbook.store import OpenRun, RunStore, open_unfinished, run_as_json, run_id_for
from osremed.runbook.ticks import ticking

_EXIT = {
    RunState.SUCCEEDED: ExitCode.OK,
    RunState.REFUSED: ExitCode.REFUSED,
    RunState.UNDONE: ExitCode.UNDONE,
    RunState.UNDO_INCOMPLETE: ExitCode.UNDO_INCOMPLETE,
    RunState.AWAITING_APPROVAL: ExitCode.AWAITING,
    RunState.AWAITING_PERSON: ExitCode.AWAITING,
}


def _operator(state: str, inventory: str, collections: str, runbooks: str) -> Operator:
    paths = ControlPaths(os.path.abspath(state))
    return operator_of(AnsibleExecutor(inventory, collections, paths.work), paths, runbooks)


def operator_of(executor: AnsibleExecutor, paths: ControlPaths, runbooks: str) -> Operator:
    """`runbooks` is the folder of all of them: policies lie beside it."""
    return Operator(
        executor,
        RunStore(paths.runs, sealed_by_hand(paths.hands)),
        SystemClock(),
        Inventory(executor),
        paths.controls,
        restrict=restricting(partial(policies_beside, runbooks), lambda: executor.groups),
    )


def publish_into(store: RunStore, run: Run) -> str:
    """Writes the run's HTML report beside its journal; the report as Markdown."""
    story = story_of(store, run)
    write_atomic(store.of(run.run_id).report, render_html(story).encode("utf-8"), mode=0o600)
    return render_markdown(story)


def dispatcher(
    *,
    state: str,
    runbooks: str,
    inventory: str,
    collections: str,
    api_url: str,
    host: str,
    port: int,
    console: str = "",
    standby: bool = False,
    keep_runs: int = 10_000,
    keep_for: str = "365d",
    keep_undo: str = "30d",
) -> Answer:
    """Serves until SIGTERM. With `standby`, once nobody else serves this state directory. See `retention` for what is
    kept of finished runs."""
    if keep_runs < 0:
        raise BadInput(f"{keep_runs} runs cannot be kept", where="--keep-runs", hint="0 keeps all")
    keep = Keep(keep_runs, parse_duration_s(keep_for), parse_duration_s(keep_undo))
    pages = page_url(console, "--console")
    paths = ControlPaths(os.path.abspath(state))
    os.makedirs(paths.prefect, mode=0o700, exist_ok=True)
    os.environ.update(prefect_environment(paths.prefect, api_url=api_url))
    # Prefect reads its settings at import: not before the environment above is in place.
    from osremed.flows.dispatcher import Dispatcher, DispatcherSettings  # noqa: PLC0415

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # runbooks are read once it leads
    with leading(paths.lock, standby=standby) as lead:
        executor = AnsibleExecutor(inventory, collections, paths.work)  # ends what a killed one left running
        executor.warm_up()
        operator = operator_of(executor, paths, runbooks)
        settings = DispatcherSettings(paths, os.path.abspath(runbooks), api_url, host, port, pages, keep)
        Dispatcher(settings, operator, partial(publish_into, operator.store), executor.close, lead).serve()
    return Answer({"stopped": True}, "stopped")


def _event_for(entry_event: str, host: str, event_file: str | None, attributes: str | None) -> Event:
    if event_file:
        try:
            document = json.loads(read_bytes(event_file))
        except (OSError, ValueError) as error:
            raise BadInput(f"not an event: {error}", where=event_file) from error
        return event_from_json(document, where=event_file)
    try:
        given: Any = json.loads(attributes) if attributes else {}
    except ValueError as error:
        raise BadInput(f"--attributes is not JSON: {error}") from error
    document = {"id": f"manual-{new_event_id()}", "name": entry_event, "host": host, "time_ns": time.time_ns()}
    return event_from_json({**document, "attributes": given}, where="--attributes")


def run(
    *,
    runbook: str,
    host: str,
    state: str,
    inventory: str,
    collections: str,
    event: str | None = None,
    attributes: str | None = None,
    check: bool = False,
) -> Answer:
    """One run by hand, in this process, without Prefect: the same guards, journal, verification and undo."""
    entry = load_entry(runbook if os.path.isfile(runbook) else os.path.join(runbook, "runbook.yaml"))
    raised = _event_for(entry.runbook.events[0], host, event, attributes)
    if raised.host != host:
        raise BadInput(f"the event is of host {raised.host!r}, not {host!r}", where=event or "--host")
    found = match(entry, raised)
    if not found.matched:
        hint = "give the attributes it asks for with --attributes, or the recorded event with --event"
        raise BadInput(f"{entry.runbook.name} does not want this event: {found.why}", hint=hint)
    operator = _operator(state, inventory, collections, os.path.dirname(os.path.dirname(os.path.abspath(entry.path))))
    if check:
        plan = asyncio.run(preview(operator, entry.runbook, raised))
        return Answer(plan.document, plan.text, ExitCode.REFUSED if plan.refused else ExitCode.OK)
    for left in open_unfinished(operator.store, operator.clock, "another run was started by hand", host=host):
        publish_into(operator.store, to_the_end(operator, left))
    run_id = run_id_for(raised, entry.runbook.name)
    if not operator.store.has_begun(run_id) and os.environ.get(NOTED_VARIABLE) != run_id:
        note_start(ControlPaths(os.path.abspath(state)), entry.runbook.name, host, run_id)
    opened = operator.store.create(raised, entry, operator.clock, requested_by=person(), requested_uid=caller_uid())
    if opened is None:
        raise BadInput(f"event {raised.id} already has its run of {entry.runbook.name}")
    ended = to_the_end(operator, opened)
    publish_into(operator.store, ended)
    return Answer(run_as_json(ended), _describe(ended), _EXIT[ended.state])


def note_start(paths: ControlPaths, runbook: str, host: str, run_id: str) -> None:
    """In the audit, before the run begins."""
    with written_by_hand(paths.hands) as audit:
        audit.append({"verb": "start", "by": person(), "runbook": runbook, "host": host, "run_id": run_id})


def to_the_end(operator: Operator, opened: OpenRun) -> Run:
    """The run, driven in this process and closed."""
    try:
        return asyncio.run(drive(operator, opened, operator.store.runbook_of(opened.run.run_id)))
    finally:
        opened.close()


def _describe(run: Run) -> str:
    lines = [filled("run {1}  {2} on {3}: {4}", run.run_id, run.runbook, run.host, run.state.value), f"  {run.reason}"]
    lines += [filled("  takes back run {1}", run.undoes)] if run.undoes else []
    lines += [filled("  taken back by run {1}", run.undone_by)] if run.undone_by else []
    if run.asked:
        tick = f"osremed runs tick {run.run_id} {run.asked.number}"
        until = rfc3339(run.asked.deadline_ns)
        lines.append(filled("  step {1} waits for a person until {2}; {3}", str(run.asked.number), until, tick))
    lines += [filled("  finding {1}: {2}", finding.name, finding.summary) for finding in run.findings]
    lines += _plan_named(run)
    for step in run.plan.steps if run.plan else ():
        lines.append(filled("  step {1} ({2} risk)", step.action, step.risk))
        lines += [f"    {line}" for line in step.diff.splitlines()]
    lines += [f"  {how}" for how in (run.plan.order if run.plan else ())]
    lines += [
        filled("  guard {1}: {2}: {3}", guard.guard, filled("ok") if guard.passed else filled("REFUSED"), guard.detail)
        for guard in run.guards
    ]
    lines += [filled("  step {1} {2}", str(each.number), each.said) for each in run.answered]
    lines += [filled("  probe {1}: {2} ({3})", each.probe, each.verdict.value, each.tolerance) for each in run.results]
    after = run.plan.after if run.plan else ()
    lines += [
        filled("  after success {1}: {2}", str(after[each.step]), each.outcome.status.value) for each in run.finished
    ]
    lines += [filled("  undo {1}: {2} {3}", undo.action, undo.result, undo.detail) for undo in run.undo]
    lines += [filled("  note {1}", note) for note in run.notes]
    return "\n".join(lines)


def _plan_named(run: Run) -> list[str]:
    """Which plan it is, and, where it waits, how just that one is approved."""
    if run.plan is None or not run.plan.steps:
        return []
    named = run.plan.digest[:SHOWN_CHARS]
    if run.state is not RunState.AWAITING_APPROVAL:
        return [filled("  plan {1}", named)]
    answer = f"osremed runs approve {run.run_id} --plan {named}"
    return [filled("  plan {1} waits for an answer: {2}, or deny", named, answer)]


def newest_first(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=lambda each: (each.raised_ns, each.run_id), reverse=True)


def runs_list(*, state: str, limit: int = 0, before: str = "") -> Answer:
    """Runs, newest first, one line each; damaged ones are named. At most `limit` (0: all) of those after `before`."""
    if limit < 0:
        raise BadInput(f"limit {limit} is below 0", where="--limit")
    runs, damaged = store_of(state).runs()
    newest = newest_first(runs)
    if before:
        place = next((number for number, each in enumerate(newest) if each.run_id == before), None)
        if place is None:
            raise BadInput(f"no run {before!r} to go on after", where="--before")
        newest = newest[place + 1 :]
    page = newest[:limit] if limit else newest
    following = page[-1].run_id if len(page) < len(newest) else None
    document = {"runs": [run_as_json(item) for item in page], "next_before": following, "damaged": list(damaged)}
    lines = [
        f"{item.run_id}  {rfc3339(item.raised_ns)}  {item.state.value:<17}  {item.runbook}  {item.host}  {item.reason}"
        for item in page
    ]
    lines += [filled("DAMAGED  {1}", why) for why in damaged]
    return Answer(document, "\n".join(lines) or filled("no runs yet"), ExitCode.FAILED if damaged else ExitCode.OK)


def store_of(state: str) -> RunStore:
    path = ControlPaths(os.path.abspath(state)).runs
    if not os.path.isdir(path):
        raise NotFound("no runs here", where=path, hint="name the dispatcher's --state directory")
    return RunStore(path)


def runs_show(*, run_id: str, state: str, wait: bool = False, timeout: str | None = None) -> Answer:
    """The run as it is, or, with `wait`, as it ended: see `flows.wait`."""
    limit_s = limit_of(wait, timeout)
    store = store_of(state)
    found = until_ended(store, run_id, limit_s) if wait else store.load(run_id)[0]
    text, code = _describe(found), _EXIT.get(found.state, ExitCode.OK)
    if wait and not found.ended:
        late = filled(
            "not ended within {1}: it goes on; look again with: {2}", str(timeout), f"osremed runs show {run_id} --wait"
        )
        text, code = f"{text}\n{late}", ExitCode.TIMED_OUT
    return Answer(run_as_json(found), text, code)


def runs_report(*, run_id: str, state: str) -> Answer:
    """The path of the run's HTML report, made anew."""
    store = store_of(state)
    found, _effect = store.load(run_id)
    publish_into(store, found)
    path = store.of(run_id).report
    return Answer({"report": path}, path, html=lambda: read_bytes(path).decode("utf-8"))


def runs_answer(*, run_id: str, state: str, approve: bool, reason: str = "", plan: str | None = None) -> Answer:
    """Approves or denies the plan that the run waits with: with `plan`, only if it is that one. The approver is the
    user of this process."""
    store = store_of(state)
    found, _effect = store.load(run_id)
    by = person()
    hands = ControlPaths(os.path.abspath(state)).hands
    line = {"verb": "approve" if approve else "deny", "by": by, "run_id": run_id, "reason": reason}
    if own := _own_request(found) if approve else "":
        with written_by_hand(hands) as audit:
            audit.append({**line, "refused": own})
        raise BadInput(own, hint="under another name it is still the same login; another person approves it")
    with (
        answering(store.of(run_id), found, approved=approve, by=by, reason=reason, plan=plan) as answer,
        written_by_hand(hands) as audit,
    ):
        audit.append(line)
    document = {"run_id": run_id, "approved": approve, "by": by, "plan_digest": answer.plan_digest}
    told = _known_as(by), answer.plan_digest[:SHOWN_CHARS], run_id
    if approve:
        return Answer(document, filled("approved by {1}: plan {2} of run {3}", *told))
    return Answer(document, filled("denied by {1}: plan {2} of run {3}", *told))


def _known_as(by: str) -> str:
    """The name, and whom the kernel knows by it where that is another one."""
    uid = caller_uid()
    return by if uid is None or user_of(uid) == by else f"{by} ({user_of(uid)}, uid {uid})"


def _own_request(run: Run) -> str:
    """Why the caller may not approve it, whatever name they gave; "" where nothing says that they asked for it. Names
    are compared where the approval is written."""
    uid = caller_uid()
    if uid is None or uid != run.requested_uid:
        return ""
    name = user_of(uid)
    alias = f", as {run.requested_by}" if run.requested_by != name else ""
    return f"{name} (uid {uid}) asked for run {run.run_id}{alias}: somebody else approves it"


def runs_approve(
    *,
    run_id: str,
    state: str,
    plan: str | None = None,
    reason: str = "",
    wait: bool = False,
    timeout: str | None = None,
) -> Answer:
    """What was approved, or, with `wait`, the run as it ended."""
    limit_of(wait, timeout)
    answer = runs_answer(run_id=run_id, state=state, approve=True, reason=reason, plan=plan)
    return runs_show(run_id=run_id, state=state, wait=True, timeout=timeout) if wait else answer


def runs_deny(*, run_id: str, state: str, plan: str | None = None, reason: str = "") -> Answer:
    return runs_answer(run_id=run_id, state=state, approve=False, reason=reason, plan=plan)


def _ticked(run_id: str, step: int, state: str, words: str, *, done: bool) -> Answer:
    store = store_of(state)
    found, _effect = store.load(run_id)
    by = person()
    verb, hands = "tick" if done else "refuse", ControlPaths(os.path.abspath(state)).hands
    with (
        ticking(store.of(run_id), found, step, SystemClock(), done=done, by=by, words=words) as asked,
        written_by_hand(hands) as audit,
    ):
        audit.append({"verb": verb, "by": by, "run_id": run_id, "step": step, "words": words})
    document = {"run_id": run_id, "step": step, "done": done, "by": by, "instruction": asked.instruction}
    said = "done" if done else "not done"
    return Answer(document, f"step {step} of run {run_id} is {said}, says {by}: {asked.instruction}")


def runs_tick(
    *, run_id: str, step: int, state: str, words: str = "", wait: bool = False, timeout: str | None = None
) -> Answer:
    """What was ticked, or, with `wait`, the run as it ended. The person is the user of this process."""
    limit_of(wait, timeout)
    answer = _ticked(run_id, step, state, words, done=True)
    return runs_show(run_id=run_id, state=state, wait=True, timeout=timeout) if wait else answer


def runs_refuse(*, run_id: str, step: int, state: str, words: str = "") -> Answer:
    return _ticked(run_id, step, state, words, done=False)
