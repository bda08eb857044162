"""The command line's functions: `osremed agent run | status | undo …`, `osremed collect`, `osremed probe`."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from osremed.agent import undo
from osremed.agent.arguments import parse_arguments
from osremed.agent.collect import collect as collect_document
from osremed.agent.probes import run_probe
from osremed.agent.undo_record import UndoRecord, list_undo
from osremed.core.answer import Answer
from osremed.core.clock import SystemClock, rfc3339
from osremed.core.errors import ExitCode, OsremedError, Unavailable
from osremed.core.files import read_bytes
from osremed.core.language import filled
from osremed.core.paths import host_paths
from osremed.core.probe import Verdict, parse_tolerance
from osremed.core.reading import Missing
from osremed.core.units import format_bytes, parse_duration_s
from osremed.sensors import procfs

_VERDICT_CODE = {
    Verdict.HOLDS: ExitCode.OK,
    Verdict.FAILS: ExitCode.FAILED,
    Verdict.UNKNOWN: ExitCode.UNAVAILABLE,
}


def run(*, config: str | None = None) -> Answer:
    """Runs until SIGTERM or SIGINT. Without a configuration file there is no intake; undo still runs."""
    from osremed.agent import daemon  # noqa: PLC0415  the other verbs start without threads
    from osremed.agent.config import AgentConfig, config_path, load_config  # noqa: PLC0415

    paths = host_paths()
    path = config or config_path(paths)
    settings = load_config(path) if config or os.path.exists(path) else AgentConfig()
    document = daemon.run(settings, paths)
    counts = (str(document["shipped"]), str(document["spooled"]))
    return Answer(document, filled("stopped: {1} shipped, {2} spooled", *counts))


def status() -> Answer:
    """What the running agent says of itself. Unavailable (exit code 7) when none runs."""
    path = os.path.join(host_paths().run, "agent.json")
    hint = "start it with `osremed agent run`"
    try:
        document = json.loads(read_bytes(path, limit_bytes=1 << 20))
        reading = procfs.stat(int(document["pid"]))
        started = int(document["start_time_ticks"])
        lines = _status_lines(document)
    except OSError as error:
        raise Unavailable(f"no status file: {error.strerror}", where=path, hint=hint) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"not a status file: {error!r}", where=path, hint=hint) from error
    if isinstance(reading, Missing) or reading.value.start_time_ticks != started or reading.value.state == "Z":
        raise Unavailable(f"the agent does not run: pid {document['pid']} ended", where=path, hint=hint)
    return Answer(document, "\n".join(lines))


def _status_lines(document: dict[str, Any]) -> list[str]:
    rss = document["rss_bytes"]
    memory = filled("unknown") if isinstance(rss, dict) else format_bytes(rss)
    intake = document["intake"] or filled("none")
    counts = (str(document[each]) for each in ("shipped", "spooled", "refused", "lost", "damaged"))
    changes = (str(len(document[each])) for each in ("undo_pending", "undo_conflicts", "undo_damaged"))
    itself = (str(document["pid"]), str(document["since"]), memory, str(document["cpu_s"]))
    lines = [
        filled("pid {1}, since {2}, memory {3}, CPU {4} s", *itself),
        filled("intake {1}: {2} shipped, {3} spooled, {4} refused, {5} lost, {6} damaged lines", intake, *counts),
        filled("undo: {1} awaiting confirmation, {2} conflicts, {3} unreadable", *changes),
    ]
    errors = (document["last_error"], document.get("history_error"))
    return [*lines, *(filled("LAST ERROR: {1}", each) for each in errors if each)]


def undo_list() -> Answer:
    """The changes that can still be taken back. Exit code 8 when one of them needs a human."""
    registered = list_undo(host_paths().undo)
    document = {
        "pending": [_undo_document(each) for each in registered.pending],
        "conflicts": list(registered.conflicts),
        "damaged": list(registered.damaged),
    }
    lines = [_undo_line(each) for each in registered.pending] or [filled("no change awaits confirmation")]
    lines += [filled("CONFLICT {1}: changed by someone else, left alone", each) for each in registered.conflicts]
    lines += [filled("UNREADABLE {1}", each) for each in registered.damaged]
    needs_human = registered.conflicts or registered.damaged
    return Answer(document, "\n".join(lines), ExitCode.UNDO_INCOMPLETE if needs_human else ExitCode.OK)


def _undo_document(each: UndoRecord) -> dict[str, Any]:
    return {
        "undo_id": each.undo_id,
        "path": each.path,
        "applied_sha256": each.applied_sha256,
        "created_ns": each.created_ns,
        "deadline_ns": each.deadline_ns,
    }


def _undo_line(each: UndoRecord) -> str:
    until = filled("taken back at {1}", rfc3339(each.deadline_ns)) if each.deadline_ns else filled("no deadline")
    return f"{each.undo_id}  {each.path}  {until}"


def undo_confirm(*, undo_id: str) -> Answer:
    """The change stays. NotFound (exit code 3) if it was taken back or confirmed before."""
    try:
        found = undo.confirm(host_paths(), undo_id)
    except OSError as error:
        what = f"{undo_id} is not confirmed: {error.strerror or error}"
        raise OsremedError(what, where=str(error.filename or ""), hint="run as root") from error
    document = {"undo_id": undo_id, "path": found.path, "confirmed": True}
    return Answer(document, filled("{1}: the change stays", found.path))


def undo_revert(*, undo_id: str) -> Answer:
    """The change is taken back now. Exit code 8 on a conflict: the file was changed by someone else and left alone."""
    try:
        done = undo.revert(host_paths(), undo_id, why="asked", clock=SystemClock())
    except OSError as error:
        what = f"{undo_id} is not taken back: {error.strerror or error}"
        hint = "its record stays; repair the cause and try again"
        raise OsremedError(what, where=str(error.filename or ""), hint=hint) from error
    conflict = done.result is undo.Result.CONFLICT
    came, reload = filled(done.result.value), f", {done.reload}" if done.reload else ""
    text = f"{done.path}: {came}{reload}"
    return Answer(done.as_json(), text, ExitCode.UNDO_INCOMPLETE if conflict else ExitCode.OK)


def collect(*, name: str, args: str = "{}") -> Answer:
    """The collector's document; the text is the same JSON."""
    document = collect_document(name, parse_arguments(args, where=f"collect {name}"))
    return Answer(document, json.dumps(document, indent=2, ensure_ascii=False))


def probe(*, name: str, expect: str, within: str, hold: str = "0s", args: str = "{}") -> Answer:
    """Watches until there is a verdict. Exit code 0 HOLDS, 1 FAILS, 7 UNKNOWN."""
    tolerance = parse_tolerance(expect, within_s=parse_duration_s(within), hold_s=parse_duration_s(hold))
    arguments = parse_arguments(args, where=f"probe {name}")
    probed = run_probe(name, arguments, tolerance, SystemClock(), time.sleep)
    last = probed.samples[-1].reading
    seen = str(last) if isinstance(last, Missing) else f"{last.value:g}"
    judged = f"{probed.verdict.value}: {tolerance}"
    text = filled("{1}; last {2}, {3} samples", judged, seen, str(len(probed.samples)))
    return Answer(probed.as_json(), text, _VERDICT_CODE[probed.verdict])
