"""The runbooks in force: `<directory>/<name>/runbook.yaml` with the parts they use, all of them sound, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput
from osremed.core.event import Event
from osremed.core.record import record
from osremed.runbook.document import Runbook
from osremed.runbook.expressions import ExpressionFailed, condition_holds
from osremed.runbook.faults import Fault
from osremed.runbook.parts import check
from osremed.runbook.rulefile import FOLDER, check_inside, read_rule
from osremed.runbook.ruleset import commit_of


@record
class CatalogEntry:
    """`content` are the bytes of the document without parts (those of the file, where it uses none) and `digest` their
    SHA-256: a run keeps what it began with. `parts`: what it uses. `commit`: of Git, where GitOps brought it."""

    runbook: Runbook
    content: bytes
    digest: str
    path: str
    parts: tuple[str, ...] = ()
    commit: str = ""


@record
class Match:
    """Whether an entry wants the event, and in words why or why not. `event`: what the run begins with, which tells of
    the others where it takes several; `timed`: time brought it, not an event."""

    entry: CatalogEntry
    matched: bool
    why: str
    event: Event | None = None
    timed: bool = False


def load_entry(path: str) -> CatalogEntry:
    """BadInput with the first error of the file."""
    return _entry(path, commit_of(os.path.dirname(os.path.dirname(os.path.abspath(path)))))


def _entry(path: str, commit: str) -> CatalogEntry:
    content = read_rule(path)
    checked = check(content, path)
    runbook = checked.runbook
    if runbook is None or checked.faults:
        raise checked.faults[0]
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    if folder != runbook.name and os.path.basename(path) == "runbook.yaml":
        hint = f"rename the folder to {runbook.name!r}, or the runbook"
        what = f"runbook {runbook.name!r} lies in folder {folder!r}"
        raise Fault("folder-name", what, where=path, hint=hint)
    return CatalogEntry(runbook, checked.content, sha256_hex(checked.content), path, checked.parts, commit)


def runbook_files(directory: str) -> tuple[str, ...]:
    """BadInput if there is none: an empty set is a mistake, not a wish; and if one is, by a link, elsewhere."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise BadInput(f"no runbooks: {error.strerror}", where=directory) from error
    paths = (os.path.join(directory, name, "runbook.yaml") for name in names if name != FOLDER)
    files = tuple(path for path in paths if os.path.isfile(path))
    for path in files:
        check_inside(os.path.dirname(path), directory)
    if not files:
        raise BadInput("no runbooks", where=directory, hint="a runbook is <directory>/<name>/runbook.yaml")
    return files


def load_catalog(directory: str) -> Mapping[str, CatalogEntry]:
    """Name -> entry. BadInput for the first faulty one."""
    files, commit = runbook_files(directory), commit_of(directory)
    return {entry.runbook.name: entry for entry in (_entry(path, commit) for path in files)}


def event_as_data(event: Event) -> dict[str, object]:
    """The event as expressions see it: its attributes beside its own fields."""
    return {**event.attributes, "id": event.id, "name": event.name, "host": event.host, "time_ns": event.time_ns}


def match(entry: CatalogEntry, event: Event) -> Match:
    """Whether some trigger counts the event, windows aside (a person's run; `matcher` has the windows). Never raises: a
    condition that has no value for this event does not match, and says so."""
    reasons = []
    for clause in (clause for trigger in entry.runbook.on for clause in trigger.clauses):
        if clause.event != event.name:
            reasons.append(f"wants {clause.event}, the event is {event.name}")
            continue
        try:
            if clause.where is None or condition_holds(clause.where, {"event": event_as_data(event)}):
                return Match(entry, True, f"on {clause.event} where {clause.where or 'always'}", event)
            reasons.append(f"`{clause.where}` is false")
        except ExpressionFailed as error:
            reasons.append(error.what)
    return Match(entry, False, "; ".join(reasons))
