"""Whether a run may change something by itself: the mode of its runbook, and what the policies of its groups say of it.

`suggest`: a person is asked before the first change, whatever the steps say. `auto`: only the steps that ask for one.
A policy of the host's group counts before the runbook, and of several policies the most careful one.
"""

from __future__ import annotations

from collections.abc import Sequence

from osremed.core.record import record
from osremed.runbook.document import Remedy, Runbook
from osremed.runbook.guardpolicy import Restriction

#: How long a person may take where the step does not say: so long, or two thirds of the time the event stays fresh.
ANSWER_S = 600.0
_OF_FRESH = 2 / 3


@record
class Mode:
    """`why` names whose word it is."""

    auto: bool
    why: str


def mode_of(runbook: Runbook, restrictions: Sequence[Restriction] = (), unknown_why: str = "") -> Mode:
    """Pure. `unknown_why`: why the policies cannot be told; then nothing is done unasked."""
    if unknown_why:
        return Mode(False, f"suggest mode: the policies of its groups cannot be told: {unknown_why}")
    said = [each for each in restrictions if each.mode]
    for wanted in ("suggest", "auto"):
        names = ", ".join(each.policy for each in said if each.mode == wanted)
        if names:
            return Mode(wanted == "auto", f"{wanted} mode of policy {names}")
    return Mode(runbook.mode == "auto", f"{runbook.mode} mode of the runbook")


def answer_s(remedy: Remedy, runbook: Runbook) -> float:
    """How long an answer about this step is awaited, whoever wants it."""
    if remedy.approval is not None:
        return remedy.approval.timeout
    return min(ANSWER_S, _OF_FRESH * runbook.guards.max_event_age)
