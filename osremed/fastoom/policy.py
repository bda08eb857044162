"""What the policy file says, checked whole before any of it counts."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.core.record import record
from osremed.fastoom import locate, rules
from osremed.fastoom.model import Scope, Thresholds
from osremed.fastoom.rules import Rule, matches, undecidable

API_VERSION, KIND = "osremed/v1", "FastoomPolicy"
_LIMIT_BYTES = 1 << 20
_KEYS = ("apiVersion", "kind", "sensitivity", "scopes", "protect", "prefer", "avoid", "overrides", "limits")

#: sensitivity -> thresholds; the table in README.md. low acts late, so it has no time for a grace.
SENSITIVITY: Mapping[str, Thresholds] = {
    "low": Thresholds(
        0.10, 0.04, 0.06, 0.08, 0.0, 2.0, stall_ratio=0.6, stall_gate_ratio=0.2, floor_s=0.05, ceiling_s=2.0, looks=1
    ),
    "medium": Thresholds(0.16, 0.08, 0.11, 0.14, 0.25, 2.0),
    "high": Thresholds(
        0.24, 0.12, 0.16, 0.20, 1.0, 2.0, stall_ratio=0.25, stall_gate_ratio=0.4, floor_s=0.01, ceiling_s=0.5, looks=8
    ),
}

#: overrides key -> (field, divisor, lowest, highest)
_OVERRIDES: Mapping[str, tuple[str, float, float, float]] = {
    "warn_percent": ("warn_ratio", 100, 1, 90),
    "enter_percent": ("enter_ratio", 100, 0.5, 80),
    "leave_percent": ("leave_ratio", 100, 0.5, 85),
    "target_percent": ("target_ratio", 100, 0.5, 90),
    "grace_s": ("grace_s", 1, 0, 30),
    "deadline_s": ("deadline_s", 1, 0.1, 60),
    "stall_percent": ("stall_ratio", 100, 5, 100),
    "stall_gate_percent": ("stall_gate_ratio", 100, 0, 90),
    "floor_ms": ("floor_s", 1000, 5, 1000),
    "ceiling_ms": ("ceiling_s", 1000, 20, 10_000),
}
#: limits key -> (lowest, highest)
_LIMITS: Mapping[str, tuple[float, float]] = {"cooldown_s": (0, 3600), "max_kills": (1, 10_000), "window_s": (1, 3600)}
_SCOPE_KEYS = ("node", "cgroup", "sensitivity", "overrides", "kill")
_UNITS = ("process", "group")


@record
class Limits:
    """The storm breaker: at most `max_kills` processes within `window_s` over all scopes, and `cooldown_s` between two
    interventions in one scope. At level high the cooldown does not hold; the breaker does."""

    cooldown_s: float
    max_kills: int
    window_s: float


@record
class Guarded:
    """One entry of `scopes`. `scope.cgroup` may be a glob; its `*` stays within one part of the path. `whole_group`: a
    victim takes its whole control group along."""

    scope: Scope
    sensitivity: str
    thresholds: Thresholds
    whole_group: bool = False


@record
class Policy:
    """`sha256` is of the bytes of the file. `asked` are the costly facts of processes that its rules look at."""

    sensitivity: str
    guarded: tuple[Guarded, ...]
    protect: tuple[Rule, ...]
    prefer: tuple[Rule, ...]
    avoid: tuple[Rule, ...]
    thresholds: Thresholds
    limits: Limits
    asked: frozenset[str]
    sha256: str
    path: str

    @property
    def scopes(self) -> tuple[Scope, ...]:
        return tuple(one.scope for one in self.guarded)

    def of(self, scope: Scope) -> Guarded:
        """What counts for the scope: the first entry that means it, else what the policy says in general."""
        for one in self.guarded:
            if one.scope == scope or (is_glob(one.scope) and _means(one.scope.cgroup, scope.cgroup)):
                return one
        return Guarded(scope, self.sensitivity, self.thresholds)


def is_glob(scope: Scope) -> bool:
    return any(sign in scope.cgroup for sign in "*?[")


def _means(glob: str, path: str) -> bool:
    wanted, given = glob.split("/"), path.split("/")
    return len(wanted) == len(given) and all(map(fnmatch.fnmatchcase, given, wanted))


def load_policy(path: str) -> Policy:
    """The policy in the file. BadInput (with file:line:column and a hint) for whatever is wrong with it, unreadable
    files included."""
    return parse_policy(read_policy_bytes(path), path)


def read_policy_bytes(path: str) -> bytes:
    try:
        return read_bytes(path, limit_bytes=_LIMIT_BYTES)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path, hint="write a policy there") from error


def parse_policy(data: bytes, path: str) -> Policy:
    """`load_policy` on bytes; `path` is for messages."""
    located = locate.load(data, path)
    document = located.document
    if not isinstance(document, dict):
        _fail(located, (), "the policy must be a JSON object")
    _known_keys(located, (), document, _KEYS)
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(key) != wanted:
            _fail(located, (key,), f"{key} is {document.get(key)!r}", f'write "{key}": "{wanted}"')
    sensitivity = document.get("sensitivity", "medium")
    _sensitivity(located, ("sensitivity",), sensitivity)
    thresholds = _thresholds(located, ("overrides",), SENSITIVITY[sensitivity], document.get("overrides", {}))
    guarded = _guarded(located, document.get("scopes"), Guarded(Scope(), sensitivity, thresholds))
    lists = {name: _rules(located, document, name) for name in ("protect", "prefer", "avoid")}
    return Policy(
        sensitivity=sensitivity,
        guarded=guarded,
        **lists,
        thresholds=thresholds,
        limits=_limits(located, document.get("limits", {})),
        asked=rules.asked(rule for each in lists.values() for rule in each),
        sha256=sha256_hex(data),
        path=path,
    )


def _fail(located: locate.Located, path: locate.Path, what: str, hint: str = "") -> NoReturn:
    raise BadInput(what, where=located.where(path), hint=hint)


def _known_keys(located: locate.Located, path: locate.Path, found: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in found:
        if key not in known:
            _fail(located, (*path, key), f"unknown key {key!r}", f"keys here: {', '.join(known)}")


def _list(located: locate.Located, path: locate.Path, value: Any) -> list[Any]:
    if not isinstance(value, list):
        _fail(located, path, f"{path[-1]} must be a list", f'write "{path[-1]}": []')
    return value


def _sensitivity(located: locate.Located, path: locate.Path, value: Any) -> None:
    if not isinstance(value, str) or value not in SENSITIVITY:
        _fail(located, path, f"sensitivity {value!r} is unknown", "use low, medium or high")


def _guarded(located: locate.Located, value: Any, default: Guarded) -> tuple[Guarded, ...]:
    if value is None:
        return (default,)
    found: list[Guarded] = []
    for index, item in enumerate(_list(located, ("scopes",), value)):
        one = _scope(located, ("scopes", index), item, default)
        if any(one.scope == other.scope for other in found):
            _fail(located, ("scopes", index), f"scope {one.scope.label} is given twice")
        found.append(one)
    if not found:
        _fail(located, ("scopes",), "no scope: nothing would be guarded", 'write [{"node": true}]')
    return tuple(found)


def _scope(located: locate.Located, path: locate.Path, item: Any, default: Guarded) -> Guarded:
    if not isinstance(item, dict) or len({"node", "cgroup"} & set(item)) != 1:
        hint = 'write {"node": true} or {"cgroup": "/path"}'
        _fail(located, path, "a scope has exactly one of the keys node and cgroup", hint)
    _known_keys(located, path, item, _SCOPE_KEYS)
    if "node" in item and item["node"] is not True:
        _fail(located, (*path, "node"), "node can only be true", "leave the scope out to not guard the host")
    scope = Scope() if "node" in item else Scope(_cgroup_path(located, (*path, "cgroup"), item["cgroup"]))
    sensitivity = item.get("sensitivity", default.sensitivity)
    _sensitivity(located, (*path, "sensitivity"), sensitivity)
    base = SENSITIVITY[sensitivity] if "sensitivity" in item else default.thresholds
    thresholds = _thresholds(located, (*path, "overrides"), base, item.get("overrides", {}))
    kill = item.get("kill", "process")
    if kill not in _UNITS:
        _fail(located, (*path, "kill"), f"kill {kill!r} is unknown", "use process or group")
    return Guarded(scope, sensitivity, thresholds, kill == "group")


def _limits(located: locate.Located, given: Any) -> Limits:
    if not isinstance(given, dict):
        _fail(located, ("limits",), "limits must be an object", 'write "limits": {"max_kills": 50, "window_s": 60}')
    _known_keys(located, ("limits",), given, tuple(_LIMITS))
    for key, value in given.items():
        lowest, highest = _LIMITS[key]
        _number(located, ("limits", key), value, lowest, highest)
        if key == "max_kills" and value != int(value):
            _fail(located, ("limits", key), f"{key} {value!r} is not a whole number")
    merged = {"cooldown_s": 0.0, "max_kills": 300, "window_s": 60.0, **given}
    return Limits(float(merged["cooldown_s"]), int(merged["max_kills"]), float(merged["window_s"]))


def _number(located: locate.Located, path: locate.Path, value: Any, lowest: float, highest: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not lowest <= value <= highest:
        _fail(located, path, f"{path[-1]} {value!r} is not a number from {lowest:g} to {highest:g}")


def _cgroup_path(located: locate.Located, path: locate.Path, value: Any) -> str:
    parts = value.split("/") if isinstance(value, str) else []
    if len(parts) < 2 or parts[0] != "" or not all(parts[1:]) or {"..", "."} & set(parts) or "\0" in value:
        hint = "write the path below the hierarchy's mount point, such as /kubepods/pod1"
        _fail(located, path, f"{value!r} is not a control group path", hint)
    return str(value)


def _rules(located: locate.Located, document: Mapping[str, Any], name: str) -> tuple[Rule, ...]:
    items = _list(located, (name,), document.get(name, []))
    return tuple(_rule(located, (name, index), item) for index, item in enumerate(items))


def _rule(located: locate.Located, path: locate.Path, item: Any) -> Rule:
    if not isinstance(item, dict) or not item:
        _fail(located, path, f"a rule is an object with one or more of {', '.join(rules.KEYS)}", '{"name": "sshd"}')
    _known_keys(located, path, item, rules.KEYS)
    try:
        return rules.make_rule(item)
    except ValueError as error:
        key, what, hint = error.args
        _fail(located, (*path, key), what, hint)


def _thresholds(located: locate.Located, path: locate.Path, base: Thresholds, overrides: Any) -> Thresholds:
    if not isinstance(overrides, dict):
        _fail(located, path, "overrides must be an object", 'write "overrides": {}')
    if not overrides:
        return base
    _known_keys(located, path, overrides, tuple(_OVERRIDES))
    values: dict[str, Any] = {}
    for key, value in overrides.items():
        field, divisor, lowest, highest = _OVERRIDES[key]
        _number(located, (*path, key), value, lowest, highest)
        values[field] = value / divisor
    result = replace(base, **values)
    if "warn_percent" not in overrides:
        result = replace(result, warn_ratio=max(result.warn_ratio, result.target_ratio))
    _in_order(located, path, result, overrides)
    return result


def _in_order(located: locate.Located, path: locate.Path, t: Thresholds, overrides: Mapping[str, Any]) -> None:
    broken = (
        ("leave_percent", t.leave_ratio <= t.enter_ratio),
        ("target_percent", t.target_ratio < t.leave_ratio),
        ("warn_percent", t.warn_ratio < t.target_ratio),
        ("ceiling_ms", t.ceiling_s < t.floor_s),
    )
    for key, wrong in broken:
        if wrong:
            figures = f"enter {t.enter_ratio:.1%}, leave {t.leave_ratio:.1%}, target {t.target_ratio:.1%}"
            culprit = key if key in overrides else next(iter(overrides))
            hint = "set them so that enter < leave <= target <= warn, and floor <= ceiling"
            _fail(located, (*path, culprit), f"{figures}, warn {t.warn_ratio:.1%} are out of order", hint)


__all__ = ["Guarded", "Limits", "Policy", "Rule", "load_policy", "matches", "parse_policy", "undecidable"]
