"""Starts a run for a caller who does not stay to watch it: a process of its own drives it to the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import IO, Any

from osremed.core.answer import Answer
from osremed.core.canonical import canonical_json, sha256_hex
from osremed.core.errors import BadInput, NotFound, Unavailable
from osremed.core.event import Event, event_from_json, new_event_id
from osremed.core.files import write_atomic
from osremed.core.language import filled
from osremed.flows.settings import ControlPaths
from osremed.flows.verbs import note_start, run, runs_show
from osremed.flows.wait import limit_of
from osremed.runbook.audit import ACTOR_VARIABLE, NOTED_VARIABLE, person
from osremed.runbook.catalog import CatalogEntry, load_catalog
from osremed.runbook.store import RunStore, run_id_for

_BEGINS_S = 30.0


def entry_named(runbooks: str, name: str) -> CatalogEntry:
    catalog = load_catalog(runbooks)
    if name not in catalog:
        raise NotFound(f"no runbook {name!r}", where=runbooks, hint=f"there are {', '.join(sorted(catalog))}")
    return catalog[name]


def _event(entry: CatalogEntry, host: str, attributes: str | None, key: str) -> Event:
    try:
        given: Any = json.loads(attributes) if attributes else {}
    except ValueError as error:
        raise BadInput(f"attributes are not JSON: {error}", where="--attributes") from error
    name = sha256_hex(f"{person()}|{key}".encode())[:32] if key else new_event_id()
    document = {"id": f"manual-{name}", "name": entry.runbook.events[0], "host": host, "time_ns": time.time_ns()}
    return event_from_json({**document, "attributes": given}, where="--attributes")


def runs_start(
    *,
    runbook: str,
    host: str,
    state: str,
    runbooks: str,
    inventory: str,
    collections: str,
    attributes: str | None = None,
    key: str = "",
    check: bool = False,
    wait: bool = False,
    timeout: str | None = None,
) -> Answer:
    """The run, begun; it goes on without the caller. The same `key` of the same person gives the same run. `check`
    answers with the plan instead and changes nothing. `wait` answers with the run as it ended, or as it is after
    `timeout`; it goes on then."""
    limit_of(wait, timeout)
    entry = entry_named(runbooks, runbook)
    folder = os.path.join(os.path.realpath(runbooks), runbook)
    where = {"state": state, "inventory": inventory, "collections": collections}
    if check:
        return run(runbook=folder, host=host, attributes=attributes, check=True, **where)
    paths = ControlPaths(os.path.abspath(state))
    event = _event(entry, host, attributes, key)
    run_id = run_id_for(event, entry.runbook.name)
    if not RunStore(paths.runs).has_begun(run_id):
        note_start(paths, runbook, host, run_id)
        requested = os.path.join(paths.requests, f"{run_id}.json")
        os.makedirs(paths.requests, mode=0o700, exist_ok=True)
        write_atomic(requested, canonical_json(event.as_json()), mode=0o600)
        options = [word for name, value in where.items() for word in (f"--{name}", os.path.abspath(value))]
        _begin(paths, run_id, ["run", folder, "--host", host, "--event", requested, *options])
    shown = runs_show(run_id=run_id, state=state, wait=wait, timeout=timeout)
    if wait:
        return shown
    begun = filled("run {1} of {2} on {3}", run_id, runbook, host)
    follow = filled("follow it with: {1}", f"osremed runs show {run_id}")
    return Answer(shown.document, f"{begun}\n{follow}")


def detached(words: list[str], *, of: str, stdout: int | IO[str], stderr: IO[str]) -> subprocess.Popen[bytes]:
    """osremed with these words, for the person who asks, in a process that lives on when the caller ends. `of`: the run
    or canary; that it was asked for is in the audit."""
    return subprocess.Popen(
        [sys.executable, "-m", "osremed", *words],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        env={**os.environ, ACTOR_VARIABLE: person(), NOTED_VARIABLE: of, "OSREMED_LANG": "en"},
    )


def _begin(paths: ControlPaths, run_id: str, words: list[str]) -> None:
    """Returns when the run is on disk. Raises what the child says if it ends before."""
    os.makedirs(paths.work, mode=0o700, exist_ok=True)
    told = os.path.join(paths.requests, f"{run_id}.log")
    with open(told, "w", encoding="utf-8") as log:
        child = detached([*words, "-o", "json"], of=run_id, stdout=subprocess.DEVNULL, stderr=log)
    deadline = time.monotonic() + _BEGINS_S
    while not RunStore(paths.runs).has_begun(run_id):
        if child.poll() is not None:
            with open(told, encoding="utf-8", errors="replace") as log:
                said = log.read(2000).removeprefix("osremed: ").strip()
            raise BadInput(f"the run did not begin: {said or f'exit code {child.returncode}'}")
        if time.monotonic() > deadline:
            raise Unavailable(f"the run did not begin within {_BEGINS_S:g} s", where=told)
        time.sleep(0.05)
