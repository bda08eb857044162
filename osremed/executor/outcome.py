"""What ansible-runner saw -> Outcome. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from osremed.core.action import Outcome, Status
from osremed.core.record import record

#: Keys of a task result that Ansible adds for itself.
_INTERNAL = frozenset({"invocation", "diff", "deprecations", "exception", "failed", "timedout"})
_RESULTS = frozenset({"runner_on_ok", "runner_on_failed", "runner_on_unreachable", "runner_on_skipped"})


@record
class Seen:
    """`events`: (name, result) of each task event of the host, in order. `ended`: runner's last word.
    `text`: the end of what ansible-playbook printed."""

    events: tuple[tuple[str, Mapping[str, Any]], ...]
    ended: str
    exit_code: int
    text: str


def outcome_of(seen: Seen, started_ns: int, ended_ns: int) -> Outcome:
    """A result of the module counts whatever happened after it; without one, what is known is only how far it came."""
    for name, result in reversed(seen.events):
        if name in _RESULTS:
            return _from_result(name, result, started_ns, ended_ns)
    status, detail = _without_result(seen)
    return Outcome(status, detail=detail, started_ns=started_ns, ended_ns=ended_ns)


def with_ending(outcome: Outcome, ending: Outcome) -> Outcome:
    """`outcome` of a call that was ended here, with what became of its processes on the host."""
    if ending.status is Status.OK:
        told = f"{str(ending.result.get('stdout', '')).strip()} of its processes were ended on the host"
    else:
        told = f"what it left running on the host could not be ended: {ending.detail}"
    return replace(outcome, detail=f"{outcome.detail}; {told}", ended_ns=ending.ended_ns)


def _from_result(name: str, result: Mapping[str, Any], started_ns: int, ended_ns: int) -> Outcome:
    status, detail = Status.OK, ""
    if not result:
        status, detail = Status.CANCELLED, "the module's result was too large and is lost: what it did is not known"
    elif name == "runner_on_unreachable":
        status, detail = Status.UNREACHABLE, _message(result)
    elif name == "runner_on_skipped":
        status, detail = Status.REFUSED, f"nothing was run: {_message(result)}"
    elif name == "runner_on_failed":
        status, detail = (Status.TIMED_OUT if "timedout" in result else Status.FAILED), _message(result)
    return Outcome(
        status,
        changed=bool(result.get("changed", False)),
        result={key: value for key, value in result.items() if not _is_internal(key)},
        diff=render_diff(result.get("diff")),
        detail=detail,
        started_ns=started_ns,
        ended_ns=ended_ns,
    )


def _is_internal(key: str) -> bool:
    return key in _INTERNAL or key.startswith("_ansible_")


def _without_result(seen: Seen) -> tuple[Status, str]:
    if seen.ended == "timeout":
        return Status.TIMED_OUT, "ended at the time limit of the call, before the module gave a result"
    if seen.ended == "canceled":
        return Status.CANCELLED, "ended on request, before the module gave a result"
    if any(name == "runner_on_start" for name, _ in seen.events):
        return Status.CANCELLED, f"ansible-playbook ended (exit code {seen.exit_code}) before the module's result"
    return Status.REFUSED, seen.text or f"ansible-playbook ended (exit code {seen.exit_code}) before the task began"


def _message(result: Mapping[str, Any]) -> str:
    """The module's message, or what a crashed module left behind."""
    for key in ("msg", "skipped_reason", "module_stderr", "exception"):
        text = str(result.get(key) or "").strip()
        if text:
            return text
    return "no message"


def render_diff(diff: Any) -> str:
    """Unified text of a module's diff: one document or a list of them, before and after or already prepared."""
    documents = diff if isinstance(diff, Sequence) and not isinstance(diff, str) else [diff]
    return "".join(_render_one(document) for document in documents if isinstance(document, Mapping))


def _render_one(document: Mapping[str, Any]) -> str:
    text = str(document.get("prepared", ""))
    before, after = document.get("before", ""), document.get("after", "")
    if before == after:
        return text
    lines = difflib.unified_diff(
        _lines(before),
        _lines(after),
        fromfile=str(document.get("before_header", "before")),
        tofile=str(document.get("after_header", "after")),
    )
    return text + "".join(lines)


def _lines(value: Any) -> list[str]:
    """Lines that all end in a newline; the last one says so when the text does not."""
    lines = str(value).splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n\\ No newline at end of file\n"
    return lines
