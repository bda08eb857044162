"""The fleet of a replay: what a share of it is, whom its policies mean, and who said so. Nobody is to read what rules
would have done on another fleet than theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from osremed.core.errors import BadInput
from osremed.core.language import filled
from osremed.core.record import field, record
from osremed.runbook.guardpolicy import GuardPolicy, Restriction, restrictions

_FEW = 5  #: hosts that are named
Policies = Sequence[GuardPolicy]
#: (host, runbook) -> what the policies of its groups say, and why that cannot be told.
Told = Callable[[str, str], tuple[Sequence[Restriction], str]]


@record
class Fleet:
    """`source`: an inventory (that of `where`), a number somebody gave, or the hosts that had events. Only an inventory
    has `groups`, `all` among them; without one policies are not asked and every host is one of the fleet."""

    source: Literal["inventory", "number", "events"]
    hosts: int
    where: str = ""
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def has(self, host: str) -> bool:
        return self.source != "inventory" or host in self.groups["all"]


def fleet_of_inventory(groups: Mapping[str, frozenset[str]], where: str) -> Fleet:
    return Fleet("inventory", len(groups["all"]), where, groups)


def fleet_of_number(hosts: int, where: str) -> Fleet:
    """BadInput for none: a share of no host is no bound."""
    if hosts < 1:
        raise BadInput(f"{hosts} hosts are no fleet", where=where, hint="how many hosts there are, 1 at least")
    return Fleet("number", hosts)


@record
class FleetTold:
    """What a replay took for the fleet. `policies` are those it asked, `not_asked` those it could not: without an
    inventory nobody knows whom they mean. `policies_why`: why the inventory does not tell it either, so that each run
    is refused. `strangers` had events and are not in the inventory."""

    source: Literal["inventory", "number", "events"]
    hosts: int
    where: str
    policies: tuple[str, ...]
    not_asked: tuple[str, ...]
    policies_why: str
    strangers: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        named = {name: list(getattr(self, name)) for name in ("policies", "not_asked", "strangers")}
        return {
            "source": self.source,
            "hosts": self.hosts,
            "where": self.where,
            **named,
            "policies_why": self.policies_why,
        }


def told_of(fleet: Fleet, policies: Policies, hosts: frozenset[str]) -> FleetTold:
    """`hosts` are those that had events."""
    names = tuple(policy.metadata.name for policy in policies)
    known = fleet.source == "inventory"
    strangers = tuple(sorted(host for host in hosts if not fleet.has(host)))
    asked, not_asked = (names, ()) if known else ((), names)
    return FleetTold(fleet.source, fleet.hosts, fleet.where, asked, not_asked, _why_not(policies, fleet), strangers)


def _why_not(policies: Policies, fleet: Fleet) -> str:
    """A group that the inventory does not have refuses every run, as it does when rules are live."""
    if fleet.source != "inventory":
        return ""
    try:
        restrictions(policies, fleet.groups, "", "")
    except BadInput as error:
        return str(error)
    return ""


def telling(policies: Policies, fleet: Fleet) -> Told:
    """What the policies say of a run, each host and runbook looked up once."""
    why = _why_not(policies, fleet)

    @functools.cache
    def told(host: str, runbook: str) -> tuple[Sequence[Restriction], str]:
        if fleet.source != "inventory" or not fleet.has(host):
            return (), ""
        return ((), why) if why else (restrictions(policies, fleet.groups, host, runbook), "")

    return told


def fleet_lines(told: FleetTold) -> Iterator[str]:
    """Which fleet it was and whose policies were asked, in the language that is spoken."""
    if told.source == "inventory":
        yield filled("fleet: {1} hosts of the inventory {2}", str(told.hosts), told.where)
        yield filled("policies of groups: {1}", ", ".join(told.policies) or filled("none"))
    elif told.source == "number":
        yield filled("fleet: {1} hosts, a number that was given", str(told.hosts))
    else:
        yield filled("fleet: the {1} hosts that had events, for want of an inventory or a number", str(told.hosts))
    if told.not_asked:
        yield filled("policies of groups NOT asked, for want of an inventory: {1}", ", ".join(told.not_asked))
    if told.policies_why:
        yield filled("policies cannot be told, each run is refused: {1}", told.policies_why)
    if told.strangers:
        some = ", ".join(told.strangers[:_FEW]) + (" …" if len(told.strangers) > _FEW else "")
        yield filled("not in the inventory, refused by scope: {1} hosts: {2}", str(len(told.strangers)), some)
