"""What lint holds a runbook that changes hosts to besides its form: arguments, timeouts and guards that are bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.units import format_duration
from osremed.runbook.actions import MANUAL
from osremed.runbook.document import Remedy, Runbook
from osremed.runbook.faults import Fault
from osremed.runbook.text import Text
from osremed.runbook.values import unfit

#: A host has one run at a time: an action that takes longer holds all others off.
_LONGEST_S = 3600.0
#: Without a rest the next event of the same trouble begins the next change.
_LEAST_REST_S = 1.0
_MOST_OF_FLEET = 0.5
_LEAST_BY_HAND_S, _MOST_BY_HAND_S = 60.0, 86400.0
_MOST_RUNS_PER_S = 1.0


def argument_faults(action: str, arguments: Mapping[str, Any], text: Text, key: str, index: int) -> Iterator[BadInput]:
    """Literals outside the bounds of `values`."""
    for name, why in unfit(action, arguments):
        where = text.where((key, index, "with", name))
        hint = "the bounds are in docs/reference/runbook.md; a person with a playbook may set more"
        yield Fault("out-of-bounds", why, where=where, hint=hint)


def timeout_faults(item: Remedy, text: Text, index: int) -> Iterator[BadInput]:
    if item.action != MANUAL and not 0 < item.timeout <= _LONGEST_S:
        where = text.where(("remediate", index, "timeout"))
        what = f"the timeout of {item.action} is not above 0 and at most {_LONGEST_S:g} s"
        yield Fault("out-of-bounds", what, where=where, hint="meanwhile no other run may change the host")


def manual_time_faults(book: Runbook, text: Text) -> Iterator[BadInput]:
    """What nobody notices saved, and what nobody does in one go, would only adorn the statistics."""
    taken_s = book.metadata.manual_time
    if taken_s is not None and not _LEAST_BY_HAND_S <= taken_s <= _MOST_BY_HAND_S:
        what = f"{format_duration(taken_s)} is not what a person takes for one repair: from 1m to 1d"
        where = text.where(("metadata", "manual_time"))
        yield Fault("out-of-bounds", what, where=where, hint="an estimate, such as 20m; none: no time is told as saved")


def guard_faults(book: Runbook, text: Text) -> Iterator[BadInput]:
    """Guards that would hold nothing back. Of what only looks nothing is asked."""
    if book.looks_only:
        return
    guards = book.guards
    if guards.cooldown < _LEAST_REST_S:
        what = f"a cooldown of {guards.cooldown:g} s is none: the next event begins the next change at once"
        yield Fault("out-of-bounds", what, where=text.where(("guards", "cooldown")), hint="at least 1s; usual is 10m")
    fleet = guards.concurrency.fleet
    if isinstance(fleet, float) and fleet > _MOST_OF_FLEET:
        what = f"{fleet:.0%} of the fleet may be changed at once: nothing is left if the change is wrong"
        where = text.where(("guards", "concurrency", "fleet"))
        yield Fault("out-of-bounds", what, where=where, hint="at most 50%, or a number of hosts")
    storm = guards.storm
    if storm.max_runs > max(_MOST_RUNS_PER_S * storm.per, 1):
        what = f"{storm.max_runs} runs within {format_duration(storm.per)} are no bound"
        where = text.where(("guards", "storm"))
        yield Fault("out-of-bounds", what, where=where, hint="at most one a second, such as {max_runs: 20, per: 10m}")
