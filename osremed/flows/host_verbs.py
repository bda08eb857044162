"""Verbs of the host plane, asked of another host: its own collector runs there, what it says is shown here."""

from __future__ import annotations

import os
from typing import Any

from osremed.core.action import Call, Outcome, Status
from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode, NotFound, Unavailable
from osremed.executor.runner import AnsibleExecutor
from osremed.flows.settings import ControlPaths
from osremed.panorama.ask import check, longest_s
from osremed.panorama.page import page
from osremed.panorama.read_back import panorama_of
from osremed.panorama.render import render
from osremed.panorama.verbs import ask_of

_GRACE_S = 30.0  #: to reach the host and start there
_MOST_BYTES = 32 << 20


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
    limit_s = longest_s(ask)
    arguments = {"collectors": {"panorama": wanted}, "timeout_s": limit_s, "max_bytes": _MOST_BYTES}
    executor = AnsibleExecutor(inventory, collections, ControlPaths(os.path.abspath(state)).work)
    try:
        if host not in executor.hosts:
            raise NotFound(f"host {host!r} is not in the inventory", where=inventory)
        outcome = executor.run(Call("osremed.host.evidence", arguments, host, limit_s + _GRACE_S))
    finally:
        executor.close()
    document = _document(outcome, host)
    try:
        found = panorama_of(document)
    except BadInput as error:
        hint = (
            "osremed there and here are of different versions; the document is in -o json of: osremed collect panorama"
        )
        raise Unavailable(error.what, where=host, hint=hint) from error
    code = ExitCode.UNAVAILABLE if "missing" in document["balance"] else ExitCode.OK
    shown = {**document, "host": host}
    return Answer(shown, f"{host}: {render(found)}", code, html=lambda: page(shown))


def _whole(seconds: float) -> int:
    """What the collector takes. BadInput for parts of a second: nothing is rounded behind somebody's back."""
    if seconds != int(seconds):
        raise BadInput(f"{seconds:g} s cannot be asked of another host", hint="give whole seconds")
    return int(seconds)


def _document(outcome: Outcome, host: str) -> Any:
    """What the collector gave. Unavailable with the reason when it gave nothing."""
    if outcome.status is not Status.OK:
        raise Unavailable(f"no report: {outcome.status.value}: {outcome.detail}", where=host, hint=_hint(outcome))
    if "panorama" not in outcome.result["items"]:
        gap = outcome.result["gaps"]["panorama"]
        raise Unavailable(f"no report: {gap['missing']}: {gap['source']} ({gap['detail']})", where=host)
    return outcome.result["items"]["panorama"]


def _hint(outcome: Outcome) -> str:
    if outcome.status is Status.UNREACHABLE:
        return "ansible -m ansible.builtin.ping says why"
    return "the collection osremed.host must be installed where --collections says, and osremed on the host"
