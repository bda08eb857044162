"""Verbs of a canary: one runbook over many hosts, a few first. It is driven in this process, or in one of its own."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict
from typing import Any

from osremed.core.answer import Answer
from osremed.core.canonical import sha256_hex
from osremed.core.clock import rfc3339
from osremed.core.columns import padded
from osremed.core.errors import BadInput, ExitCode, OsremedError
from osremed.core.event import event_from_json
from osremed.core.language import filled
from osremed.core.log import Log
from osremed.core.units import parse_duration_s, parse_ratio
from osremed.executor.runner import AnsibleExecutor
from osremed.flows.settings import ControlPaths
from osremed.flows.start import detached, entry_named
from osremed.flows.verbs import operator_of, publish_into
from osremed.flows.wait import limit_of
from osremed.runbook.audit import NOTED_VARIABLE, caller_uid, person, written_by_hand
from osremed.runbook.canary import (
    Canary,
    HostEnded,
    Planned,
    Stop,
    describe,
    fate,
    row_of,
    state_of,
    waves_if_all_goes_well,
    why_stopped,
)
from osremed.runbook.catalog import CatalogEntry, load_entry, match
from osremed.runbook.fanout import (
    Followed,
    begin,
    canary_event,
    driving,
    has_begun,
    load,
    newest_first,
    read_stop,
    roll,
    write_stop,
)
from osremed.runbook.operate import Operator
from osremed.runbook.preview import preview

_LOG = Log("canary")
_EVERY_S = 0.5
_NOT_SHOWN = ("kind", "by_uid")
#: What makes two canaries with one key different questions, and its option.
_ASKED = {
    "runbook": "runbook",
    "hosts": "--hosts",
    "attributes": "--attributes",
    "stop_share": "--max-failed",
    "settle_s": "--settle",
}


def _hosts(executor: AnsibleExecutor, wanted: str) -> tuple[str, ...]:
    """A group of the inventory by name, or hosts in the order they are given. BadInput for one there is not."""
    if wanted in executor.groups:
        hosts = tuple(sorted(executor.groups[wanted]))
    else:
        hosts = tuple(dict.fromkeys(name.strip() for name in wanted.split(",")))
    strange = [host for host in hosts if host not in executor.hosts]
    if strange or not hosts:
        hint = f"groups are {', '.join(sorted(executor.groups))}"
        raise BadInput(f"{strange[0] if strange else wanted!r} names no host", where="--hosts", hint=hint)
    return hosts


def _attributes(text: str | None) -> dict[str, Any]:
    try:
        given = json.loads(text) if text else {}
    except ValueError as error:
        raise BadInput(f"not JSON: {error}", where="--attributes") from error
    if not isinstance(given, dict):
        raise BadInput("attributes are an object", where="--attributes")
    return given


def _entry(runbook: str, runbooks: str, *, named: bool) -> CatalogEntry:
    """By its name; at the command line (`named` is False) also a folder or file."""
    if named or not os.path.exists(runbook):
        return entry_named(runbooks, runbook)
    return load_entry(runbook if os.path.isfile(runbook) else os.path.join(runbook, "runbook.yaml"))


def _name(key: str) -> str:
    """Of a new canary; the same for the same key of the same person."""
    return sha256_hex(f"{person()}|{key}".encode())[:16] if key else os.urandom(8).hex()


def canary_start(
    *,
    runbook: str,
    hosts: str,
    state: str,
    inventory: str,
    collections: str,
    runbooks: str = "",
    attributes: str | None = None,
    max_failed: str = "0%",
    settle: str = "0s",
    key: str = "",
    check: bool = False,
    leave: bool = True,
    wait: bool = False,
    timeout: str | None = None,
) -> Answer:
    """The runbook on one host, then two, then twice as many each time; every host verified before the next wave. Stops
    when more than `max_failed` of the hosts so far were not kept. `check` shows the waves and the first host's plan.
    With `leave` or `wait` a process of its own drives it, and `runbook` is a name; else this one does, to its end. The
    same `key` of the same person gives the same canary."""
    limit_of(wait, timeout)
    leave = leave or wait
    paths = ControlPaths(os.path.abspath(state))
    entry = _entry(runbook, runbooks, named=leave)
    share, settle_s, given = parse_ratio(max_failed), parse_duration_s(settle), _attributes(attributes)
    executor = AnsibleExecutor(inventory, collections, paths.work)
    try:
        wanted, name, by = _hosts(executor, hosts), _name(key), person()
        at_ns, uid, book = time.time_ns(), caller_uid(), entry.runbook.name
        planned = Planned(name, book, entry.digest, wanted, given, share, settle_s, by, at_ns, uid, entry.commit)
        first = canary_event(planned, entry.runbook.events[0], wanted[0], time.time_ns())
        found = match(entry, event_from_json(first.as_json(), where="--attributes"))
        if not found.matched:
            hint = "give the attributes it asks for with --attributes"
            raise BadInput(f"{planned.runbook} does not want this: {found.why}", hint=hint)
        folder = os.path.dirname(os.path.dirname(os.path.abspath(entry.path)))
        operator = operator_of(executor, paths, folder)
        if check:
            return _preview(operator, entry, planned)
        with written_by_hand(paths.hands) as audit:  # one at a time: two who ask at once get one canary
            if new := not has_begun(paths.canaries, name):
                audit.append({"verb": "canary", "by": by, "canary": name, "runbook": runbook, "hosts": wanted})
                begin(paths.canaries, planned, entry)
                _LOG.info("began", canary=name, hosts=len(wanted))
            else:
                _is_the_same(load(paths.canaries, name).planned, planned)
        if not leave:
            return _driven_here(operator, paths, name)
    finally:
        executor.close()
    if new:
        _leave(paths, name, folder, inventory, collections)
    return _left(name, state, wait, timeout)


def _is_the_same(before: Planned, asked: Planned) -> None:
    """BadInput if the key was said with another question: its answer would pass for the answer to this one."""
    for name, word in _ASKED.items():
        if getattr(before, name) != getattr(asked, name):
            what = f"canary {before.canary_id} was begun with this key and another {word}"
            raise BadInput(what, where="--key", hint="another canary takes another key")


def _preview(operator: Operator, entry: CatalogEntry, planned: Planned) -> Answer:
    waves = waves_if_all_goes_well(planned.hosts)
    event = canary_event(planned, entry.runbook.events[0], planned.hosts[0], time.time_ns())
    plan = asyncio.run(preview(operator, entry.runbook, event))
    lines = [filled("wave {1}: {2}", str(number), ", ".join(wave)) for number, wave in enumerate(waves, 1)]
    document = {"waves": waves, "first": plan.document}
    code = ExitCode.REFUSED if plan.refused else ExitCode.OK
    return Answer(document, "\n".join([*lines, filled("on {1}:", planned.hosts[0]), plan.text]), code)


def _driven_here(operator: Operator, paths: ControlPaths, canary_id: str) -> Answer:
    try:
        return _roll(operator, paths, canary_id)
    except BlockingIOError:  # the dispatcher found it first and drives it
        return canary_show(canary_id=canary_id, state=paths.state, wait=True)
    except KeyboardInterrupt:
        _LOG.warning("left; the dispatcher goes on with it", canary=canary_id, hint=f"osremed canary stop {canary_id}")
        raise


def _leave(paths: ControlPaths, canary_id: str, runbooks: str, inventory: str, collections: str) -> None:
    """To a process of its own. If that ends early, the dispatcher finds the canary, as any that nobody drives."""
    where = {"state": paths.state, "runbooks": runbooks, "inventory": inventory, "collections": collections}
    options = [word for name, value in where.items() for word in (f"--{name}", os.path.abspath(value))]
    os.makedirs(paths.requests, mode=0o700, exist_ok=True)
    with open(os.path.join(paths.requests, f"canary-{canary_id}.log"), "w", encoding="utf-8") as log:
        detached(["canary", "resume", canary_id, *options], of=canary_id, stdout=log, stderr=log)


def _left(canary_id: str, state: str, wait: bool, timeout: str | None) -> Answer:
    shown = canary_show(canary_id=canary_id, state=state, wait=wait, timeout=timeout)
    if wait:
        return shown
    follow = filled("follow it with: {1}", f"osremed canary show {canary_id}")
    return Answer(shown.document, f"{shown.text}\n{follow}")


def canary_resume(
    *,
    canary_id: str,
    state: str,
    runbooks: str,
    inventory: str,
    collections: str,
    check: bool = False,
    leave: bool = True,
) -> Answer:
    """Goes on with a canary whose process was ended. What a run was doing on its host is taken back first. `check`
    shows where it stands. With `leave` a process of its own goes on, else this one does, to its end."""
    paths = ControlPaths(os.path.abspath(state))
    if (ended := load(paths.canaries, canary_id).ended) or check:
        shown = canary_show(canary_id=canary_id, state=state)
        told = f"{shown.text}\nit has ended and is not gone on with; osremed canary start begins another"
        return Answer(shown.document, told if ended else shown.text, shown.exit_code)
    try:
        with driving(paths.canaries, canary_id):
            pass
        if not leave:
            return _resumed_here(paths, canary_id, runbooks, inventory, collections)
    except BlockingIOError:
        raise BadInput(f"canary {canary_id} is driven by another process") from None
    _note_resume(paths, canary_id)
    _leave(paths, canary_id, runbooks, inventory, collections)
    return _left(canary_id, state, False, None)


def _note_resume(paths: ControlPaths, canary_id: str) -> None:
    with written_by_hand(paths.hands) as audit:
        audit.append({"verb": "canary-resume", "by": person(), "canary": canary_id})


def _resumed_here(paths: ControlPaths, canary_id: str, runbooks: str, inventory: str, collections: str) -> Answer:
    executor = AnsibleExecutor(inventory, collections, paths.work)
    try:
        if os.environ.get(NOTED_VARIABLE) != canary_id:  # else a command began this process, and that is noted
            _note_resume(paths, canary_id)
        return _roll(operator_of(executor, paths, os.path.abspath(runbooks)), paths, canary_id)
    finally:
        executor.close()


def _roll(operator: Operator, paths: ControlPaths, canary_id: str) -> Answer:
    canary = asyncio.run(roll(operator, paths.canaries, canary_id))
    for ended in canary.outcomes.values():
        publish_into(operator.store, operator.store.load(ended.run_id)[0])
    return _answer(canary, read_stop(paths.canaries, canary_id))


def canary_stop(*, canary_id: str, state: str, reason: str = "") -> Answer:
    """No further host of the canary is begun with; runs that are under way end by themselves. The first who stops it
    is who stopped it. BadInput when it has ended."""
    paths = ControlPaths(os.path.abspath(state))
    asked = Stop(person(), reason, time.time_ns())
    with written_by_hand(paths.hands) as audit:
        if load(paths.canaries, canary_id).ended:
            raise BadInput(f"canary {canary_id} has ended", hint="osremed canary show tells how")
        audit.append({"verb": "canary-stop", "by": asked.by, "canary": canary_id, "reason": reason})
        stop = write_stop(paths.canaries, canary_id, asked)
    return _answer(load(paths.canaries, canary_id), stop, code=ExitCode.OK)


def canary_list(*, state: str, limit: int = 100, before: str = "") -> Answer:
    """Canaries, newest first, one line each; damaged ones are named. At most `limit` (0: all) of those after `before`.
    Others are not read."""
    if limit < 0:
        raise BadInput(f"limit {limit} is below 0", where="--limit")
    canaries = ControlPaths(os.path.abspath(state)).canaries
    page, following = _page(newest_first(canaries), limit, before)
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    damaged: list[str] = []
    for canary_id in page:
        try:
            canary, stop = load(canaries, canary_id), read_stop(canaries, canary_id)
        except (OsremedError, OSError) as error:
            if has_begun(canaries, canary_id):  # else it was removed meanwhile
                damaged.append(f"{canary_id}: {error}")
            continue
        rows.append(row_of(canary, stop))
        lines.append(_line(rows[-1], why_stopped(canary, stop)))
    lines += [filled("DAMAGED  {1}", why) for why in damaged]
    if following:
        lines.append(filled("older ones: {1}", f"osremed canary list --before {following}"))
    document = {"canaries": rows, "next_before": following, "damaged": damaged}
    code = ExitCode.FAILED if damaged else ExitCode.OK
    return Answer(document, "\n".join(lines) or filled("no canaries yet"), code)


def _page(newest: list[str], limit: int, before: str) -> tuple[list[str], str | None]:
    """(the ids of one page, the `before` of the next)."""
    if before and before not in newest:
        raise BadInput(f"no canary {before!r} to go on after", where="--before")
    rest = newest[newest.index(before) + 1 :] if before else newest
    page = rest[:limit] if limit else rest
    return page, page[-1] if len(page) < len(rest) else None


def _line(row: dict[str, Any], stopped: str) -> str:
    begun = rfc3339(row["at_ns"]) if row["at_ns"] else f"{'-':<20}"
    fates = (str(row[each]) for each in ("kept", "nothing", "failed", "untouched"))
    counts = filled("{1} kept, {2} as wanted, {3} not kept, {4} untouched", *fates)
    state = padded(filled(row["state"]), 9)
    return f"{row['canary_id']}  {begun}  {state}  {row['runbook']}  {counts}  {stopped}".rstrip()


def canary_show(*, canary_id: str, state: str, wait: bool = False, timeout: str | None = None) -> Answer:
    """Where a canary stands: each host's run, where it stopped and why, whom it did not touch. With `wait`, as it
    ended, or as it is after `timeout`; it goes on then."""
    limit_s = limit_of(wait, timeout)
    canaries = ControlPaths(os.path.abspath(state)).canaries
    found = _until_ended(canaries, canary_id, limit_s) if wait else load(canaries, canary_id)
    shown = _answer(found, read_stop(canaries, canary_id))
    if not wait or found.ended:
        return shown
    again = f"osremed canary show {canary_id} --wait"
    late = filled("not ended within {1}: it goes on; look again with: {2}", str(timeout), again)
    return Answer(shown.document, f"{shown.text}\n{late}", ExitCode.TIMED_OUT)


def _until_ended(canaries: str, canary_id: str, limit_s: float | None) -> Canary:
    """As it ended, or as it is after `limit_s`. Each wave is told on stderr."""
    deadline = None if limit_s is None else time.monotonic() + limit_s
    followed, told = Followed(canaries, canary_id), -1
    while True:
        canary = followed.now()
        if canary.ended:
            return canary
        if len(canary.waves) != told:
            told = len(canary.waves)
            _LOG.info("waiting", canary=canary_id, wave=told)
        left_s = _EVERY_S if deadline is None else deadline - time.monotonic()
        if left_s <= 0:
            return canary
        time.sleep(min(_EVERY_S, left_s))


def _answer(canary: Canary, stop: Stop | None, *, code: ExitCode | None = None) -> Answer:
    planned = {name: value for name, value in asdict(canary.planned).items() if name not in _NOT_SHOWN}
    document = {
        **planned,
        "at_ns": canary.planned.at_ns or None,
        "state": state_of(canary, stop),
        "stop": None if stop is None else asdict(stop),
        "ended": canary.ended,
        "stopped": canary.stopped,
        "waves": canary.waves,
        "hosts": {host: _outcome(ended) for host, ended in canary.outcomes.items()},
        "untouched": canary.untouched,
    }
    return Answer(document, describe(canary, stop), code or (ExitCode.FAILED if canary.stopped else ExitCode.OK))


def _outcome(ended: HostEnded) -> dict[str, Any]:
    told = {name: value for name, value in asdict(ended).items() if name != "kind"}
    return {**told, "fate": fate(ended)}
