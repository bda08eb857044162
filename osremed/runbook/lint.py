"""Text -> checked runbook. Every error has its file, line, column and a hint; nothing starts from a faulty runbook."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from osremed.core.errors import BadInput
from osremed.core.probe import parse_tolerance
from osremed.runbook.actions import COLLECTORS, MANUAL, NOTHING, PROBES, STEPS
from osremed.runbook.document import AfterSuccess, Approval, Diagnosis, Remedy, Runbook, Verification, Watch
from osremed.runbook.expressions import ExpressionFailed, Risk, check_condition, check_template, condition_holds
from osremed.runbook.faults import Fault, Fix, respelled, spelled_unit
from osremed.runbook.text import Path, Text, read_text
from osremed.runbook.triggers import Trigger

#: A condition by which a person says that nobody is to be asked.
_NOBODY = "false"
_EVENT_NAMES = frozenset({"event", "host"})
#: A run needs this much beyond the longest verification before the host may take a change back (Ansible's start, 2-3 s
#: a call on two cores, and the confirmation itself).
CONFIRM_MARGIN_S = 30.0


def _choices(word: object, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(str(word), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def _unknown(kind: str, name: str, known: Iterable[str], where: str) -> Fault:
    what, hint = f"unknown {kind} {name!r}", _choices(name, known)
    return Fault(f"unknown-{kind}", what, where=where, hint=hint, fix=respelled(name, known))


def _model_at(path: Path) -> type[BaseModel] | None:
    """The model whose fields are the keys at `path`, for hints about unknown keys."""
    model: Any = Runbook
    for part in path:
        if isinstance(part, int):
            continue
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        model = next((kind for kind in _models_in(fields.get(part)) if kind), None)
        if model is None:
            return None
    return model if isinstance(model, type) else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def _explain(error: Any, text: Text) -> BadInput:
    path: Path = tuple(error["loc"])
    kind, key = error["type"], str(error["loc"][-1]) if error["loc"] else ""
    if kind == "extra_forbidden":
        model = _model_at(path[:-1])
        names = [field.alias or name for name, field in model.model_fields.items()] if model else []
        where = text.where(path, key=True)
        fix = respelled(key, names)
        return Fault("unknown-key", f"unknown key {key!r}", where=where, hint=_choices(key, names), fix=fix)
    if kind == "missing":
        parent = ".".join(str(part) for part in path[:-1]) or "the runbook"
        hint = "every runbook declares it; see docs/reference/runbook.md"
        return Fault("missing-key", f"{parent} lacks {key!r}", where=text.where(path[:-1]), hint=hint)
    message = error["msg"].removeprefix("Value error, ")
    dotted = ".".join(str(part) for part in path)
    fix = _respelled_value(kind, error)
    return Fault("bad-value", f"{dotted}: {message}", where=text.where(path), fix=fix)


def _respelled_value(kind: str, error: Any) -> Fix | None:
    if kind == "literal_error":
        return respelled(error["input"], re.findall(r"'([^']*)'", error["msg"]))
    return spelled_unit(error["input"]) if kind == "value_error" else None


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
                yield _unknown("collector", name, COLLECTORS, place)
            elif name in seen:
                yield Fault(
                    "collector-twice", f"collector {name!r} is named twice", where=where, hint="merge the arguments"
                )
            else:
                yield from _unknown_arguments(name, arguments, COLLECTORS[name], where)
            seen.add(name)
            yield from _templates(arguments, _EVENT_NAMES, where)


def _unknown_arguments(name: str, given: Iterable[str], known: Iterable[str], where: str) -> Iterator[BadInput]:
    for argument in given:
        if argument not in known:
            what = f"{name} has no argument {argument!r}"
            yield Fault("unknown-argument", what, where=where, hint=_choices(argument, known))


def _templates(value: Any, allowed: Iterable[str], where: str) -> Iterator[BadInput]:
    try:
        check_template(value, allowed=allowed, where=where)
    except BadInput as error:
        yield Fault("bad-template", error.what, where=error.where, hint=error.hint)


def _condition(expression: str | None, allowed: Iterable[str], where: str) -> Iterator[BadInput]:
    if expression is None:
        return
    try:
        check_condition(expression, allowed=allowed, where=where)
    except BadInput as error:
        yield Fault("bad-condition", error.what, where=error.where, hint=error.hint)


def _lint_diagnosis(index: int, item: Diagnosis, names: frozenset[str], text: Text) -> Iterator[BadInput]:
    yield from _condition(item.when, names, _where(text, "diagnose", index, "when"))
    for key in ("summary", "expected_gain"):
        yield from _templates(getattr(item, key), names, _where(text, "diagnose", index, key))


def _lint_remedy(index: int, item: Remedy, names: frozenset[str], book: Runbook, text: Text) -> Iterator[BadInput]:
    where = _where(text, "remediate", index, "action")
    action = STEPS.get(item.action)
    if action is None:
        yield _unknown("action", item.action, STEPS, where)
        return
    if item.action == MANUAL:
        yield from _lint_person("remediate", index, item, text)
        yield from _lint_take_back(index, item, book, text)
    yield from _unknown_arguments(
        item.action, item.arguments, action.arguments, _where(text, "remediate", index, "with")
    )
    yield from _templates(item.arguments, names, _where(text, "remediate", index, "with"))
    yield from _condition(item.when, names | {"finding"}, _where(text, "remediate", index, "when"))
    if item.approval:
        allowed = names | {"finding", "risk"}
        yield from _condition(item.approval.required, allowed, _where(text, "remediate", index, "approval", "required"))
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
        of = "" if key == "remediate" else " of the remedy it follows"
        hint = (
            f"`approval`{of} with `required: risk >= 'medium'`; where nobody is to be asked, `required: \"{_NOBODY}\"`"
        )
        what = f"{name} is of high risk and no approval is asked for"
        yield Fault("unapproved-risk", what, where=_where(text, key, index, "action"), hint=hint)


def _of_people_s(remedies: Iterable[Remedy]) -> float:
    """How long people may take for their steps, together."""
    return sum(item.timeout for item in remedies if item.action == MANUAL)


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
    asked_s = max((each.approval.timeout for each in book.remediate if each.approval), default=0.0)
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
        yield _unknown("step", item.if_changed, known, place)
    action = STEPS.get(item.action)
    if action is None:
        yield _unknown("action", item.action, STEPS, where)
        return
    if item.action == MANUAL:
        yield from _lint_person("after_success", index, item, text)
    if not action.settles:
        hint = "a controller that was killed tries the step again: name one that says what is to be"
        yield Fault("repeats", f"{item.action} does something each time", where=where, hint=hint)
    if item.if_changed in known:
        yield from _lint_risk("after_success", index, item.action, known[item.if_changed].approval, text)
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
        yield _unknown("probe", item.probe, PROBES, _where(text, key, index, "probe"))
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
    yield from _condition(item.when, names, _where(text, "verify", index, "when"))
    try:
        parse_tolerance(item.expect, within_s=item.within, hold_s=item.hold)
    except BadInput as error:
        yield Fault("bad-expectation", error.what, where=_where(text, "verify", index, "expect"), hint=error.hint)


def _lint_trigger(index: int, trigger: Trigger, text: Text) -> Iterator[BadInput]:
    for key in ("where", "clear"):
        yield from _condition(getattr(trigger, key), {"event"}, _where(text, "on", index, key))
    for key, clauses in (("any", trigger.any), ("all", trigger.all), ("not", trigger.none)):
        for number, clause in enumerate(clauses or ()):
            yield from _condition(clause.where, {"event"}, _where(text, "on", index, key, number, "where"))


def _lint_document(book: Runbook, text: Text) -> Iterator[BadInput]:
    for index, trigger in enumerate(book.on):
        yield from _lint_trigger(index, trigger, text)
    yield from _lint_collect(book, text)
    names = _EVENT_NAMES | {name for entry in book.collect for name in entry}
    found = {item.finding for item in book.diagnose}
    for index, diagnosis in enumerate(book.diagnose):
        yield from _lint_diagnosis(index, diagnosis, names, text)
    if book.remediate and not book.verify:
        hint = "add `verify`: a change that is not proven is not kept"
        yield Fault("no-verify", "remediate without verify", where=_where(text, "remediate"), hint=hint)
    for index, remedy in enumerate(book.remediate):
        yield from _lint_remedy(index, remedy, names, book, text)
        yield from _lint_findings(index, remedy, found, text)
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
    asked_s = max((item.approval.timeout for item in book.remediate if item.approval), default=0.0)
    last_s = asked_s + sum(check.within for check in book.verify) * (len(book.remediate) - 1)
    last_s += _of_people_s(book.remediate[:-1])
    if last_s >= book.guards.max_event_age:
        hint = f"max_event_age above {last_s:g}s: the approval, and `within` of verify before each next remedy"
        yield Fault("dead-end", "the last remedy would come too late to act", where=_where(text, "escalate"), hint=hint)


def _lint_findings(index: int, item: Remedy, known: set[str], text: Text) -> Iterator[BadInput]:
    for name in re.findall(r"finding\(\s*['\"]([^'\"]*)['\"]\s*\)", item.when):
        if name not in known:
            where = _where(text, "remediate", index, "when")
            yield Fault(
                "unknown-finding", f"no diagnosis makes the finding {name!r}", where=where, hint=_choices(name, known)
            )


def lint_text(text: Text) -> tuple[Runbook | None, tuple[BadInput, ...]]:
    """(runbook, no errors) or (None, every error found, in the order of the file)."""
    if not isinstance(text.data, dict):
        return None, (
            Fault(
                "bad-value", "a runbook is a mapping", where=text.where(()), hint="begin with apiVersion: osremed/v1"
            ),
        )
    try:
        book = Runbook.model_validate(text.data)
    except ValidationError as error:
        return None, tuple(_explain(item, text) for item in error.errors(include_url=False, include_context=False))
    errors = tuple(_lint_document(book, text))
    return (None, errors) if errors else (book, ())


def load_runbook(path: str) -> Runbook:
    """The checked runbook. BadInput holding the first error; `lint_text` gives them all."""
    book, errors = lint_text(read_text(path))
    if book is None:
        raise errors[0]
    return book
