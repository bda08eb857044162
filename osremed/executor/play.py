"""Call -> a play as YAML text. Strings that could be templates are marked unsafe and pass as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from osremed.core.action import Call
from osremed.core.errors import BadInput
from osremed.executor.host_defaults import PREFIX, host_arguments

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
_MODULE = re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*){2,4}")


class _Unsafe(str):
    """A string that Ansible must not template."""

    __slots__ = ()


class _Quoted(str):
    """A string that YAML must not take for anything else."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 the base class names it
        return True


def _represent_unsafe(dumper: yaml.SafeDumper, data: _Unsafe) -> yaml.Node:
    return dumper.represent_scalar("!unsafe", str(data), style='"')


def _represent_quoted(dumper: yaml.SafeDumper, data: _Quoted) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(data), style='"')


_Dumper.add_representer(_Quoted, _represent_quoted)
_Dumper.add_representer(_Unsafe, _represent_unsafe)


def task_timeout_s(call: Call) -> int:
    """The task's own limit: whole seconds, at least one, as Ansible counts."""
    return max(1, math.ceil(call.timeout_s))


def render_play(call: Call) -> str:
    """The playbook for `call`. BadInput for a host pattern, a module without a full name, arguments JSON cannot say."""
    if not _HOST.fullmatch(call.host):
        raise BadInput(f"{call.host!r} is not a host name", hint="name one host of the inventory, not a pattern")
    if not _MODULE.fullmatch(call.module):
        raise BadInput(f"{call.module!r} is not the full name of a module", hint="such as osremed.host.undo")
    if not (math.isfinite(call.timeout_s) and call.timeout_s > 0):
        raise BadInput(f"timeout_s {call.timeout_s!r} is not a time above 0")
    args = {**host_arguments(call), **_unsafe(call.args, "args")}
    task = {"name": call.module, call.module: args, "timeout": task_timeout_s(call)}
    play = {
        "name": "call",
        "hosts": call.host,
        "gather_facts": False,
        "check_mode": call.check,
        "diff": True,
        "environment": {"OSREMED_PREFIX": PREFIX},
        "tasks": [task],
    }
    return yaml.dump([play], Dumper=_Dumper, sort_keys=False, width=1 << 30)


def _unsafe(value: Any, where: str) -> Any:
    if isinstance(value, str):
        # Ansible reads `!unsafe "on"` as true, so only what no other YAML type can look like is marked.
        return _Unsafe(value) if "{" in value or "#jinja2:" in value else _Quoted(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadInput(f"{value!r} is not a number JSON has", where=where)
        return value
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str) or "{{" in key or "{%" in key]
        if odd:
            raise BadInput(f"key {odd[0]!r} is not a plain string", where=where)
        return {str(key): _unsafe(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_unsafe(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise BadInput(f"{type(value).__name__} is not a JSON value", where=where)
