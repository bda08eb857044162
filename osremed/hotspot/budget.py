"""What recording may cost, and which services are asked how fast they are: the policy `/etc/osremed/hotspot.json`,
read again at SIGHUP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.log import Log
from osremed.core.paths import HostPaths
from osremed.core.policyfile import PolicyFile, beside_fastoom, last_good, policy_keys
from osremed.core.record import record
from osremed.hotspot.probes import Probe, parse_probes

NAME, KIND = "hotspot", "HotspotPolicy"


@record
class Budget:
    """`ceiling` is the share of the machine that may be used; the ring is cut at its size and its age."""

    ceiling: float = 0.01
    max_bytes: int = 1 << 30
    max_age_s: float = 86400.0
    probes: tuple[Probe, ...] = ()


#: key -> (field, divisor, lowest, highest)
_KEYS: Mapping[str, tuple[str, int, float, float]] = {
    "ceiling_percent": ("ceiling", 100, 0.01, 50),
    "ring_bytes": ("max_bytes", 1, 1 << 20, 1 << 44),
    "keep_s": ("max_age_s", 1, 60, 10 * 365 * 86400),
}


def parse_budget(data: bytes, path: str, base: Budget = Budget()) -> Budget:  # noqa: B008  frozen
    """`base` with what the policy file sets. BadInput names the key."""
    keys: dict[str, Any] = policy_keys(data, path, KIND)
    found: dict[str, Any] = {}
    for key, value in keys.items():
        if key == "probes":
            found["probes"] = parse_probes(value, path)
            continue
        if key not in _KEYS:
            raise BadInput(f"unknown key {key!r}", where=path, hint=f"keys: {', '.join((*_KEYS, 'probes'))}")
        field, divisor, lowest, highest = _KEYS[key]
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not lowest <= value <= highest:
            raise BadInput(f"{key} is {value!r}", where=path, hint=f"a number from {lowest:g} to {highest:g}")
        if key == "ring_bytes" and value != int(value):
            raise BadInput(f"{key} is {value!r}", where=path, hint="a whole number")
        found[field] = value / divisor if divisor > 1 else type(getattr(base, field))(value)
    return replace(base, **found)


def budget_file(paths: HostPaths, base: Budget, log: Log, path: str | None = None) -> PolicyFile[Budget]:
    """The file that the recorder of this host obeys; `base` counts where it says nothing."""
    place = os.path.abspath(path) if path else beside_fastoom(paths, NAME)
    return PolicyFile(place, last_good(paths, NAME), lambda data, where: parse_budget(data, where, base), base, log)
