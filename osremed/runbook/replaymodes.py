"""Whether what is decided would be done by itself or a person would be asked first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from osremed.core.event import Event
from osremed.core.language import filled
from osremed.runbook.actions import MANUAL, STEPS
from osremed.runbook.catalog import event_as_data
from osremed.runbook.decide import Decision
from osremed.runbook.document import Remedy, Runbook
from osremed.runbook.expressions import ExpressionFailed, Risk, condition_holds
from osremed.runbook.modes import Mode

#: `depends`: without evidence nobody knows whether one of the steps that ask is among those to be done; `looks`:
#: nothing is changed.
How = Literal["asks", "acts", "depends", "looks"]

WORDS: Mapping[How, str] = {
    "asks": "would ask a person",
    "acts": "would act by itself",
    "depends": "would act by itself unless a step asks a person",
    "looks": "changes nothing",
}


def how_decided(decision: Decision) -> How:
    """With its evidence at hand: the mode is in the decision."""
    if not decision.intents or decision.undecided:
        return "looks"
    return "asks" if any(intent.approval or intent.action == MANUAL for intent in decision.intents) else "acts"


def how_begun(runbook: Runbook, event: Event, mode: Mode) -> How:
    """Without evidence: which of its steps would be done is not known."""
    if runbook.looks_only:
        return "looks"
    if not mode.auto:
        return "asks"
    asking = {_asks(remedy, event) for remedy in runbook.remediate}
    return asking.pop() if len(asking) == 1 else "depends"


def _asks(remedy: Remedy, event: Event) -> How:
    if remedy.action == MANUAL:
        return "asks"
    if remedy.approval is None:
        return "acts"
    known = {"event": event_as_data(event), "host": event.host, "risk": Risk(STEPS[remedy.action].risk)}
    try:
        return "asks" if condition_holds(remedy.approval.required, known) else "acts"
    except ExpressionFailed:
        return "depends"


def modes_text(modes: Mapping[How, int]) -> str:
    """How many runs would go which way, in the language that is spoken."""
    return ", ".join(f"{filled(words)} {modes[how]}" for how, words in WORDS.items() if how in modes)
