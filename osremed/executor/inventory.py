"""Which hosts an inventory names, as ansible-inventory says."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes, write_atomic
from osremed.core.record import field, record
from osremed.executor.environment import environment_of, find_program, write_config


@record
class Hosts:
    """`local` are those whose connection is local. A name that is a host and a group at once is in neither: a play on
    it would reach the whole group."""

    names: frozenset[str]
    local: frozenset[str]
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)  #: with the hosts of their children; `all` too


def read_hosts(ansible_inventory: str, inventory: str, environ: Mapping[str, str], *, timeout_s: float = 60.0) -> Hosts:
    """The hosts of `inventory` (a path). BadInput if it cannot be read or names none. Takes about a second."""
    argv = [ansible_inventory, "-i", inventory, "--list"]
    try:
        ended = subprocess.run(argv, env=dict(environ), capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"the inventory gave no answer within {timeout_s:g} s", where=inventory) from error
    if ended.returncode != 0:
        raise BadInput(f"the inventory cannot be read: {ended.stderr.decode(errors='replace')[-800:]}", where=inventory)
    try:
        document = json.loads(ended.stdout)
    except ValueError as error:
        raise BadInput(f"ansible-inventory did not answer in JSON: {error}", where=inventory) from error
    hosts = hosts_of(document)
    if not hosts.names:
        raise BadInput("the inventory names no host", where=inventory)
    return hosts


def groups_of(inventory: str, collections_path: str) -> Mapping[str, frozenset[str]]:
    """The groups of an inventory with their hosts, for who calls none of them; nothing is left behind. BadInput if it
    cannot be read, Unavailable without ansible-inventory. Takes about a second."""
    with tempfile.TemporaryDirectory(prefix="osremed-inventory-") as work_dir:
        environ = environment_of(work_dir, collections_path, {})
        write_config(environ)
        command = find_program("ansible-inventory", environ["PATH"])
        return read_hosts(command, os.path.abspath(inventory), environ).groups


def hosts_of(document: Mapping[str, object]) -> Hosts:
    """From the JSON that `ansible-inventory --list` prints."""
    names: set[str] = set()
    for group, facts in document.items():
        if group != "_meta" and isinstance(facts, dict):
            names.update(facts.get("hosts", []))
    meta = document.get("_meta")
    variables = meta.get("hostvars", {}) if isinstance(meta, dict) else {}
    names -= set(document)
    groups = {group: _members(document, group, frozenset()) & names for group in document if group != "_meta"}
    groups["all"] = frozenset(names)
    local = {name for name in names if variables.get(name, {}).get("ansible_connection") == "local"}
    return Hosts(frozenset(names), frozenset(local), groups)


def _members(document: Mapping[str, object], group: str, above: frozenset[str]) -> frozenset[str]:
    facts = document.get(group)
    if not isinstance(facts, dict) or group in above:
        return frozenset()
    inner = (_members(document, child, above | {group}) for child in facts.get("children", []))
    return frozenset(facts.get("hosts", [])).union(*inner)


def remember_names(directory: str, found: Hosts) -> None:
    """Leaves `hosts` and `groups` there, a name a line, where shells that complete a command look. A directory that
    takes no file stays without: it is a help to who types, no more."""
    for kind, names in (("hosts", found.names), ("groups", frozenset(found.groups))):
        path, content = os.path.join(directory, kind), "".join(f"{name}\n" for name in sorted(names)).encode()
        with contextlib.suppress(OSError):
            if not os.path.exists(path) or read_bytes(path) != content:
                write_atomic(path, content, mode=0o644)
