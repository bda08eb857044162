"""Faults of rules: an error with the id of its rule and, where one spelling was meant beyond doubt, that spelling.

A fix replaces one word where it stands and nothing else: comments and layout stay. It never guesses: a key is mended
when it differs in case, '-' and '_' alone, a duration when its unit was written out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from osremed.core.errors import BadInput
from osremed.core.record import record

#: Every rule a file can break, in words for code hosts.
RULES: Mapping[str, str] = {
    "not-yaml": "The file is one strict YAML document",
    "unknown-key": "Every key is one the schema knows",
    "missing-key": "What every runbook declares is there",
    "bad-value": "A value is of its kind and within its bounds",
    "folder-name": "A runbook lies in a folder of its name, a part in a file of its name",
    "unknown-part": "A part that is used is there",
    "part-use": "A part stands where it belongs, once, and uses no other",
    "part-parameter": "Parameters of a part are declared, used, and given what can stand in their place",
    "part-clash": "A part and what uses it collect and find nothing in two ways",
    "unknown-collector": "Collectors are those of the agent",
    "collector-twice": "A collector is named once",
    "unknown-argument": "Arguments are those that the collector, action or probe takes",
    "out-of-bounds": "Arguments of actions and guards of what changes hosts are within bounds",
    "bad-template": "Templates parse, stay bounded and name what is there",
    "bad-condition": "Conditions parse, stay bounded and name what is there",
    "unknown-action": "Actions are those of the collection",
    "unapproved-risk": "An action of high risk is approved, or is said to need none",
    "late-approval": "An approval comes before the event is too old",
    "person-step": "A person's step says what to do, what takes it back, and how long it may take",
    "no-deadline": "A change that can be undone has a deadline on the host",
    "not-irreversible": "What can be undone does not say that it cannot",
    "silent-irreversible": "What cannot be undone says why",
    "no-containment": "What contains harm can be taken back by a person, and only by one",
    "false-deadline": "What cannot be undone promises no deadline",
    "early-deadline": "The deadline leaves time for the verification",
    "unknown-probe": "Probes are those of the agent",
    "bad-expectation": "An expectation can be measured",
    "no-verify": "What changes a host is verified",
    "unknown-step": "A step after success follows a remedy of the runbook",
    "step-twice": "An id names one step",
    "repeats": "A step after success may be tried twice",
    "dead-end": "Every remedy of a chain can be reached",
    "unknown-finding": "A remedy asks for findings that are made",
    "no-case": "A runbook has a case",
    "case": "Cases give what they expect",
    "policy": "Policies of hosts are sound",
    "prefect": "Objects of Prefect are sound",
    "secret": "Rules name secrets and hold none",
    "layout": "Files lie where they belong",
}

_UNITS = {
    "ms": ("msec", "msecs", "millisecond", "milliseconds"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "d": ("day", "days"),
}
_SPELLED = {word: unit for unit, words in _UNITS.items() for word in words}


@record
class Fix:
    """At the fault's place stands `old`; `new` was meant."""

    old: str
    new: str


class Fault(BadInput):
    """`rule` is a key of RULES."""

    def __init__(self, rule: str, what: str, *, where: str = "", hint: str = "", fix: Fix | None = None) -> None:
        super().__init__(what, where=where, hint=hint, code=f"runbook.{rule}")
        self.rule, self.fix = rule, fix


def rule_of(error: BadInput) -> str:
    """The rule an error breaks; what is not of a rule of its own could not be read."""
    return error.rule if isinstance(error, Fault) else "not-yaml"


def respelled(word: object, known: Iterable[str]) -> Fix | None:
    """The known word of which this one is another spelling; None if there is none, or two."""
    meant = [each for each in known if _letters(each) == _letters(str(word))]
    return Fix(str(word), meant[0]) if len(meant) == 1 and meant[0] != word else None


def _letters(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")


def spelled_unit(value: object) -> Fix | None:
    """`5 minutes` -> `5m`. A number without a unit stays: nobody knows which was meant."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)", str(value))
    unit = _SPELLED.get(found[2].lower()) if found else None
    return Fix(str(value), f"{found[1]}{unit}") if found and unit else None


def mended(content: str, faults: Sequence[BadInput]) -> tuple[str, int]:
    """(the text with every fix at its place, how many there were). A place where something else stands is left."""
    lines, count = content.splitlines(keepends=True), 0
    for fault in sorted(faults, key=_position, reverse=True):
        fix = fault.fix if isinstance(fault, Fault) else None
        line, column = _position(fault)
        if fix is None or not 0 < line <= len(lines):
            continue
        text = lines[line - 1]
        at = column - 1 + (text[column - 1 : column] in {'"', "'"})
        if text.startswith(fix.old, at):
            lines[line - 1] = text[:at] + fix.new + text[at + len(fix.old) :]
            count += 1
    return "".join(lines), count


def _position(fault: BadInput) -> tuple[int, int]:
    found = re.search(r":([0-9]+):([0-9]+)$", fault.where)
    return (int(found[1]), int(found[2])) if found else (0, 0)
