"""The collectors of this host: name -> JSON document. What could not be read is in the document, as Missing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from osremed.agent.answers import answers
from osremed.agent.arguments import cgroup_of, check_arguments
from osremed.agent.load import cpu_limits, io
from osremed.agent.switches import switches
from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput, NotFound, Unavailable
from osremed.core.files import read_bytes
from osremed.core.journal import read_journal
from osremed.core.paths import host_name, host_paths
from osremed.core.reading import Missing, Reason, missing_from_oserror
from osremed.core.record import record

_EVENTS = 20
_LONGEST_WINDOW_S = 300
_LONGEST_TRACE_S = 40  #: evidence as a whole has a minute


@record
class Collector:
    """`arguments`: name -> type; all may be left out."""

    run: Callable[..., Any]
    arguments: Mapping[str, type]


def collect(name: str, arguments: Mapping[str, Any]) -> Any:
    """The document of the named collector. BadInput, with the list, for another name or argument."""
    if name not in COLLECTORS:
        raise BadInput(f"no collector {name!r}", hint=f"collectors: {', '.join(sorted(COLLECTORS))}")
    collector = COLLECTORS[name]
    return collector.run(**check_arguments(arguments, collector.arguments, where=name))


def _panorama(
    *, scope: str = "node", files: int = 20, processes: int = 20, growth_s: int = 0, heaps: int = 0, pid: str = "",
    consent: bool = False, trace_s: int | None = None, history: bool = False,
) -> Any:  # fmt: skip
    """`trace_s` 0 never traces. `history` adds the last day of each line, and the host's name, as the page wants."""
    from osremed.panorama.ask import Ask, look, process_id  # noqa: PLC0415  read only when asked: the agent stays small
    from osremed.panorama.document import as_document  # noqa: PLC0415
    from osremed.panorama.past import plotted  # noqa: PLC0415

    found = look(
        Ask(
            cgroup=cgroup_of(scope), files=files, processes=processes, growth_s=growth_s, heaps=heaps,
            pid=process_id(pid), consent=consent, trace_s=trace_s,
        )
    )  # fmt: skip
    document = as_document(found)
    return {**document, "host": host_name(), "history": plotted()} if history else document


def _fastoom(*, events: int = _EVENTS) -> dict[str, Any]:
    """Status, policy as text and the latest events of this host's guard."""
    paths = host_paths()
    status = _json_file(os.path.join(paths.run, "fastoom.json"))
    obeyed = status.get("policy_path") if isinstance(status, dict) else None
    return {
        "status": status,
        "policy": _text_file(obeyed if isinstance(obeyed, str) else paths.fastoom_policy),
        **_events(os.path.join(paths.events, "fastoom"), events),
    }


def _timeline(*, events: int = _EVENTS) -> dict[str, Any]:
    """Status and the latest events of this host's GPU watch."""
    paths = host_paths()
    status = _json_file(os.path.join(paths.run, "timeline.json"))
    return {"status": status, **_events(os.path.join(paths.events, "timeline"), events)}


def _gpus() -> Any:
    from osremed.timeline.collect import survey  # noqa: PLC0415  loads ctypes
    from osremed.timeline.scheduler import scheduler  # noqa: PLC0415

    return {**survey(), "scheduler": scheduler()}


def _gpu_trace(*, pid: str = "", within_s: int = 20, moment: str = "now") -> Any:
    """What the watch took at the moment; else of the process, or of the first that computes on a GPU here and lets
    itself be asked."""
    from osremed.hotspot.moments import parse_moment  # noqa: PLC0415
    from osremed.timeline.jobtrace import directory_of, holders_of, trace_of_a_job  # noqa: PLC0415

    if not 1 <= within_s <= _LONGEST_TRACE_S:
        raise BadInput(f"within_s {within_s} is out of range", hint=f"1 to {_LONGEST_TRACE_S}")
    if pid and not pid.isdigit():
        raise BadInput(f"{pid!r} is not a process", hint="its number, or nothing")
    paths, moment_ns = host_paths(), parse_moment(moment, time.time_ns())
    wanted = [int(pid)] if pid else holders_of(_json_file(os.path.join(paths.run, "timeline.json")))
    return trace_of_a_job(wanted, within_s, directory_of(paths), moment_ns, int(pid or 0))


def _hotspot(*, moment: str = "now", window_s: int = 10) -> Any:
    from osremed.hotspot.evidence import evidence_around  # noqa: PLC0415  read only when asked
    from osremed.hotspot.moments import parse_moment  # noqa: PLC0415

    if not 1 <= window_s <= _LONGEST_WINDOW_S:
        raise BadInput(f"a window of {window_s} s is out of range", hint=f"1 to {_LONGEST_WINDOW_S}")
    try:
        return evidence_around(parse_moment(moment, time.time_ns()), window_s)
    except NotFound as error:
        return Missing(Reason.NO_DATA, error.where or "hotspot", error.what).as_json()


def _hotspot_at(
    *, moment: str = "", around: str = "", window_s: int = 10, container: str = "", process: str = ""
) -> Any:
    """The document of `osremed hotspot at`, with what it says to people as `text`."""
    from osremed.hotspot.verbs import at  # noqa: PLC0415  read only when asked

    asked = {"around": around or None, "container": container or None, "process": process or None}
    try:
        answer = at(moment=moment or ("" if around else "last"), window=f"{window_s}s", **asked)
    except NotFound as error:
        return Missing(Reason.NO_DATA, error.where or "hotspot", error.what).as_json()
    except Unavailable as error:
        return Missing(Reason.DENIED, error.where or "hotspot", error.what).as_json()
    return {**answer.document, "text": answer.text}


def _json_file(path: str) -> Any:
    try:
        return json.loads(read_bytes(path, limit_bytes=1 << 20))
    except OSError as error:
        return missing_from_oserror(error, path).as_json()
    except (ValueError, RecursionError) as error:
        return Missing(Reason.MALFORMED, path, str(error)).as_json()


def _text_file(path: str) -> dict[str, Any]:
    try:
        data = read_bytes(path, limit_bytes=1 << 20)
    except OSError as error:
        return {"path": path, **missing_from_oserror(error, path).as_json()}
    return {"path": path, "sha256": sha256_hex(data), "text": data.decode("utf-8", "backslashreplace")}


def _events(directory: str, count: int) -> dict[str, Any]:
    try:
        contents = read_journal(directory)
    except OSError as error:
        return {"events": missing_from_oserror(error, directory, absent=Reason.NO_DATA).as_json(), "damaged": []}
    latest = contents.entries[-count:] if count else ()
    return {"events": [entry.record for entry in latest], "damaged": list(contents.damaged)}


COLLECTORS: Mapping[str, Collector] = {
    "answers": Collector(answers, {"window_s": int}),
    "cpu_limits": Collector(cpu_limits, {"window_s": int}),
    "fastoom": Collector(_fastoom, {"events": int}),
    "gpu_trace": Collector(_gpu_trace, {"pid": str, "within_s": int, "moment": str}),
    "gpus": Collector(_gpus, {}),
    "hotspot": Collector(_hotspot, {"moment": str, "window_s": int}),
    "hotspot_at": Collector(
        _hotspot_at, {"moment": str, "around": str, "window_s": int, "container": str, "process": str}
    ),
    "io": Collector(io, {"window_s": int}),
    "panorama": Collector(
        _panorama,
        {
            "scope": str,
            "files": int,
            "processes": int,
            "growth_s": int,
            "heaps": int,
            "pid": str,
            "consent": bool,
            "trace_s": int,
            "history": bool,
        },
    ),
    "switches": Collector(switches, {"trap": str, "pid": str}),
    "timeline": Collector(_timeline, {"events": int}),
}
