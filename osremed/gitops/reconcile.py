"""Git -> live: fetch, prove, check, replay, swap. Whatever fails, the last good rules stay and the status says why."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from subprocess import SubprocessError
from typing import Any

from osremed import __version__
from osremed.core.canonical import digest, sha256_hex
from osremed.core.clock import rfc3339
from osremed.core.errors import BadInput, OsremedError
from osremed.core.files import read_bytes
from osremed.core.record import field, record
from osremed.executor.inventory import groups_of
from osremed.gitops import git, live
from osremed.gitops.conditions import Condition, conditions
from osremed.gitops.document import Sync
from osremed.gitops.gate import judge_apart
from osremed.gitops.live import Home
from osremed.gitops.overlay import for_environment
from osremed.gitops.plan import Plan, plan
from osremed.gitops.signature import prove, prove_tag, trust_settings
from osremed.gitops.tree import Files, read_tree
from osremed.runbook.catalog import load_catalog
from osremed.runbook.guardpolicy import load_guard_policies, policies_beside
from osremed.runbook.replay import Replayed, kept_evidence, no_evidence, read_events, replay_events
from osremed.runbook.replayfleet import Fleet, fleet_of_inventory, fleet_of_number
from osremed.runbook.replayguards import recorded_courses
from osremed.runbook.ruleset import commit_of_set
from osremed.runbook.store import RunStore


class Refused(OsremedError):
    """The new rules do not go live; `reason` is one word for the status."""

    def __init__(self, reason: str, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint, code=f"gitops.{reason}")
        self.reason = reason


@record
class Proposal:
    """Rules of a commit that passed everything; `staged` is their folder below the sets, still without a name."""

    commit: str
    subject: str
    signers: tuple[str, ...]
    files: Files
    staged: str
    plan: Plan
    replayed: Replayed
    counts: dict[str, int]


@record
class Past:
    """What is replayed: a journal of events, and the runs whose evidence was kept."""

    events: str = ""
    runs: str = ""


@record
class Status:
    """What the last look found. `ready` is False when the live rules are not what Git wants."""

    ready: bool
    reason: str
    message: str
    commit: str = ""
    set: str = ""
    seen_commit: str = ""
    checked_at: str = ""
    drift: str = ""
    suspended: bool = False
    key: str = ""  #: names all that made the live set what it is: while it stays, there is nothing to check anew
    detail: dict[str, Any] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "detail": dict(self.detail), "conditions": list(self.conditions)}


@record
class Arrived:
    """What the repository has now, fetched and neither proven nor looked into."""

    mirror: git.Repository
    fetched: str
    commit: str
    older: str


def last_commit(home: Home) -> str:
    """The commit the live set came from; "" if there is none or it was put there by hand."""
    return commit_of_set(home.directory, live.live_digest(home))


def arrive(sync: Sync, home: Home) -> Arrived:
    """Fetches. Refused if the repository does not answer, or its history was rewritten."""
    mirror = _mirror(sync, home)
    fetched = _attempt("FetchFailed", git.fetch, mirror, sync.url, sync.ref, depth=sync.depth)
    commit = _chosen(sync, mirror, fetched)
    older = last_commit(home)
    if older and not git.has_commit(mirror, older):
        raise Refused("HistoryRewritten", f"the live commit {older[:12]} is not in the repository any more")
    if older and not sync.commit and not git.is_ancestor(mirror, older, commit):
        hint = "pin `commit:` to go back or sideways on purpose"
        raise Refused("HistoryRewritten", f"{commit[:12]} does not continue the live {older[:12]}", hint=hint)
    return Arrived(mirror, fetched, commit, older)


def propose(sync: Sync, home: Home, past: Past, arrived: Arrived) -> Proposal:
    """Everything but the swap. Refused with the reason; nothing but a staged folder was written."""
    mirror, commit = arrived.mirror, arrived.commit
    signers = _prove(sync, mirror, arrived.fetched, arrived.older, commit)
    files = _attempt("BadTree", read_tree, mirror, commit, sync.path, sync.limits)
    files = _attempt("BadOverlay", for_environment, files, sync.environment)
    change = plan(_live_files(home), files, max_removed=sync.max_removed)
    if change.refused:
        raise Refused("TooMuchRemoved", change.refused, hint="osremed gitops apply --force, if it is meant")
    subject = git.subject_of(mirror, commit)
    staged = live.stage(home, files)
    try:
        counts = _gate(staged)
        replayed = _replay(home, staged, sync, past)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return Proposal(commit, subject, signers, files, staged, change, replayed, counts)


def _mirror(sync: Sync, home: Home) -> git.Repository:
    settings: dict[str, str] = {}
    if sync.verify.mode != "none":
        keys = sync.verify.allowed_signers, sync.verify.keyring
        os.makedirs(home.mirror, mode=0o700, exist_ok=True)
        settings = trust_settings(allowed_signers=keys[0], keyring=keys[1], mirror_directory=home.mirror)
    limit = sync.limits.fetch_bytes
    return git.open_mirror(home.mirror, timeout_s=sync.timeout, settings=settings, max_file_bytes=limit)


def _attempt(reason: str, function: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except Refused:
        raise
    except OsremedError as error:
        raise Refused(reason, error.what, where=error.where, hint=error.hint) from error


def _chosen(sync: Sync, mirror: git.Repository, fetched: str) -> str:
    if not sync.commit:
        return str(_attempt("FetchFailed", git.commit_of, mirror, fetched))
    head = str(_attempt("FetchFailed", git.commit_of, mirror, fetched))
    if not git.has_commit(mirror, sync.commit) or not git.is_ancestor(mirror, sync.commit, head):
        raise Refused("FetchFailed", f"the pinned commit {sync.commit[:12]} is not on {sync.ref}")
    return sync.commit


def _prove(sync: Sync, mirror: git.Repository, fetched: str, older: str, commit: str) -> tuple[str, ...]:
    mode, names = sync.verify.mode, sync.verify.principals
    if mode == "none":
        return ()
    if mode == "tag":
        return (_attempt("NotVouched", prove_tag, mirror, fetched, sync.ref, principals=names).name,)
    since = older if mode == "every" and older and git.is_ancestor(mirror, older, commit) else ""
    signers = _attempt("NotVouched", prove, mirror, since, commit, principals=names)
    return tuple(sorted({signer.name for signer in signers}))


def _live_files(home: Home) -> Files:
    name = live.live_digest(home)
    if not name:
        return {}
    try:
        return live.read_set(home.path("sets", name))
    except (BadInput, OSError):
        return {}  # told as drift; the new set replaces it whole


def _gate(staged: str) -> dict[str, int]:
    verdict = judge_apart(staged)
    if verdict.problems:
        first = verdict.problems[0]
        more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
        raise Refused("CheckFailed", f"{first.what}{more}", where=first.where, hint=first.hint)
    return {"runbooks": verdict.runbooks, "cases": verdict.cases, "policies": verdict.policies}


def _replay(home: Home, staged: str, sync: Sync, past: Past) -> Replayed:
    fleet = _attempt("FleetUnknown", _fleet, sync)
    since_ns = time.time_ns() - int(sync.replay.window * 1e9)
    events, unreadable = read_events(sync.replay.events or past.events, since_ns=since_ns)
    store = RunStore(past.runs) if past.runs and os.path.isdir(past.runs) else None
    evidence, courses = (kept_evidence(store), recorded_courses(store)) if store else (no_evidence, {})
    new = load_catalog(os.path.join(staged, "runbooks"))
    old = load_catalog(home.runbooks) if live.live_digest(home) and not live.drift(home) else {}
    theirs = load_guard_policies(policies_beside(home.runbooks)) if old else ()
    policies = theirs, load_guard_policies(policies_beside(os.path.join(staged, "runbooks")))
    replayed = replay_events(
        events, old, new, evidence, unreadable=unreadable, courses=courses, fleet=fleet, policies=policies
    )
    if old and replayed.changed_share > sync.replay.max_changed:
        share = f"{len(replayed.differences)} of {replayed.decisions} past decisions would change"
        hint = "look at: osremed gitops plan; then: osremed gitops apply --force"
        raise Refused("DecisionsChange", f"{share}, at most {sync.replay.max_changed:.0%} may by themselves", hint=hint)
    return replayed


def _fleet(sync: Sync) -> Fleet | None:
    """None: the hosts that had events."""
    wanted = sync.replay
    if wanted.inventory:
        return fleet_of_inventory(groups_of(wanted.inventory, ""), wanted.inventory)
    return fleet_of_number(wanted.fleet_hosts, "replay.fleet_hosts") if wanted.fleet_hosts else None


def go_live(sync: Sync, home: Home, proposal: Proposal, by: str) -> str:
    """Swaps the proposal in and remembers it; the name of its set."""
    name = live.adopt(home, proposal.staged, proposal.files)
    entry = {"set": name, "commit": proposal.commit, "by": by, "signers": list(proposal.signers)}
    if name != live.live_digest(home) or proposal.commit != last_commit(home):
        live.remember(home, entry)  # before the swap: the history knows every set that was ever live
    live.swap(home, name)
    live.prune(home, sync.keep)
    return name


def reconcile(sync: Sync, home: Home, past: Past, *, by: str = "reconcile") -> Status:
    """One look: the status it leaves behind, also of a look that broke off. BlockingIOError while another reconciler is
    at work."""
    with live.alone(home):
        before = _before(home)
        try:
            found = _look(sync, home, past, by, before)
        except (OsremedError, OSError, SubprocessError) as error:
            found = _broken_off(home, error)
        return _leave(home, found, before)


def no_source(home: Home, error: OsremedError | OSError) -> Status:
    """The status of a look that knows not where to look: the source of the rules cannot be read."""
    with live.alone(home):
        return _leave(home, _broken_off(home, error), _before(home))


def _before(home: Home) -> Mapping[str, Any]:
    """The status of the look before; none if it cannot be read: this look makes it anew."""
    try:
        return live.read_json(home.status)
    except BadInput:
        return {}


def _broken_off(home: Home, error: Exception) -> Status:
    """Nothing is known of what Git has; the live rules stay, as far as they can be told."""
    found: dict[str, Any] = {"checked_at": rfc3339(time.time_ns())}
    with contextlib.suppress(OsremedError, OSError):
        found["set"] = live.live_digest(home)
        found["drift"] = live.drift(home)
        found["commit"] = last_commit(home)
    with contextlib.suppress(BadInput):
        found["suspended"] = bool(live.read_json(home.suspended))
    if not isinstance(error, OsremedError):
        return Status(False, "LookFailed", str(error), **found)
    return Status(False, "LookFailed", **_told(error), **found)


def _told(error: OsremedError) -> dict[str, Any]:
    """An error as the message and the detail of a status."""
    text = f"{error.where}: {error.what}" if error.where else error.what
    return {"message": text, "detail": {"hint": error.hint, "where": error.where}}


def _leave(home: Home, found: Status, before: Mapping[str, Any]) -> Status:
    now = rfc3339(time.time_ns())
    told = conditions(found.as_json(), looking=False, now=now, before=before.get("conditions", ()))
    status = replace(found, conditions=told)
    live.write_json(home.status, status.as_json())
    return status


def _key(sync: Sync, commit: str) -> str:
    """Changes with the commit, the settings, the keys that are trusted and this program."""
    paths = [path for path in (sync.verify.allowed_signers, sync.verify.keyring) if path]
    settings = sync.model_dump(mode="json", exclude={"interval", "timeout"})
    return digest([commit, settings, [sha256_hex(read_bytes(path)) for path in paths], __version__])


def _look(sync: Sync, home: Home, past: Past, by: str, before: Mapping[str, Any]) -> Status:
    now = rfc3339(time.time_ns())
    suspended = live.read_json(home.suspended)
    current: dict[str, Any] = {"commit": last_commit(home), "set": live.live_digest(home), "checked_at": now}
    drifted = live.drift(home)
    if suspended:
        message = f"suspended by {suspended.get('by')}: {suspended.get('reason')}"
        return Status(not drifted, "Suspended", message, **current, drift=drifted, suspended=True)
    try:
        arrived = arrive(sync, home)
        key = _key(sync, arrived.commit)
        if not drifted and before.get("ready") and (before.get("key"), before["set"]) == (key, current["set"]):
            return _unchanged(before, now)
        proposal = propose(sync, home, past, arrived)
    except Refused as error:
        return Status(False, error.reason, **_told(error), **current, drift=drifted)
    if drifted and not sync.repair_drift:
        shutil.rmtree(proposal.staged)
        hint = {"hint": "osremed gitops apply, or repair_drift: true"}
        return Status(False, "Drifted", drifted, **current, seen_commit=proposal.commit, drift=drifted, detail=hint)
    name = go_live(sync, home, proposal, by)
    detail: dict[str, Any] = {
        "subject": proposal.subject,
        "signers": list(proposal.signers),
        "changes": [change.as_json() for change in proposal.plan.changes],
        "replay": {**proposal.replayed.as_json(), "differences": len(proposal.replayed.differences)},
        **proposal.counts,
    }
    message = f"{proposal.counts['runbooks']} runbooks of {proposal.commit[:12]}: {proposal.subject}"
    done: dict[str, Any] = {"commit": proposal.commit, "set": name, "checked_at": now}
    return Status(True, "Applied", message, **done, seen_commit=proposal.commit, key=key, detail=detail)


def _unchanged(before: Mapping[str, Any], now: str) -> Status:
    """As it was; a look that finds nothing new costs a fetch and no more."""
    return Status(**{**before, "checked_at": now, "detail": {**before["detail"], "changes": []}})
