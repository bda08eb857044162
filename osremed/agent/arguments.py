"""Arguments of collectors and probes: a JSON object, every key and type known beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from osremed.core.errors import BadInput

_KINDS = {str: "text", int: "a whole number", bool: "true or false"}


def parse_arguments(text: str, *, where: str) -> dict[str, Any]:
    """The object in `text`. BadInput if it is not one."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the arguments are not JSON: {error}", where=where, hint='such as {"files": 20}') from None
    if not isinstance(document, dict):
        raise BadInput("the arguments are not a JSON object", where=where, hint='such as {"files": 20}')
    return document


def check_arguments(given: Mapping[str, Any], allowed: Mapping[str, type], *, where: str) -> dict[str, Any]:
    """`given`, once every key is allowed and of its type; whole numbers from 0 to 10,000. A whole number where text is
    wanted is its digits: a runbook's `{{ event.second_ns }}` arrives as a number. BadInput with the list."""
    names = ", ".join(f"{key} ({_KINDS[kind]})" for key, kind in allowed.items()) or "none"
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key not in allowed:
            raise BadInput(f"unknown argument {key!r}", where=where, hint=f"arguments: {names}")
        if allowed[key] is str and isinstance(value, int) and not isinstance(value, bool):
            found[key] = str(value)
            continue
        if not isinstance(value, allowed[key]) or isinstance(value, bool) is not (allowed[key] is bool):
            raise BadInput(f"argument {key} is {value!r}", where=where, hint=f"arguments: {names}")
        if isinstance(value, int) and not 0 <= value <= 10_000:
            raise BadInput(f"argument {key} is {value!r}", where=where, hint="0 to 10000")
        found[key] = value
    return found


def cgroup_of(scope: str) -> str | None:
    """The control group that an event's `scope` names; None for `node`. BadInput for anything else."""
    if scope == "node":
        return None
    if not scope.startswith("/") or ".." in scope.split("/") or "\0" in scope:
        raise BadInput(f"{scope!r} is not a scope", hint="`node`, or the path of a group below the hierarchy's mount")
    return scope
