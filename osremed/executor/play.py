"""Call -> a play as YAML text. Strings that could be templates are marked unsafe and pass as they are."""

from __future__ import annotations

import inspect
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from osremed.core.action import Call
from osremed.core.errors import BadInput
from osremed.executor import stragglers
from osremed.executor.host_defaults import PREFIX, host_arguments
from osremed.executor.stragglers import CALL_MARK

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


def render_play(call: Call, name: str = "call") -> str:
    """The playbook for `call`; what it starts on the host has `name` in its environment. BadInput for a host pattern, a
    module without a full name, arguments JSON cannot say."""
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
        "environment": {"OSREMED_PREFIX": PREFIX, CALL_MARK: name},
        "tasks": [task],
    }
    return _dumped(play)


def render_ending(host: str, name: str, timeout_s: int) -> str:
    """The playbook that ends what the call of this `name` left running on `host`, and prints how many. Our own
    program is handed to the host's Python: nothing is put there."""
    program = f"{inspect.getsource(stragglers)}\nprint(end_marked({name!r}, mark=CALL_MARK))\n"
    python = "ansible_python_interpreter | default('/usr/bin/python3')"
    play = {
        "name": "end",
        "hosts": host,
        "gather_facts": False,
        "vars": {"osremed_ending": _Unsafe(shlex.quote(program))},
        "tasks": [
            {
                "name": "end",
                "ansible.builtin.raw": (
                    f"{{{{ {python} if ({python}).startswith('/') else '/usr/bin/python3' }}}}"
                    " -I -S -B -c {{ osremed_ending }}"
                ),
                "timeout": timeout_s,
            }
        ],
    }
    return _dumped(play)


def _dumped(play: Mapping[str, Any]) -> str:
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
