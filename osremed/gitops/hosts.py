"""Host policies of the live rules -> hosts, through Ansible: one host first, then a tenth, then the rest, ten at most
in a wave.

Each change registers its undo on the host with a deadline before it acts; it is confirmed when the whole wave has
loaded it. The first host that refuses ends the roll-out, and its wave is taken back.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from osremed.core.action import Call, Executor, Outcome, Status
from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.gitops import live
from osremed.gitops.live import Home
from osremed.gitops.policy import HostPolicy, parse_host_policy
from osremed.runbook.guardpolicy import KIND as GUARDS
from osremed.runbook.guardpolicy import kind_of

#: A policy that is not given must be as if it had never been: what its part does not say is the module's default.
_FASTOOM = {
    "sensitivity": "medium",
    "scopes": [{"node": True}],
    "protect": [],
    "prefer": [],
    "avoid": [],
    "overrides": {},
    "limits": {},
}
_TIMEOUT_S = 60.0
_CONFIRM_WITHIN_S = 600.0
#: Hosts of a wave, all tried at once: even if every call takes its whole time, the deadline of the first is not passed
#: when the last is confirmed.
_AT_ONCE = 10


@record
class Wish:
    """One part of a policy for one host. Without a policy: the rules have brought one and want it no more."""

    host: str
    part: str
    policy: HostPolicy | None

    @property
    def call(self) -> tuple[str, dict[str, Any]]:
        """(module, its arguments): the host then has what the part says and nothing else."""
        if self.policy is None:
            return "osremed.host.daemon_policy", {"daemon": self.part, "state": "absent", "reload": "auto"}
        settings = self.policy.parts[self.part]
        if self.part == "fastoom":
            return "osremed.host.fastoom_policy", {**_FASTOOM, **settings, "reload": "required"}
        return "osremed.host.daemon_policy", {
            "daemon": self.part,
            "settings": settings,
            "purge": True,
            "reload": "required",
        }


@record
class HostResult:
    """`outcome` is unchanged, changed, would_change, taken_back, failed, not_tried, or left: the rules want it no more,
    and it stays. `policy` is "" for what they want no more. `recorded`: the host waits for a confirm; it does not where
    the file was as wanted and the daemon was only told to load it."""

    host: str
    policy: str
    part: str
    outcome: str
    detail: str = ""
    recorded: bool = False

    def as_json(self) -> dict[str, str]:
        return {
            "host": self.host,
            "policy": self.policy,
            "part": self.part,
            "outcome": self.outcome,
            "detail": self.detail,
        }


def _result(wish: Wish, outcome: str, detail: str = "") -> HostResult:
    return HostResult(wish.host, wish.policy.metadata.name if wish.policy else "", wish.part, outcome, detail)


def policies_of(home: Home, name: str) -> tuple[HostPolicy, ...]:
    """The policies of the set `name` that are brought to hosts, in the order of their names; none of ""."""
    folder = home.path("sets", name, "policies")
    names = sorted(os.listdir(folder)) if name and os.path.isdir(folder) else []
    files = live.read_set(folder) if names else {}
    mine = [name for name in names if kind_of(files[name], name) != GUARDS]
    return tuple(parse_host_policy(files[name], f"policies/{name}") for name in mine)


def assigned(policies: Sequence[HostPolicy], groups: Mapping[str, frozenset[str]]) -> tuple[Wish, ...]:
    """By host and part. BadInput for an unknown group, and for a host with two policies of one part: which one is
    meant?"""
    found: dict[tuple[str, str], Wish] = {}
    known = {host for hosts in groups.values() for host in hosts}
    for policy in policies:
        hosts = groups.get(policy.hosts, frozenset({policy.hosts} & known))
        if not hosts:
            hint = f"groups: {', '.join(sorted(groups))}"
            where = f"policies/{policy.metadata.name}.yaml"
            raise BadInput(f"the inventory has no group or host {policy.hosts!r}", where=where, hint=hint)
        for key in ((host, part) for host in sorted(hosts) for part in policy.parts):
            other = found.setdefault(key, Wish(*key, policy))
            if other.policy is not None and other.policy is not policy:
                names = f"{other.policy.metadata.name} and {policy.metadata.name}"
                what = f"{key[0]} has two policies of {key[1]}: {names}"
                raise BadInput(what, where="policies", hint="narrow `hosts` of one")
    return tuple(found[key] for key in sorted(found))


Brought = Sequence[Sequence[str]]  #: [host, part] of each policy that the rules have on a host, as hosts.json keeps it


def abandoned(brought: Brought, wanted: Sequence[Wish], hosts: frozenset[str]) -> tuple[Wish, ...]:
    """What earlier rules brought to hosts that are still there, and these do not want."""
    kept = {(wish.host, wish.part) for wish in wanted}
    gone = sorted({(host, part) for host, part in brought} - kept)
    return tuple(Wish(host, part, None) for host, part in gone if host in hosts)


def brought_by(results: Sequence[HostResult], before: Brought) -> list[list[str]]:
    """What the hosts have of the rules after a roll-out."""
    there = {(host, part) for host, part in before} & {(each.host, each.part) for each in results}
    for each in results:
        if each.outcome in {"changed", "unchanged"} and each.policy:
            there.add((each.host, each.part))
        elif each.outcome in {"changed", "unchanged", "left"}:
            there.discard((each.host, each.part))
    return [list(each) for each in sorted(there)]


def waves(hosts: Sequence[str]) -> Iterator[Sequence[str]]:
    """One, then a tenth of all, then the rest; ten at most at a time."""
    ends = sorted({min(1, len(hosts)), min(len(hosts), 1 + math.ceil(len(hosts) / 10)), len(hosts)})
    begin = 0
    for end in ends:
        for first in range(begin, end, _AT_ONCE):
            yield hosts[first : min(end, first + _AT_ONCE)]
        begin = end


def roll_out(
    executor: Executor,
    wanted: Sequence[Wish],
    *,
    name: str,
    check: bool = False,
    halted: Callable[[], str] = lambda: "",
) -> tuple[HostResult, ...]:
    """Brings each host what it is to obey. `name` goes into the names of the undo records. `check` changes nothing.
    `halted` is asked before each wave: why this and the later ones are not to be begun, or ""."""
    results: list[HostResult] = []
    stopped = ""
    of_host: dict[str, list[Wish]] = {}
    for wish in wanted:
        of_host.setdefault(wish.host, []).append(wish)
    for wave in waves(sorted(of_host)):
        wishes = [wish for host in wave for wish in of_host[host]]
        stopped = stopped or halted()
        if stopped:
            results += [_result(wish, "not_tried", stopped) for wish in wishes]
            continue
        done = _wave(executor, [of_host[host] for host in wave], name, check)
        results += done
        failed = [result.host for result in done if result.outcome == "failed"]
        stopped = f"{failed[0]} failed" if failed and not check else ""
    return tuple(results)


def _wave(executor: Executor, wave: Sequence[Sequence[Wish]], name: str, check: bool) -> list[HostResult]:
    def bring(wishes: Sequence[Wish]) -> list[HostResult]:
        return [_bring(executor, wish, _undo_id(name, wish.host, wish.part), check) for wish in wishes]

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        tried = [result for results in pool.map(bring, wave) for result in results]
        if check or not any(result.outcome == "changed" for result in tried):
            return tried
        state = "reverted" if any(result.outcome == "failed" for result in tried) else "confirmed"
        return list(pool.map(lambda each: _settle(executor, each, name, state), tried))


def _undo_id(name: str, host: str, part: str) -> str:
    return f"{name}-{part}-{host}"


def _bring(executor: Executor, wish: Wish, undo_id: str, check: bool) -> HostResult:
    if wish.policy is None and wish.part == "fastoom":
        return _result(wish, "left", "no rule wants it any more; FastOOM does not run without a policy")
    module, args = wish.call
    deadline = {"undo_id": undo_id, "confirm_within": _CONFIRM_WITHIN_S}
    seen = executor.run(Call(module, {**args, **deadline}, wish.host, _TIMEOUT_S, check=True))
    if seen.status is not Status.OK:
        return _result(wish, "failed", seen.detail)
    if not seen.changed:
        return _result(wish, "unchanged")
    if check:
        return _result(wish, "would_change", seen.diff)
    engine = {**deadline, **seen.result.get("as_seen", {})}
    outcome = executor.run(Call(module, {**args, **engine}, wish.host, _TIMEOUT_S))
    if outcome.status is Status.OK:
        recorded = bool(outcome.result.get("undo_registered"))
        return replace(_result(wish, "changed", outcome.diff), recorded=recorded)
    taken_back = _undo(executor, wish.host, undo_id, "reverted")
    return _result(wish, "failed", f"{outcome.detail}; taken back: {taken_back.detail or 'yes'}")


def _settle(executor: Executor, result: HostResult, name: str, state: str) -> HostResult:
    if result.outcome != "changed" or not result.recorded:
        return result
    outcome = _undo(executor, result.host, _undo_id(name, result.host, result.part), state)
    if state == "reverted":
        if outcome.status is not Status.OK:
            return replace(result, outcome="failed", detail=f"not taken back yet: {outcome.detail}")
        return replace(result, outcome="taken_back", detail="its wave failed")
    if outcome.status is not Status.OK:
        what = f"not confirmed, the host takes it back by itself: {outcome.detail}"
        return replace(result, outcome="failed", detail=what)
    if outcome.result.get("result") != "confirmed":
        what = "confirmed too late: the host has already taken it back"
        return replace(result, outcome="failed", detail=what)
    return result


def _undo(executor: Executor, host: str, undo_id: str, state: str) -> Outcome:
    return executor.run(Call("osremed.host.undo", {"id": undo_id, "state": state}, host, _TIMEOUT_S))
