"""Verbs of the host plane, asked of another host: its own collector runs there, what it says is shown here."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from osremed.core.action import Call, Outcome, Status
from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode, NotFound, Unavailable
from osremed.core.shown import printable
from osremed.core.units import parse_duration_s
from osremed.executor.runner import AnsibleExecutor
from osremed.flows.settings import ControlPaths
from osremed.hotspot.moments import parse_moment
from osremed.panorama.ask import check, longest_s
from osremed.panorama.page import page
from osremed.panorama.read_back import panorama_of
from osremed.panorama.render import render
from osremed.panorama.verbs import ask_of
from osremed.timeline.render import gpus_text

_GRACE_S = 30.0  #: to reach the host and start there
_LOOK_S = 60.0  #: for a look that is one question
_MOST_BYTES = 32 << 20
_OTHER = "osremed there and here are of different versions; the document is in -o json of: osremed collect"


def panorama(*, host: str, inventory: str, collections: str, state: str, **asked: Any) -> Answer:
    """`osremed panorama` of `host`, by its evidence collector: the same document, text and page.

    BadInput for arguments out of range, before the host is asked; NotFound for a host that is not in the inventory;
    Unavailable when it gave no report."""
    ask = ask_of(**asked)
    check(ask)
    wanted = {
        "scope": ask.cgroup or "node", "files": ask.files, "processes": ask.processes, "growth_s": _whole(ask.growth_s),
        "heaps": ask.heaps, "pid": str(ask.pid or ""), "consent": ask.consent, "history": True,
        **({} if ask.trace_s is None else {"trace_s": _whole(ask.trace_s)}),
    }  # fmt: skip
    document = _asked(host, (inventory, collections, state), "panorama", wanted, longest_s(ask))
    try:
        found = panorama_of(document)
    except BadInput as error:
        raise Unavailable(error.what, where=host, hint=f"{_OTHER} panorama") from error
    code = ExitCode.UNAVAILABLE if "missing" in document["balance"] else ExitCode.OK
    shown = {**document, "host": host}
    return Answer(shown, f"{host}: {render(found)}", code, html=lambda: page(shown))


def hotspot_at(
    *,
    host: str,
    inventory: str,
    collections: str,
    state: str,
    moment: str = "",
    around: str | None = None,
    window: str = "2s",
    container: str | None = None,
    process: str | None = None,
    html: str | None = None,
) -> Answer:
    """`osremed hotspot at` of `host`: its document and what it says of it. A time of day is one of that host's clock.

    BadInput, NotFound and Unavailable as for `panorama`; the last also when nothing is recorded there."""
    if html:
        raise BadInput("a flame graph is made on its own host", where="--html", hint="leave --html out, or --host")
    if bool(moment) == bool(around):
        raise BadInput("give a moment or --around an event", hint="osremed hotspot at last --host web-1")
    if moment and moment.strip() != "last":
        parse_moment(moment, time.time_ns())
    wanted = {
        "moment": moment,
        "around": around or "",
        "window_s": _whole(parse_duration_s(window)),
        "container": container or "",
        "process": process or "",
    }
    document = _asked(host, (inventory, collections, state), "hotspot_at", wanted, _LOOK_S)
    text = document.pop("text", None)
    if not isinstance(text, str) or not isinstance(document.get("samples"), int):
        raise Unavailable("what it gave is not a window", where=host, hint=f"{_OTHER} hotspot_at")
    code = ExitCode.OK if document["samples"] else ExitCode.NOT_FOUND
    return Answer({**document, "host": host}, f"{host}: {_safe(text)}", code)


def gpus(*, host: str, inventory: str, collections: str, state: str) -> Answer:
    """`osremed timeline gpus` of `host`: the same document and text."""
    document = _asked(host, (inventory, collections, state), "gpus", {}, _LOOK_S)
    try:
        text = _safe(gpus_text(document))
        whole = "gpus" in document["inventory"] and not document["unreadable"] and not document["hung"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable(f"what it gave is not of GPUs: {error!r}", where=host, hint=f"{_OTHER} gpus") from error
    return Answer({**document, "host": host}, f"{host}: {text}", ExitCode.OK if whole else ExitCode.UNAVAILABLE)


def _safe(text: str) -> str:
    """What another host wrote, its lines kept and nothing else that acts on a terminal."""
    return "\n".join(map(printable, text.split("\n")))


def _whole(seconds: float) -> int:
    """What the collector takes. BadInput for parts of a second: nothing is rounded behind somebody's back."""
    if seconds != int(seconds):
        raise BadInput(f"{seconds:g} s cannot be asked of another host", hint="give whole seconds")
    return int(seconds)


def _asked(
    host: str, places: tuple[str, str, str], collector: str, wanted: Mapping[str, Any], limit_s: float
) -> dict[str, Any]:
    """The document of the host's collector; `places` are inventory, collections and state. NotFound for a host that is
    not in the inventory; Unavailable with the reason when it gave none."""
    inventory, collections, state = places
    arguments = {"collectors": {collector: wanted}, "timeout_s": limit_s, "max_bytes": _MOST_BYTES}
    executor = AnsibleExecutor(inventory, collections, ControlPaths(os.path.abspath(state)).work)
    try:
        if host not in executor.hosts:
            raise NotFound(f"host {host!r} is not in the inventory", where=inventory)
        outcome = executor.run(Call("osremed.host.evidence", arguments, host, limit_s + _GRACE_S))
    finally:
        executor.close()
    return _document(outcome, host, collector)


def _document(outcome: Outcome, host: str, collector: str) -> dict[str, Any]:
    """What the collector gave. Unavailable with the reason when it gave nothing."""
    if outcome.status is not Status.OK:
        raise Unavailable(f"no report: {outcome.status.value}: {outcome.detail}", where=host, hint=_hint(outcome))
    if collector not in outcome.result["items"]:
        gap = outcome.result["gaps"][collector]
        raise Unavailable(f"no report: {gap['missing']}: {gap['source']} ({gap['detail']})", where=host)
    document = outcome.result["items"][collector]
    if not isinstance(document, dict):
        raise Unavailable("what it gave is no document", where=host, hint=f"{_OTHER} {collector}")
    return document


def _hint(outcome: Outcome) -> str:
    if outcome.status is Status.UNREACHABLE:
        return "ansible -m ansible.builtin.ping says why"
    return "the collection osremed.host must be installed where --collections says, and osremed on the host"
