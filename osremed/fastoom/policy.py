"""What the policy file says, checked whole before any of it counts."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.core.reading import Missing
from osremed.core.record import record
from osremed.fastoom import locate
from osremed.fastoom.model import Process, Scope, Thresholds

API_VERSION, KIND = "osremed/v1", "FastoomPolicy"
_LIMIT_BYTES = 1 << 20
_KEYS = ("apiVersion", "kind", "sensitivity", "scopes", "protect", "prefer", "avoid", "overrides")

#: sensitivity -> thresholds; the table in README.md. low acts late, so it has no time for a grace.
_SEARCHED = 8192  #: characters of each end of a command line

SENSITIVITY: Mapping[str, Thresholds] = {
    "low": Thresholds(0.10, 0.04, 0.06, 0.08, grace_s=0.0, deadline_s=2.0),
    "medium": Thresholds(0.16, 0.08, 0.11, 0.14, grace_s=0.25, deadline_s=2.0),
    "high": Thresholds(0.24, 0.12, 0.16, 0.20, grace_s=1.0, deadline_s=2.0),
}

#: overrides key -> (field, divisor, lowest, highest)
_OVERRIDES: Mapping[str, tuple[str, float, float, float]] = {
    "warn_percent": ("warn_ratio", 100, 1, 90),
    "enter_percent": ("enter_ratio", 100, 0.5, 80),
    "leave_percent": ("leave_ratio", 100, 0.5, 85),
    "target_percent": ("target_ratio", 100, 0.5, 90),
    "grace_s": ("grace_s", 1, 0, 30),
    "deadline_s": ("deadline_s", 1, 0.1, 60),
}


@record
class Rule:
    """`name`: glob on comm or on the base name of argv[0]. `cmdline`: regular expression searched in the space-joined
    argv. All that are given must match. Case counts."""

    name: re.Pattern[str] | None
    cmdline: re.Pattern[str] | None
    text: str


@record
class Policy:
    """`sha256` is of the bytes of the file."""

    sensitivity: str
    scopes: tuple[Scope, ...]
    protect: tuple[Rule, ...]
    prefer: tuple[Rule, ...]
    avoid: tuple[Rule, ...]
    thresholds: Thresholds
    sha256: str
    path: str


def matches(rule: Rule, process: Process) -> bool:
    """Whether every given key matches what is known. With a Missing argv only comm can match."""
    argv = () if isinstance(process.argv, Missing) else process.argv.value
    if rule.cmdline is not None and not any(rule.cmdline.search(part) for part in _searched(argv)):
        return False
    if rule.name is None:
        return True
    names = [process.name, os.path.basename(argv[0])] if argv else [process.name]
    return any(rule.name.match(name) for name in names)


def _searched(argv: Sequence[str]) -> tuple[str, ...]:
    """The command line, or both ends of one that is too long: any process chooses its own, up to 2 MiB, and a search
    must not stall the guard."""
    text = " ".join(argv)
    return (text,) if len(text) <= 2 * _SEARCHED else (text[:_SEARCHED], text[-_SEARCHED:])


def undecidable(rule: Rule, process: Process) -> bool:
    """True when the rule might match, but argv could not be read, or is too long to be searched whole."""
    if isinstance(process.argv, Missing):
        return not matches(rule, process)
    too_long = rule.cmdline is not None and len(_searched(process.argv.value)) > 1
    return too_long and not matches(rule, process)


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
    if not isinstance(sensitivity, str) or sensitivity not in SENSITIVITY:
        _fail(located, ("sensitivity",), f"sensitivity {sensitivity!r} is unknown", "use low, medium or high")
    return Policy(
        sensitivity=sensitivity,
        scopes=_scopes(located, document.get("scopes")),
        protect=_rules(located, document, "protect"),
        prefer=_rules(located, document, "prefer"),
        avoid=_rules(located, document, "avoid"),
        thresholds=_thresholds(located, SENSITIVITY[sensitivity], document.get("overrides", {})),
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


def _scopes(located: locate.Located, value: Any) -> tuple[Scope, ...]:
    if value is None:
        return (Scope(),)
    scopes: list[Scope] = []
    for index, item in enumerate(_list(located, ("scopes",), value)):
        path: locate.Path = ("scopes", index)
        if not isinstance(item, dict) or len(item) != 1:
            _fail(located, path, "a scope has exactly one key", 'write {"node": true} or {"cgroup": "/path"}')
        _known_keys(located, path, item, ("node", "cgroup"))
        if "node" in item and item["node"] is not True:
            _fail(located, (*path, "node"), "node can only be true", "leave the scope out to not guard the host")
        scope = Scope() if "node" in item else Scope(_cgroup_path(located, (*path, "cgroup"), item["cgroup"]))
        if scope in scopes:
            _fail(located, path, f"scope {scope.label} is given twice")
        scopes.append(scope)
    if not scopes:
        _fail(located, ("scopes",), "no scope: nothing would be guarded", 'write [{"node": true}]')
    return tuple(scopes)


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
        _fail(located, path, "a rule is an object with `name`, `cmdline` or both", 'write {"name": "sshd"}')
    _known_keys(located, path, item, ("name", "cmdline"))
    for key, value in item.items():
        if not isinstance(value, str) or not value:
            _fail(located, (*path, key), f"{key} must be text that is not empty")
    name = re.compile(fnmatch.translate(item["name"])) if "name" in item else None
    try:
        cmdline = re.compile(item["cmdline"]) if "cmdline" in item else None
    except (re.error, OverflowError, RecursionError) as error:
        hint = "escape special characters with a backslash; in JSON write it twice"
        _fail(located, (*path, "cmdline"), f"not a regular expression: {error}", hint)
    return Rule(name, cmdline, ", ".join(f"{key} {item[key]!r}" for key in sorted(item)))


def _thresholds(located: locate.Located, base: Thresholds, overrides: Any) -> Thresholds:
    if not isinstance(overrides, dict):
        _fail(located, ("overrides",), "overrides must be an object", 'write "overrides": {}')
    _known_keys(located, ("overrides",), overrides, tuple(_OVERRIDES))
    values = {field: getattr(base, field) for field, *_ in _OVERRIDES.values()}
    for key, value in overrides.items():
        field, divisor, lowest, highest = _OVERRIDES[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not lowest <= value <= highest:
            _fail(located, ("overrides", key), f"{key} {value!r} is not a number from {lowest:g} to {highest:g}")
        values[field] = value / divisor
    if "warn_percent" not in overrides:
        values["warn_ratio"] = max(values["warn_ratio"], values["target_ratio"])
    result = Thresholds(**values)
    _in_order(located, result, overrides)
    return result


def _in_order(located: locate.Located, t: Thresholds, overrides: Mapping[str, Any]) -> None:
    broken = (
        ("leave_percent", t.leave_ratio <= t.enter_ratio),
        ("target_percent", t.target_ratio < t.leave_ratio),
        ("warn_percent", t.warn_ratio < t.target_ratio),
    )
    for key, wrong in broken:
        if wrong:
            figures = f"enter {t.enter_ratio:.1%}, leave {t.leave_ratio:.1%}, target {t.target_ratio:.1%}"
            culprit = key if key in overrides else next(iter(overrides))
            hint = "set them so that enter < leave <= target <= warn"
            _fail(located, ("overrides", culprit), f"{figures}, warn {t.warn_ratio:.1%} are out of order", hint)
