"""Text -> checked runbook. Every error has its file, line, column and a hint; nothing starts from a faulty runbook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.probe import parse_tolerance
from osremed.runbook.actions import COLLECTORS, MANUAL, NOTHING, PROBES, STEPS
from osremed.runbook.document import AfterSuccess, Approval, Diagnosis, Remedy, Runbook, Verification, Watch
from osremed.runbook.expressions import ExpressionFailed, Risk, check_condition, check_template, condition_holds
from osremed.runbook.faults import Fault
from osremed.runbook.modes import answer_s
from osremed.runbook.sane import argument_faults, guard_faults, manual_time_faults, timeout_faults
from osremed.runbook.shape import choices, shaped, unknown
from osremed.runbook.text import Text, read_text
from osremed.runbook.triggers import Trigger

#: A condition by which a person says that nobody is to be asked.
_NOBODY = "false"
EVENT_NAMES = frozenset({"event", "host"})
#: A run needs this much beyond the longest verification before the host may take a change back (Ansible's start, 2-3 s
#: a call on two cores, and the confirmation itself).
CONFIRM_MARGIN_S = 30.0


def _where(text: Text, *path: str | int) -> str:
    return text.where(tuple(path))


def _lint_collect(book: Runbook, text: Text) -> Iterator[BadInput]:
    seen: set[str] = set()
    for index, entry in enumerate(book.collect):
        if len(entry) != 1:
            yield Fault(
                "bad-value",
                "one collector an item",
                where=_where(text, "collect", index),
                hint="- panorama: {files: 30}",
            )
        for name, arguments in entry.items():
            where = _where(text, "collect", index, name)
            if name not in COLLECTORS:
                place = text.where(("collect", index, name), key=True)
                yield unknown("collector", name, COLLECTORS, place)
            elif name in seen:
                yield Fault(
                    "collector-twice", f"collector {name!r} is named twice", where=where, hint="merge the arguments"
                )
            else:
                yield from _unknown_arguments(name, arguments, COLLECTORS[name], where)
            seen.add(name)
            yield from _templates(arguments, EVENT_NAMES, where)


def _unknown_arguments(name: str, given: Iterable[str], known: Iterable[str], where: str) -> Iterator[BadInput]:
    for argument in given:
        if argument not in known:
            what = f"{name} has no argument {argument!r}"
            yield Fault("unknown-argument", what, where=where, hint=choices(argument, known))


def _templates(value: Any, allowed: Iterable[str], where: str) -> Iterator[BadInput]:
    try:
        check_template(value, allowed=allowed, where=where)
    except BadInput as error:
        yield Fault("bad-template", error.what, where=error.where, hint=error.hint)


def condition_faults(expression: str | None, allowed: Iterable[str], where: str) -> Iterator[BadInput]:
    """What keeps a condition from being one that uses only `allowed` names."""
    if expression is None:
        return
    try:
        check_condition(expression, allowed=allowed, where=where)
    except BadInput as error:
        yield Fault("bad-condition", error.what, where=error.where, hint=error.hint)


def _lint_diagnosis(index: int, item: Diagnosis, names: frozenset[str], text: Text) -> Iterator[BadInput]:
    yield from condition_faults(item.when, names, _where(text, "diagnose", index, "when"))
    for key in ("summary", "expected_gain"):
        yield from _templates(getattr(item, key), names, _where(text, "diagnose", index, key))


def _lint_remedy(index: int, item: Remedy, names: frozenset[str], book: Runbook, text: Text) -> Iterator[BadInput]:
    where = _where(text, "remediate", index, "action")
    action = STEPS.get(item.action)
    if action is None:
        yield unknown("action", item.action, STEPS, where)
        return
    if item.action == MANUAL:
        yield from _lint_person("remediate", index, item, text)
        yield from _lint_take_back(index, item, book, text)
    yield from _unknown_arguments(
        item.action, item.arguments, action.arguments, _where(text, "remediate", index, "with")
    )
    yield from argument_faults(item.action, item.arguments, text, "remediate", index)
    yield from _templates(item.arguments, names, _where(text, "remediate", index, "with"))
    yield from timeout_faults(item, text, index)
    yield from condition_faults(item.when, names | {"finding"}, _where(text, "remediate", index, "when"))
    if item.approval:
        allowed = names | {"finding", "risk"}
        yield from condition_faults(
            item.approval.required, allowed, _where(text, "remediate", index, "approval", "required")
        )
    if item.approval and item.approval.timeout >= book.guards.max_event_age:
        place = _where(text, "remediate", index, "approval", "timeout")
        hint = "a guard refuses events older than max_event_age: shorten the timeout or raise that"
        yield Fault("late-approval", "a late approval would come too late to act", where=place, hint=hint)
    yield from _lint_risk("remediate", index, item.action, item.approval, text)
    if action.reversible and action.recorded and item.confirm_within is None:
        hint = "add for example `confirm_within: 5m`: the host then takes the change back if the controller is lost"
        yield Fault(
            "no-deadline", f"{item.action} changes the host and has no `confirm_within`", where=where, hint=hint
        )
    if action.reversible and item.irreversible is not None:
        place = _where(text, "remediate", index, "irreversible")
        yield Fault("not-irreversible", f"{item.action} can be undone", where=place, hint="leave `irreversible` out")
    if not action.reversible and item.irreversible is None and item.action != MANUAL:
        hint = "add `irreversible: why` and a guard of its own"
        yield Fault(
            "silent-irreversible", f"{item.action} cannot be undone and does not say so", where=where, hint=hint
        )
    if item.contains is not None:
        yield from _lint_containment(index, item, book, text)
    if not (action.reversible and action.recorded) and item.confirm_within is not None:
        place = _where(text, "remediate", index, "confirm_within")
        what = f"the host cannot take {item.action} back by itself: `confirm_within` would promise it"
        yield Fault("false-deadline", what, where=place, hint="leave `confirm_within` out")
    longest = sum(check.within for check in book.verify) + sum(item.within for item in book.watch) + CONFIRM_MARGIN_S
    longest += 0.0 if book.escalate else _of_people_s(book.remediate[index + 1 :])
    if item.confirm_within is not None and item.confirm_within < longest:
        place = _where(text, "remediate", index, "confirm_within")
        hint = f"at least {longest:g}s: what people may take, `within` of verify and watch, and {CONFIRM_MARGIN_S:g}s"
        yield Fault(
            "early-deadline", "the host would take the change back before it is verified", where=place, hint=hint
        )


def _lint_containment(index: int, item: Remedy, book: Runbook, text: Text) -> Iterator[BadInput]:
    action, place = STEPS[item.action], _where(text, "remediate", index, "contains")
    if not action.reversible or action.recorded:
        why = "cannot be taken back anyhow" if not action.reversible else "is taken back by the host at its deadline"
        yield Fault("no-containment", f"{item.action} {why}", where=place, hint="leave `contains` out")
    if book.escalate is not None or index + 1 == len(book.remediate):
        why = "with `escalate` it is taken back before the next" if book.escalate is not None else "no step follows it"
        yield Fault("no-containment", f"{item.action} contains nothing: {why}", where=place, hint="leave it out")


def _is_let_through(approval: Approval | None) -> bool:
    """Nobody is asked about an action of high risk, and nobody has written that nobody is."""
    if approval is None:
        return True
    try:
        return approval.required != _NOBODY and not condition_holds(approval.required, {"risk": Risk("high")})
    except ExpressionFailed:  # it depends on the event or the evidence
        return False


def _lint_risk(key: str, index: int, name: str, approval: Approval | None, text: Text) -> Iterator[BadInput]:
    if STEPS[name].risk == "high" and _is_let_through(approval):
        of = "`approval`" if key == "remediate" else "`approval` of the remedy it follows"
        hint = f"{of} with `required: risk >= 'medium'`; where nobody is to be asked, `required: \"{_NOBODY}\"`"
        what = f"{name} is of high risk and no approval is asked for"
        yield Fault("unapproved-risk", what, where=_where(text, key, index, "action"), hint=hint)


def _of_people_s(remedies: Iterable[Remedy]) -> float:
    """How long people may take for their steps, together."""
    return sum(item.timeout for item in remedies if item.action == MANUAL)


def _asked_s(book: Runbook) -> float:
    """How long the answer that the run waits for may take."""
    asking = (item for item in book.remediate if item.approval or (book.mode == "suggest" and item.action != MANUAL))
    return max((answer_s(item, book) for item in asking), default=0.0)


def _lint_person(key: str, index: int, item: Remedy | AfterSuccess, text: Text) -> Iterator[BadInput]:
    where = _where(text, key, index, "action")
    for name in ("instruction", "take_back"):
        told = item.arguments.get(name, "" if name == "instruction" else NOTHING)
        if not isinstance(told, str) or not told.strip():
            hint = f"write {name}: and a sentence, a template may be in it"
            yield Fault("person-step", f"a person is not told the {name}", where=where, hint=hint)
    if "timeout" not in item.model_fields_set:
        hint = "add for example `timeout: 30m`: nobody's answer in time is a no"
        yield Fault("person-step", "a person is waited for without a `timeout`", where=where, hint=hint)


def _lint_take_back(index: int, item: Remedy, book: Runbook, text: Text) -> Iterator[BadInput]:
    where = _where(text, "remediate", index, "action")
    if ("take_back" in item.arguments) == (item.irreversible is not None):
        hint = f"`take_back` says what a person does then ({NOTHING}: it changes nothing), or `irreversible: why`"
        yield Fault("person-step", "if it does not help a person's step needs one way back", where=where, hint=hint)
    asked_s = _asked_s(book)
    asked_s += _of_people_s(book.remediate[: index + 1])
    follows = not book.escalate and index + 1 < len(book.remediate)
    if follows and asked_s >= book.guards.max_event_age:
        what = "when a person takes all the time they have, the next step comes too late to act"
        hint = f"max_event_age above {asked_s:g}s, or a shorter timeout"
        yield Fault("person-step", what, where=_where(text, "remediate", index, "timeout"), hint=hint)


def _lint_after(index: int, item: AfterSuccess, names: frozenset[str], book: Runbook, text: Text) -> Iterator[BadInput]:
    where = _where(text, "after_success", index, "action")
    known = {remedy.id: remedy for remedy in book.remediate if remedy.id}
    if item.if_changed not in known:
        place = _where(text, "after_success", index, "if_changed")
        yield unknown("step", item.if_changed, known, place)
    action = STEPS.get(item.action)
    if action is None:
        yield unknown("action", item.action, STEPS, where)
        return
    if item.action == MANUAL:
        yield from _lint_person("after_success", index, item, text)
    if not action.settles:
        hint = "a controller that was killed tries the step again: name one that says what is to be"
        yield Fault("repeats", f"{item.action} does something each time", where=where, hint=hint)
    if item.if_changed in known:
        yield from _lint_risk("after_success", index, item.action, known[item.if_changed].approval, text)
    yield from argument_faults(item.action, item.arguments, text, "after_success", index)
    place = _where(text, "after_success", index, "with")
    yield from _unknown_arguments(item.action, item.arguments, action.arguments, place)
    yield from _templates(item.arguments, names, place)


def _lint_ids(book: Runbook, text: Text) -> Iterator[BadInput]:
    seen: set[str] = set()
    for index, remedy in enumerate(book.remediate):
        if remedy.id in seen:
            place = _where(text, "remediate", index, "id")
            yield Fault("step-twice", f"two steps have the id {remedy.id!r}", where=place, hint="an id names one step")
        seen |= {remedy.id} if remedy.id else set()


def _lint_probe(
    key: str, index: int, item: Verification | Watch, names: frozenset[str], text: Text
) -> Iterator[BadInput]:
    if item.probe not in PROBES:
        yield unknown("probe", item.probe, PROBES, _where(text, key, index, "probe"))
        return
    where = _where(text, key, index, "with")
    yield from _unknown_arguments(item.probe, item.arguments, PROBES[item.probe], where)
    yield from _templates(item.arguments, names, where)


def _lint_watch(index: int, item: Watch, names: frozenset[str], text: Text) -> Iterator[BadInput]:
    yield from _lint_probe("watch", index, item, names, text)
    if item.hold > item.within:
        where = _where(text, "watch", index, "for")
        what = f"`for` ({item.hold:g} s) is longer than `within` ({item.within:g} s)"
        yield Fault("bad-expectation", what, where=where, hint="raise `within`")


def _lint_verification(index: int, item: Verification, names: frozenset[str], text: Text) -> Iterator[BadInput]:
    yield from _lint_probe("verify", index, item, names, text)
    yield from condition_faults(item.when, names, _where(text, "verify", index, "when"))
    try:
        parse_tolerance(item.expect, within_s=item.within, hold_s=item.hold)
    except BadInput as error:
        yield Fault("bad-expectation", error.what, where=_where(text, "verify", index, "expect"), hint=error.hint)


def _lint_trigger(index: int, trigger: Trigger, text: Text) -> Iterator[BadInput]:
    for key in ("where", "clear"):
        yield from condition_faults(getattr(trigger, key), {"event"}, _where(text, "on", index, key))
    for key, clauses in (("any", trigger.any), ("all", trigger.all), ("not", trigger.none)):
        for number, clause in enumerate(clauses or ()):
            yield from condition_faults(clause.where, {"event"}, _where(text, "on", index, key, number, "where"))


def _lint_document(book: Runbook, text: Text) -> Iterator[BadInput]:
    for index, trigger in enumerate(book.on):
        yield from _lint_trigger(index, trigger, text)
    yield from _lint_collect(book, text)
    names = EVENT_NAMES | {name for entry in book.collect for name in entry}
    found = {item.finding for item in book.diagnose}
    for index, diagnosis in enumerate(book.diagnose):
        yield from _lint_diagnosis(index, diagnosis, names, text)
    if book.remediate and not book.verify:
        hint = "add `verify`: a change that is not proven is not kept"
        yield Fault("no-verify", "remediate without verify", where=_where(text, "remediate"), hint=hint)
    for index, remedy in enumerate(book.remediate):
        yield from _lint_remedy(index, remedy, names, book, text)
        yield from unknown_findings(remedy.when, found, _where(text, "remediate", index, "when"))
    yield from guard_faults(book, text)
    yield from manual_time_faults(book, text)
    yield from _lint_ids(book, text)
    for index, follows in enumerate(book.after_success):
        yield from _lint_after(index, follows, names, book, text)
    for index, check in enumerate(book.verify):
        yield from _lint_verification(index, check, names, text)
    for index, watched in enumerate(book.watch):
        yield from _lint_watch(index, watched, names, text)
    if book.escalate is not None:
        yield from _lint_escalation(book, text)


def _lint_escalation(book: Runbook, text: Text) -> Iterator[BadInput]:
    """Each remedy but the last can be taken back, and the last one is still fresh enough to be let in."""
    if not book.remediate:
        hint = "leave `escalate` out: the run ends with its findings"
        yield Fault("dead-end", "`escalate` without remedies", where=_where(text, "escalate"), hint=hint)
    for index, item in enumerate(book.remediate[:-1]):
        action = STEPS.get(item.action)
        left = item.arguments.get("take_back") != NOTHING
        if action is not None and not action.reversible and left:
            place = _where(text, "remediate", index, "action")
            what = f"after {item.action}, which cannot be undone, no other remedy is tried"
            yield Fault("dead-end", what, where=place, hint="with `escalate` only the last may be irreversible")
    asked_s = _asked_s(book)
    proof_s = sum(check.within for check in book.verify) + sum(item.within for item in book.watch)
    last_s = asked_s + proof_s * (len(book.remediate) - 1)
    last_s += _of_people_s(book.remediate[:-1])
    if last_s >= book.guards.max_event_age:
        hint = f"max_event_age above {last_s:g}s: the approval, `within` of verify and watch before each next remedy"
        yield Fault("dead-end", "the last remedy would come too late to act", where=_where(text, "escalate"), hint=hint)


def unknown_findings(condition: str, known: Iterable[str], where: str) -> Iterator[BadInput]:
    """The findings that a condition asks for and nobody makes."""
    for name in re.findall(r"finding\(\s*['\"]([^'\"]*)['\"]\s*\)", condition):
        if name not in known:
            yield Fault(
                "unknown-finding", f"no diagnosis makes the finding {name!r}", where=where, hint=choices(name, known)
            )


def lint_text(text: Text) -> tuple[Runbook | None, tuple[BadInput, ...]]:
    """(runbook, no errors) or (None, every error found, in the order of the file)."""
    if not isinstance(text.data, dict):
        return None, (
            Fault(
                "bad-value", "a runbook is a mapping", where=text.where(()), hint="begin with apiVersion: osremed/v1"
            ),
        )
    book, faults = shaped(Runbook, text)
    if book is None:
        return None, faults
    errors = tuple(_lint_document(book, text))
    return (None, errors) if errors else (book, ())


def load_runbook(path: str) -> Runbook:
    """The checked runbook of a file without parts, as a run keeps it. BadInput holding the first error; `lint_text`
    gives them all."""
    book, errors = lint_text(read_text(path))
    if book is None:
        raise errors[0]
    return book
