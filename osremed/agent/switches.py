"""Switches that the owners of this host's services declared in /etc/osremed/switches.json, and which of them fit a
process that is in a trap."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.core.paths import host_paths
from osremed.core.reading import Missing, Reason, missing_from_oserror
from osremed.sensors import procfs

FILE = "switches.json"
_TEXTS = ("name", "mends", "cmdline", "service", "file", "key")
_LIMIT_BYTES = 1 << 20
_HINT = (
    '{"apiVersion": "osremed/v1", "kind": "ServiceSwitches", "switches": [{"name": "web-cache", "mends": '
    '"frequent-proc-reads", "cmdline": "web\\\\.py", "service": "web", "file": "/etc/web.json", "key": "cache_s", '
    '"on": 1, "off": 0}]}'
)


def switches(*, trap: str = "", pid: str = "") -> dict[str, Any]:
    """The collector: those that mend the trap and whose `cmdline` is found in that of the process (any, where none is
    named), with their state: on, off, other (somebody set another value), or why it cannot be read. Nothing declared
    is no gap. BadInput for a file that is not sound."""
    path = os.path.join(os.path.dirname(host_paths().fastoom_policy), FILE)
    if pid and not pid.isdigit():
        raise BadInput(f"{pid!r} is not a process", hint="its number")
    try:
        declared = parse_switches(read_bytes(path, limit_bytes=_LIMIT_BYTES), path)
    except FileNotFoundError:
        declared = ()
    fitting = [each for each in declared if trap in ("", each["mends"])]
    if pid:
        words = procfs.cmdline(int(pid))
        if isinstance(words, Missing):
            return words.as_json()
        fitting = [each for each in fitting if re.search(each["cmdline"], " ".join(words.value))]
    return {"declared": len(declared), "fitting": [{**each, "state": state_of(each)} for each in fitting]}


def parse_switches(data: bytes, path: str) -> tuple[Mapping[str, Any], ...]:
    """BadInput names what is wrong."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {error}", where=path, hint=_HINT) from None
    head = (document.get("apiVersion"), document.get("kind")) if isinstance(document, dict) else ()
    if head != ("osremed/v1", "ServiceSwitches") or set(document) != {"apiVersion", "kind", "switches"}:
        raise BadInput("not of osremed/v1, ServiceSwitches", where=path, hint=_HINT)
    rows = document["switches"]
    if not isinstance(rows, list):
        raise BadInput("switches is not a list", where=path, hint=_HINT)
    for at, row in enumerate(rows):
        _check(row, f"switches[{at}]", path)
    if len({row["name"] for row in rows}) < len(rows):
        raise BadInput("two switches have one name", where=path, hint="name each once")
    return tuple(rows)


def _check(row: Any, at: str, path: str) -> None:
    if not isinstance(row, dict) or set(row) != {*_TEXTS, "on", "off"}:
        raise BadInput(f"{at} has not the keys {', '.join(_TEXTS)}, on and off", where=path, hint=_HINT)
    for key in _TEXTS:
        if not isinstance(row[key], str) or not row[key]:
            raise BadInput(f"{at}.{key} is {row[key]!r}", where=path, hint=_HINT)
    try:
        re.compile(row["cmdline"])
    except re.error as error:
        raise BadInput(f"{at}.cmdline is not a regular expression: {error}", where=path, hint=_HINT) from None
    if not os.path.isabs(row["file"]):
        raise BadInput(f"{at}.file is not an absolute path", where=path, hint=_HINT)
    if not all(isinstance(row[key], (bool, int, float, str)) for key in ("on", "off")) or same(row["on"], row["off"]):
        raise BadInput(f"{at}: on and off are not two different numbers, texts or truths", where=path, hint=_HINT)


def same(one: Any, other: Any) -> bool:
    """As JSON has it: 1 is not true."""
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)


def state_of(switch: Mapping[str, Any]) -> Any:
    """on, off or other; a Missing as JSON when the configuration cannot be read or has no such key."""
    path = switch["file"]
    try:
        document = json.loads(read_bytes(path, limit_bytes=_LIMIT_BYTES))
    except OSError as error:
        return missing_from_oserror(error, path).as_json()
    except (ValueError, RecursionError) as error:
        return Missing(Reason.MALFORMED, path, str(error)).as_json()
    if not isinstance(document, dict) or switch["key"] not in document:
        return Missing(Reason.MALFORMED, path, f"it has no key {switch['key']}").as_json()
    present = document[switch["key"]]
    return next((state for state in ("on", "off") if same(present, switch[state])), "other")
