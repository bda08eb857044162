"""Host policies of the live rules -> hosts, through Ansible: one host first, then a tenth, then the rest.

Each change registers its undo on the host with a deadline before it acts; it is confirmed when the whole wave has
loaded it. The first host that refuses ends the roll-out, and its wave is taken back.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from osremed.core.action import Call, Executor, Outcome, Status
from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.gitops import live
from osremed.gitops.live import Home
from osremed.gitops.policy import HostPolicy, parse_host_policy

_MODULE = "osremed.host.fastoom_policy"
_TIMEOUT_S = 60.0
_CONFIRM_WITHIN_S = 600.0
_AT_ONCE = 10


@record
class HostResult:
    """`outcome` is unchanged, changed, would_change, taken_back, failed or not_tried."""

    host: str
    policy: str
    outcome: str
    detail: str = ""

    def as_json(self) -> dict[str, str]:
        return {"host": self.host, "policy": self.policy, "outcome": self.outcome, "detail": self.detail}


def live_policies(home: Home) -> tuple[HostPolicy, ...]:
    """The policies of the live set, in the order of their names."""
    folder = home.path("live", "policies")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    files = live.read_set(folder) if names else {}
    return tuple(parse_host_policy(files[name], f"policies/{name}") for name in names)


def assigned(policies: Sequence[HostPolicy], groups: Mapping[str, frozenset[str]]) -> Mapping[str, HostPolicy]:
    """Host -> its one policy. BadInput for an unknown group, and for a host with two policies: which one is meant?"""
    found: dict[str, HostPolicy] = {}
    known = {host for hosts in groups.values() for host in hosts}
    for policy in policies:
        hosts = groups.get(policy.hosts, frozenset({policy.hosts} & known))
        if not hosts:
            hint = f"groups: {', '.join(sorted(groups))}"
            where = f"policies/{policy.metadata.name}.yaml"
            raise BadInput(f"the inventory has no group or host {policy.hosts!r}", where=where, hint=hint)
        for host in sorted(hosts):
            if host in found:
                names = f"{found[host].metadata.name} and {policy.metadata.name}"
                raise BadInput(f"{host} has two policies: {names}", where="policies", hint="narrow `hosts` of one")
            found[host] = policy
    return found


def waves(hosts: Sequence[str]) -> Iterator[Sequence[str]]:
    """One, then a tenth of all, then the rest."""
    ends = sorted({min(1, len(hosts)), min(len(hosts), 1 + math.ceil(len(hosts) / 10)), len(hosts)})
    begin = 0
    for end in ends:
        if end > begin:
            yield hosts[begin:end]
        begin = end


def roll_out(
    executor: Executor, wanted: Mapping[str, HostPolicy], *, name: str, check: bool = False
) -> tuple[HostResult, ...]:
    """Brings the policy to each host. `name` goes into the names of the undo records. `check` changes nothing."""
    results: list[HostResult] = []
    stopped = ""
    for wave in waves(sorted(wanted)):
        if stopped:
            results += [HostResult(host, wanted[host].metadata.name, "not_tried", stopped) for host in wave]
            continue
        done = _wave(executor, wave, wanted, name, check)
        results += done
        failed = [result.host for result in done if result.outcome == "failed"]
        stopped = f"{failed[0]} failed" if failed and not check else ""
    return tuple(results)


def _wave(
    executor: Executor, wave: Sequence[str], wanted: Mapping[str, HostPolicy], name: str, check: bool
) -> list[HostResult]:
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        tried = list(pool.map(lambda host: _bring(executor, host, wanted[host], f"{name}-{host}", check), wave))
        if check or not any(result.outcome == "changed" for result in tried):
            return tried
        state = "reverted" if any(result.outcome == "failed" for result in tried) else "confirmed"
        return list(pool.map(lambda result: _settle(executor, result, f"{name}-{result.host}", state), tried))


def _bring(executor: Executor, host: str, policy: HostPolicy, undo_id: str, check: bool) -> HostResult:
    wanted = {"sensitivity": "medium", "scopes": [{"node": True}], "protect": [], "prefer": [], "avoid": []}
    args: dict[str, Any] = {**wanted, "overrides": {}, "limits": {}, **policy.fastoom, "reload": "required"}
    said = policy.metadata.name
    seen = executor.run(Call(_MODULE, args, host, _TIMEOUT_S, check=True))
    if seen.status is not Status.OK:
        return HostResult(host, said, "failed", seen.detail)
    if not seen.changed:
        return HostResult(host, said, "unchanged")
    if check:
        return HostResult(host, said, "would_change", seen.diff)
    engine = {"undo_id": undo_id, "confirm_within": _CONFIRM_WITHIN_S, **seen.result.get("as_seen", {})}
    outcome = executor.run(Call(_MODULE, {**args, **engine}, host, _TIMEOUT_S))
    if outcome.status is Status.OK:
        return HostResult(host, said, "changed", outcome.diff)
    taken_back = _undo(executor, host, undo_id, "reverted")
    return HostResult(host, said, "failed", f"{outcome.detail}; taken back: {taken_back.detail or 'yes'}")


def _settle(executor: Executor, result: HostResult, undo_id: str, state: str) -> HostResult:
    if result.outcome != "changed":
        return result
    outcome = _undo(executor, result.host, undo_id, state)
    if outcome.status is not Status.OK:
        what = "not confirmed, the host takes it back by itself" if state == "confirmed" else "not taken back yet"
        return HostResult(result.host, result.policy, "failed", f"{what}: {outcome.detail}")
    return result if state == "confirmed" else HostResult(result.host, result.policy, "taken_back", "its wave failed")


def _undo(executor: Executor, host: str, undo_id: str, state: str) -> Outcome:
    return executor.run(Call("osremed.host.undo", {"id": undo_id, "state": state}, host, _TIMEOUT_S))


def is_due(home: Home, every_s: float) -> bool:
    """Whether the live set was not brought to the hosts yet, or longer than `every_s` ago."""
    last = live.read_json(home.hosts)
    if not last or last["set"] != live.live_digest(home):
        return bool(live_policies(home))
    return bool(time.time_ns() - last.get("at_ns", 0) >= every_s * 1e9)


def undo_name(home: Home) -> str:
    """A name for the undo records of one roll-out: another one of the same set does not meet them."""
    return f"gitops-{live.live_digest(home)[:12]}-{time.time_ns() // 1_000_000}"
