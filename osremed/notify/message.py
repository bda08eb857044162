"""What is told: a run that came to rest in a state, or an intervention of FastOOM. Pure.

Names, command lines and reasons come from hosts and from people. They are shown as they are and mean nothing: no
markup, no mention, no link, no header, whatever carries them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import Any

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput
from osremed.core.event import Event
from osremed.core.reading import Missing
from osremed.core.record import field, record
from osremed.core.shown import printable
from osremed.core.units import format_bytes
from osremed.report.facts import killed
from osremed.runbook.approvals import SHOWN_CHARS
from osremed.runbook.model import Run, RunState

_LINE_CHARS = 300
_ROWS, _DIGEST_ROWS = 8, 20
_SEVERITIES = ("info", "warning", "critical")
#: Tags, mentions, links and emphasis of chats. Look-alikes and a gap say the same to a reader and nothing to any chat.
_HARMLESS = (
    ("<", "\u2039"),
    (">", "\u203a"),
    ("@", "\uff20"),
    ("](", "] ("),
    ("://", ":\u2044\u2044"),
    ("`", "'"),
    ("*", "\u2217"),
)


class Kind(str, Enum):
    RUN = "run"
    INTERVENTION = "intervention"
    TEST = "test"
    DIGEST = "digest"


@record
class Message:
    """`id` is the same for the same fact: who is told twice drops the second. `lines` and `title` are harmless.
    `ends` is the state that this one ends, "" if the run had come to none before."""

    id: str
    kind: Kind
    time_ns: int
    host: str
    severity: str  #: info, warning or critical
    title: str
    lines: tuple[str, ...]
    state: str = ""
    runbook: str = ""
    run_id: str = ""
    ends: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    spans: list[dict[str, Any]] = field(default_factory=list)  #: of an ended run, for a target of traces alone


#: State -> (severity, how the title says it).
_SAID = {
    RunState.AWAITING_APPROVAL: ("warning", "waits for approval"),
    RunState.AWAITING_PERSON: ("warning", "waits for a person to do a step"),
    RunState.SUCCEEDED: ("info", "helped and was kept"),
    RunState.REFUSED: ("info", "was refused"),
    RunState.UNDONE: ("warning", "did not help and was taken back"),
    RunState.UNDO_INCOMPLETE: ("critical", "could not be taken back completely: a person is needed"),
}
STATES = tuple(_SAID)


def harmless(text: object) -> str:
    """One line of foreign text that no chat, mail or terminal takes for more."""
    line = printable(str(text))
    for mark, instead in _HARMLESS:
        line = line.replace(mark, instead)
    return line if len(line) <= _LINE_CHARS else f"{line[: _LINE_CHARS - 1]}…"


def told_of(run: Run) -> str:
    """Names what is told of the run as it is: its state, and of a person's steps which one."""
    return f"{run.state.value}-{run.asked.number}" if run.asked else run.state.value


def of_run(run: Run, ends: str = "") -> Message:
    """The run's message. `ends`: the state it was in when something was last told of it."""
    severity, said = _SAID[run.state]
    if run.undoes and run.state is RunState.SUCCEEDED:
        said = f"took run {run.undoes} back"
    if run.left_to_people:
        severity, said = "warning", "helped and was kept; something is left to do by hand"
    lines = [f"reason: {run.reason}"] if run.reason else []
    lines += [f"finding: {each.name}: {each.summary}" for each in run.findings[:_ROWS]]
    lines += [f"step: {each.action} ({each.risk} risk)" for each in (run.plan.steps[:_ROWS] if run.plan else ())]
    lines += [f"undo: {each.action}: {each.result} {each.detail}" for each in run.undo[:_ROWS]]
    if run.state is RunState.AWAITING_APPROVAL and run.plan:
        lines.append(f"approve or deny: osremed runs approve {run.run_id} --plan {run.plan.digest[:SHOWN_CHARS]}")
    if run.asked:
        lines.append(f"done, or not: osremed runs tick {run.run_id} {run.asked.number}, or refuse")
    facts = {"reason": run.reason, "event_id": run.event.id, "event": run.event.name}
    return Message(
        id=f"run-{run.run_id}-{told_of(run)}",
        kind=Kind.RUN,
        time_ns=run.updated_ns,
        host=run.host,
        severity=severity,
        title=harmless(f"{run.runbook} on {run.host} {said}"),
        lines=tuple(harmless(each) for each in lines),
        state=run.state.value,
        runbook=run.runbook,
        run_id=run.run_id,
        ends=ends,
        facts=facts,
    )


def of_intervention(event: Event) -> Message | None:
    """None for an event that tells of nobody who was ended."""
    rows = killed(event)
    if event.name != "memory.near_oom" or isinstance(rows, Missing) or not rows:
        return None
    names = ", ".join(str(each.name) for each in rows[:_ROWS])
    lines = []
    for each in rows[:_ROWS]:
        held = "unknown" if isinstance(each.heap_bytes, Missing) else format_bytes(each.heap_bytes)
        lines.append(f"ended pid {each.pid} {each.name}, which held {held}: {each.why}")
    if len(rows) > _ROWS:
        lines.append(f"and {len(rows) - _ROWS} more")
    return Message(
        id=f"event-{event.id}",
        kind=Kind.INTERVENTION,
        time_ns=event.time_ns,
        host=event.host,
        severity="warning",
        title=harmless(f"FastOOM ended {names} on {event.host}"),
        lines=tuple(harmless(each) for each in lines),
        facts={"event_id": event.id, "ended": len(rows)},
    )


def digest_of(messages: Sequence[Message]) -> Message:
    """One message instead of many, as bad as the worst of them. The same ones give the same id."""
    worst = max(messages, key=lambda each: _SEVERITIES.index(each.severity))
    counts = Counter(each.state.replace("_", " ").lower() or each.kind.value for each in messages)
    said = ", ".join(f"{count} {what}" for what, count in counts.most_common(_ROWS))
    first = sorted(messages, key=lambda each: -_SEVERITIES.index(each.severity))[:_DIGEST_ROWS]
    lines = [each.title for each in first]
    if len(messages) > len(first):
        lines.append(f"and {len(messages) - len(first)} more: osremed runs list, osremed events")
    return Message(
        id=f"digest-{sha256_hex('|'.join(each.id for each in messages).encode())[:32]}",
        kind=Kind.DIGEST,
        time_ns=max(each.time_ns for each in messages),
        host="",
        severity=worst.severity,
        title=f"{len(messages)} messages of osremed: {said}",
        lines=tuple(lines),
    )


def as_json(message: Message) -> dict[str, Any]:
    names = [name for name in Message.__dataclass_fields__ if name not in ("kind", "lines")]
    return {
        "kind": message.kind.value,
        "lines": list(message.lines),
        **{each: getattr(message, each) for each in names},
    }


def from_json(document: dict[str, Any]) -> Message:
    """BadInput for what is not a message."""
    try:
        return Message(**{**document, "kind": Kind(document["kind"]), "lines": tuple(document["lines"])})
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"not a message: {error}") from error
