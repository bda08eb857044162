"""Verbs about the rules in Git: init, check, plan, apply, run, status, suspend, resume, rollback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from osremed import __version__
from osremed.core.answer import Answer
from osremed.core.clock import rfc3339
from osremed.core.errors import BadInput, ExitCode, NotFound, OsremedError
from osremed.core.files import write_atomic
from osremed.core.language import filled
from osremed.core.log import Log
from osremed.executor.runner import AnsibleExecutor
from osremed.gitops import live
from osremed.gitops.bolder import bolder
from osremed.gitops.conditions import conditions
from osremed.gitops.document import Sync, load_sync
from osremed.gitops.gate import judge_apart
from osremed.gitops.live import Home
from osremed.gitops.markdown import markdown_of
from osremed.gitops.objects import PrefectObjects, live_objects
from osremed.gitops.overlay import for_environment
from osremed.gitops.plan import Plan, plan
from osremed.gitops.policy import policy_schema
from osremed.gitops.reconcile import Past, Proposal, Refused, Status, arrive, no_source, propose, reconcile
from osremed.gitops.rollout import bring, is_due
from osremed.gitops.scaffold import SCAFFOLD
from osremed.gitops.shelf import is_part_file, is_runbook
from osremed.gitops.tree import ROOTS, Files
from osremed.runbook.audit import person
from osremed.runbook.catalog import load_catalog
from osremed.runbook.document import json_schema, part_schema
from osremed.runbook.mend import mend_file
from osremed.runbook.replay import Replayed, no_evidence, past_events, replay_events, told_lines
from osremed.runbook.sarif import Shown, as_sarif

_LOG = Log("gitops")
_FORCED = {"max_removed": 1.0, "repair_drift": True}


def _home(state: str) -> Home:
    return Home(os.path.join(os.path.abspath(state), "gitops"))


def _past(state: str) -> Past:
    return Past(os.path.join(os.path.abspath(state), "intake"), os.path.join(os.path.abspath(state), "runs"))


def init(*, directory: str) -> Answer:
    """A rules repository to begin with. BadInput if the folder has something in it."""
    if os.path.isdir(directory) and set(os.listdir(directory)) - {".git"}:
        raise BadInput("the folder is not empty", where=directory, hint="give a new one")
    schemas = {"runbook": json_schema(), "runbook-part": part_schema(), "policy": policy_schema()}
    schemas["prefect"] = PrefectObjects.model_json_schema(by_alias=True)
    files = {f"schema/{name}.schema.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}
    files.update(SCAFFOLD)
    for path, content in files.items():
        target = os.path.join(directory, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        write_atomic(target, content.encode("utf-8"))
    lines = [
        filled("{1}: {2} files", directory, str(len(files))),
        filled("next: {1}", f"osremed gitops check {directory}"),
    ]
    return Answer({"directory": directory, "files": sorted(files)}, "\n".join(lines))


def _folder(directory: str) -> Files:
    """The rules of a working copy, with the same care as those of a commit."""
    files: dict[str, bytes] = {}
    for root in (root.rstrip("/") for root in ROOTS):
        path = os.path.join(directory, root)
        if os.path.islink(path):
            raise BadInput("a link has no place among rules", where=path)
        if os.path.isdir(path):
            files.update({f"{root}/{name}": content for name, content in live.read_set(path).items()})
    if not files:
        raise NotFound("no rules here", where=directory, hint="runbooks/<name>/runbook.yaml; osremed gitops init")
    return files


def check(
    *,
    directory: str,
    environment: str | None = None,
    base: str | None = None,
    sarif: str | None = None,
    markdown: str | None = None,
    events: str | None = None,
    fix: bool = False,
) -> Answer:
    """What the reconciler would say to this working copy; for people and for CI. Exit code 2 if it would refuse.
    `events` (JSON lines) are asked of both sets of rules: which decisions would be others, guards and policies aside.
    `fix` first writes what can be mended without a doubt into the runbooks."""
    files = _folder(directory)
    mends = sum(mend_file(os.path.join(directory, path)) for path in _mendable(files)) if fix else 0
    files = _folder(directory) if mends else files
    names = [environment] if environment else ["", *_environments(files)]
    scratch = Home(os.path.join(os.path.abspath(directory), f".osremed-check-{os.getpid()}"))
    problems, counts = [], (0, 0, 0)
    try:
        os.makedirs(scratch.path("sets"))
        for name in names:
            verdict = judge_apart(live.stage(scratch, for_environment(files, name)))
            problems += [problem for problem in verdict.problems if problem not in problems]
            counts = max(counts, (verdict.runbooks, verdict.cases, verdict.policies))
    finally:
        shutil.rmtree(scratch.directory, ignore_errors=True)
    before = _folder(base) if base else {}
    change = plan(before, files, max_removed=1.0)
    free = [each for name in names for each in _bolder_in(before, files, name)]
    if sarif:
        shown = [Shown(each.rule, each.where, each.what, each.hint) for each in problems]
        write_atomic(sarif, json.dumps(as_sarif(shown, __version__), indent=2).encode("utf-8"))
    replayed = None if problems or not events else _replayed(events, base, directory)
    if markdown:
        write_atomic(markdown, markdown_of(change, problems, files, replayed, free).encode("utf-8"))
    lines = [filled("{1} mended", str(mends))] if fix else []
    lines += [str(problem) for problem in problems]
    lines += [filled("  UNASKED from now on: {1}", each) for each in free]
    where = ", ".join(name or filled("plain") for name in names)
    told = (*map(str, counts), str(len(problems)), where)
    lines.append(filled("{1} runbooks, {2} cases, {3} policies, {4} problems ({5})", *told))
    document = {"problems": [problem.as_json() for problem in problems], "environments": names, "bolder": free}
    document |= dict(zip(("runbooks", "cases", "policies"), counts, strict=True))
    if replayed is not None:
        document["replay"] = replayed.as_json()
        others = (str(replayed.events), str(len(replayed.differences)))
        lines.append(filled("{1} past events: {2} decisions would be others", *others))
        lines += [f"  {line}" for line in told_lines(replayed)]
    return Answer(document, "\n".join(lines), ExitCode.BAD_INPUT if problems else ExitCode.OK)


def _bolder_in(old: Files, new: Files, environment: str) -> list[str]:
    """What acts unasked there from now on."""
    try:
        before = for_environment(old, environment)
    except BadInput:  # it was not there, or was faulty
        before = for_environment(old, "")
    found = bolder(before, for_environment(new, environment))
    return [f"{each} in {environment}" if environment else each for each in found]


def _mendable(files: Files) -> list[str]:
    """Parts first: what is wrong with a part hides what is wrong with those that use it."""
    return [*filter(is_part_file, files), *filter(is_runbook, files)]


def _replayed(events: str, base: str | None, directory: str) -> Replayed:
    past, unreadable = past_events(events)
    old = os.path.join(base, "runbooks") if base else ""
    before = load_catalog(old) if os.path.isdir(old) else {}
    return replay_events(
        past, before, load_catalog(os.path.join(directory, "runbooks")), no_evidence, unreadable=unreadable
    )


def _environments(files: Files) -> list[str]:
    return sorted({path.split("/")[1] for path in files if path.startswith("environments/") and path.count("/") > 1})


def show_plan(*, source: str, state: str) -> Answer:
    """What `apply` would change, with everything it would be held up by. Changes nothing."""
    home = _home(state)
    try:
        with live.alone(home):
            sync = load_sync(source)
            proposal = propose(sync, home, _past(state), arrive(sync, home))
            shutil.rmtree(proposal.staged)
    except BlockingIOError:
        raise _busy(home) from None
    except Refused as error:
        document = {"refused": error.reason, "what": error.what, "where": error.where, "hint": error.hint}
        return Answer(document, filled("refused ({1}): {2}", error.reason, str(error)), ExitCode.REFUSED)
    return Answer(_proposal_as_json(proposal), _proposal_text(proposal))


def _proposal_as_json(proposal: Proposal) -> dict[str, Any]:
    return {
        "commit": proposal.commit,
        "subject": proposal.subject,
        "signers": list(proposal.signers),
        "plan": proposal.plan.as_json(),
        "replay": proposal.replayed.as_json(),
        **proposal.counts,
    }


def _proposal_text(proposal: Proposal) -> str:
    replayed = proposal.replayed
    commit = f"{proposal.commit[:12]}  {proposal.subject!r}"
    lines = [filled("commit {1}  signed by {2}", commit, ", ".join(proposal.signers) or filled("nobody"))]
    lines += plan_lines(proposal.plan)
    counts = (str(replayed.events), str(replayed.decisions), str(len(replayed.differences)))
    refused = filled(replayed.refused)
    lines.append(filled("replay: {1} events, {2} decisions, {3} change; refused by guards: {4}", *counts, refused))
    lines += [
        filled("  {1} on {2}, {3}: {4} => {5}", each.event, each.host, each.runbook, each.old, each.new)
        for each in replayed.differences[:20]
    ]
    lines += [f"  {line}" for line in told_lines(replayed)]
    return "\n".join(lines)


def plan_lines(change: Plan) -> list[str]:
    lines = [f"  {each.kind:<8} {each.rule}" for each in change.changes] or [filled("  nothing changes")]
    for each in change.changes:
        lines += [f"    {line}" for line in each.diff.splitlines()]
    return [*lines, *(filled("  UNASKED from now on: {1}", each) for each in change.bolder)]


def _busy(home: Home) -> BadInput:
    return BadInput("another reconciler is at work", where=home.directory, hint="try again in a moment")


def apply(*, source: str, state: str, force: bool = False) -> Answer:
    """One look at the repository; the new rules go live if nothing holds them up. `force` is a human's word that much
    may vanish or change at once; it never goes past a signature, the lint or a case."""
    sync = load_sync(source)
    if force:
        replay = sync.replay.model_copy(update={"max_changed": 1.0})
        sync = sync.model_copy(update={**_FORCED, "replay": replay})
    return _look_once(sync, _home(state), _past(state), person())


def _look_once(sync: Sync, home: Home, past: Past, by: str) -> Answer:
    """One look, with what is to be done after it: `hosts_due` is "", check or apply; `wanted` is for Prefect."""
    try:
        status = reconcile(sync, home, past, by=by)
    except BlockingIOError:
        raise _busy(home) from None
    due = sync.hosts if sync.hosts != "off" and status.set and is_due(home, sync.hosts, sync.hosts_interval) else ""
    answer = _answer(status)
    return replace(answer, document={**answer.document, "hosts_due": due, "wanted": _wanted(sync, home)})


def _wanted(sync: Sync, home: Home) -> dict[str, Any]:
    """What Prefect should have: of the live rules, and of where they come from."""
    return {"owner": sync.owner, "interval_s": sync.interval, "objects": live_objects(home)}


def _answer(status: Status) -> Answer:
    told = f"{status.reason}: {status.message}"
    lines = [filled("ready: {1}", told) if status.ready else filled("NOT READY: {1}", told)]
    hint = status.detail.get("hint")
    lines += [filled("  hint: {1}", str(hint))] if hint else []
    lines += [f"  {each['kind']:<8} {each['rule']}" for each in status.detail.get("changes", ())]
    none = filled("none")
    lines.append(filled("live: set {1} of commit {2}", status.set[:12] or none, status.commit[:12] or none))
    lines += [
        filled("  {1} since {2}", f"{each['type']:<11} {each['status']:<5}", each["since"])
        for each in status.conditions
    ]
    return Answer(status.as_json(), "\n".join(lines), ExitCode.OK if status.ready else ExitCode.REFUSED)


def run(*, source: str, state: str, once: bool = False) -> Answer:
    """Looks at the repository every `interval` until SIGTERM. The source file is read anew each time. `once`: one look,
    as the reconciler and not as a person."""
    home, said = _home(state), ""
    if once:
        return _look_once(_told_sync(source, home), home, _past(state), "reconcile")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while True:
        interval_s = 60.0
        try:
            sync = _told_sync(source, home)
            interval_s = sync.interval
            status = reconcile(sync, home, _past(state))
            now = f"{status.reason} {status.message}"
            if now != said:
                tell = _LOG.info if status.ready else _LOG.error
                tell("looked", reason=status.reason, why=status.message, commit=status.commit)
            said = now
        except (OsremedError, OSError) as error:
            _LOG.error("cannot look now, the live rules stay", error=str(error))
        if stop.wait(max(1.0, interval_s)):
            return Answer({"stopped": True}, filled("stopped"))


def _told_sync(source: str, home: Home) -> Sync:
    """The source; the status says so if it cannot be read."""
    try:
        return load_sync(source)
    except (BadInput, OSError) as error:
        with contextlib.suppress(OSError):  # where nothing can be written, or another one looks, this error is told
            no_source(home, error)
        raise


def status(*, state: str, source: str | None = None) -> Answer:
    """What the last look found, and whether the live files are still what it left; with `source` also what the live
    rules want of Prefect."""
    home = _home(state)
    document = dict(live.read_json(home.status))
    if not document:
        raise NotFound("nobody has looked yet", where=home.directory, hint="osremed gitops apply --source FILE")
    drifted = live.drift(home)
    document.update(drift=drifted, set=live.live_digest(home), suspended=bool(live.read_json(home.suspended)))
    if drifted and document["ready"]:
        document.update(ready=False, reason="Drifted", message=drifted)
    now, before = rfc3339(time.time_ns()), document.get("conditions", ())
    document["conditions"] = conditions(document, looking=live.is_busy(home), now=now, before=before)
    answer = _answer(Status(**document))
    document |= {"wanted": _wanted(load_sync(source), home)} if source else {}
    looked = filled("looked at {1}", str(document["checked_at"]))
    return Answer(document, f"{answer.text}\n{looked}", answer.exit_code)


def hosts(*, state: str, inventory: str, collections: str, check: bool = False) -> Answer:
    """Brings the live host policies to the hosts of the inventory, canary first; `check` tells the drift."""
    home = _home(state)
    executor = AnsibleExecutor(inventory, collections, os.path.join(os.path.abspath(state), "work"))
    try:
        done = bring(home, executor, check=check)
    finally:
        executor.close()
    results = done.results
    told = [result.as_json() for result in results]
    document = {"set": done.set, "at_ns": done.at_ns, "check": check, "hosts": told}
    lines = [f"{each.outcome:<12} {each.host}  {each.policy} {each.part}  {each.detail}".rstrip() for each in results]
    bad = [each for each in results if each.outcome in {"failed", "taken_back", "not_tried"}]
    seen = str(len({each.host for each in results}))
    lines.append(filled("{1} hosts, {2} not as wanted", seen, str(len(bad))))
    return Answer(document, "\n".join(lines), ExitCode.FAILED if bad else ExitCode.OK)


def suspend(*, state: str, reason: str) -> Answer:
    """No new rules go live until `resume`; the live ones stay in force."""
    home = _home(state)
    os.makedirs(home.directory, exist_ok=True)
    document = {"by": person(), "reason": reason, "at": rfc3339(time.time_ns())}
    live.write_json(home.suspended, document)
    return Answer(document, filled("suspended: {1}", reason))


def resume(*, state: str) -> Answer:
    home = _home(state)
    try:
        os.unlink(home.suspended)
    except FileNotFoundError:
        return Answer({"resumed": False}, filled("was not suspended"))
    return Answer({"resumed": True}, filled("resumed: the next look applies what Git has"))


def rollback(*, state: str, to: str | None = None, check: bool = False) -> Answer:
    """The set that was live before (or the named one) is live again, and Git is suspended: it would undo this. `check`
    shows what would change, and changes nothing."""
    home = _home(state)
    try:
        with live.alone(home):
            name, entry = _earlier(home, to)
            found = live.live_digest(home)
            if check:
                return _rollback_shown(home, name, entry)
            suspend(state=state, reason=f"rolled back from {found[:12]}")
            live.remember(home, {**entry, "set": name, "by": f"{person()} (rollback)"})
            live.swap(home, name)
    except BlockingIOError:
        raise _busy(home) from None
    lines = [filled("live: set {1} of commit {2}", name[:12], str(entry.get("commit"))[:12])]
    lines.append(filled("suspended: {1}", filled("osremed gitops resume, when Git has the rules you want")))
    return Answer({"set": name, "commit": entry.get("commit"), "suspended": True}, "\n".join(lines))


def _rollback_shown(home: Home, name: str, entry: Mapping[str, Any]) -> Answer:
    now = live.read_set(home.path("live")) if os.path.isdir(home.path("live")) else {}
    change = plan(now, live.read_set(home.path("sets", name)), max_removed=1.0)
    told = (name[:12], str(entry.get("commit"))[:12])
    lines = [filled("would be live: set {1} of commit {2}", *told), *plan_lines(change)]
    document = {"set": name, "commit": entry.get("commit"), "suspended": False, "plan": change.as_json()}
    return Answer(document, "\n".join(lines))


def _earlier(home: Home, to: str | None) -> tuple[str, dict[str, Any]]:
    current = live.live_digest(home)
    kept = set(os.listdir(home.path("sets")))
    for entry in reversed(live.history(home)):
        name = str(entry["set"])
        wanted = name.startswith(to) if to else name != current
        if wanted and name in kept:
            return name, dict(entry)
    known = sorted({str(entry["set"])[:12] for entry in live.history(home)} & {name[:12] for name in kept})
    what = f"no kept set begins with {to!r}" if to else "there is no earlier set"
    raise NotFound(what, where=home.path("sets"), hint=f"kept: {', '.join(known) or 'none'}")
