"""The actions a runbook may name: one row each. An action is an Ansible module; its undo is the same module with the
`previous` it returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from osremed.core.record import field, record

RiskName = Literal["low", "medium", "high"]


@record
class Action:
    """`arguments` are the options a runbook may set; the others (undo id, deadline, paths) are the engine's;
    `engine_arguments` are those that are always the same."""

    module: str
    risk: RiskName
    reversible: bool
    arguments: frozenset[str]
    engine_arguments: Mapping[str, Any] = field(default_factory=dict)


ACTIONS: Mapping[str, Action] = {
    "fastoom_policy": Action(
        module="osremed.host.fastoom_policy",
        risk="medium",
        reversible=True,
        arguments=frozenset({"sensitivity", "scopes", "protect", "prefer", "avoid", "overrides"}),
        # A policy that no guard has loaded changes nothing, and proves nothing.
        engine_arguments={"reload": "required"},
    ),
}

#: Evidence collectors of the on-host agent and the arguments a runbook may give them.
COLLECTORS: Mapping[str, frozenset[str]] = {
    "panorama": frozenset({"scope", "files", "processes"}),
    "fastoom": frozenset({"events"}),
    "gpus": frozenset(),
    "timeline": frozenset({"events"}),
}

#: Probes of the on-host agent and the arguments a runbook may give them.
PROBES: Mapping[str, frozenset[str]] = {
    "memory.available_ratio": frozenset({"scope"}),
    "memory.available_bytes": frozenset({"scope"}),
    "gpu.alerts": frozenset({"name", "gpu"}),
}
