"""One host of a story: a prefix of its own with policy, guard and agent, and the workloads in the control group."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from osremed.core.canonical import sha256_hex
from osremed.core.errors import OsremedError
from osremed.core.event import Event, event_from_json
from osremed.core.files import read_bytes, write_atomic
from osremed.core.journal import read_journal
from osremed.core.paths import host_paths
from osremed.core.reading import Missing
from osremed.core.record import record
from osremed.demo.place import Place
from osremed.sensors import cgroup

_WORKLOADS = os.path.join(os.path.dirname(__file__), "workloads")


@record
class DemoHost:
    """`prefix` holds its /etc, /var and /run; `command` runs the on-host osremed there."""

    name: str
    prefix: str
    place: Place
    group: cgroup.Group
    command: tuple[str, ...]

    @property
    def policy(self) -> str:
        return host_paths(self.prefix).fastoom_policy


def host_program(zipapp: str) -> tuple[str, ...]:
    """The interpreter and program of the host plane: the zipapp isolated from every site package, or this package."""
    if os.path.isfile(zipapp):
        python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
        return python, "-I", "-S", "-B", os.path.abspath(zipapp)
    return sys.executable, "-m", "osremed"


def make_host(place: Place, name: str, group: cgroup.Group, zipapp: str, environment: Sequence[str] = ()) -> DemoHost:
    """`environment`: NAME=VALUE of all that osremed runs there."""
    prefix = os.path.join(place.state, "hosts", name)
    for directory in ("etc/osremed", "var/lib/osremed", "run/osremed"):
        os.makedirs(os.path.join(prefix, directory), mode=0o755, exist_ok=True)
    write_atomic(host_paths(prefix).host_name, name.encode() + b"\n")
    program = host_program(zipapp)
    return DemoHost(name, prefix, place, group, ("/usr/bin/env", f"OSREMED_PREFIX={prefix}", *environment, *program))


def write_policy(host: DemoHost) -> str:
    """The policy the story begins with; its SHA-256."""
    document = {
        "apiVersion": "osremed/v1",
        "kind": "FastoomPolicy",
        "sensitivity": "low",
        "scopes": [{"cgroup": host.group.path}],
        "protect": [{"cmdline": r"ota_gateway\.py"}],
        "prefer": [{"name": "logcollect"}],
        "avoid": [],
        "overrides": {},
    }
    data = json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
    write_atomic(host.policy, data)
    return sha256_hex(data)


def start_daemons(
    host: DemoHost, intake_url: str, token_file: str, daemons: Sequence[str] = ("fastoom", "agent")
) -> None:
    """The guard and the agent, or others; returns when all say they run."""
    config = {"intake_url": intake_url, "token_file": token_file}
    path = os.path.join(os.path.dirname(host.policy), "agent.json")
    write_atomic(path, json.dumps(config).encode(), mode=0o600)
    for daemon in daemons:
        name = f"{host.name}-{daemon}"
        host.place.start(name, (*host.command, daemon, "run"))
        host.place.wait_for(f"{daemon} of {host.name} is up", partial(daemon_status, host, daemon), 30, name)


def daemon_status(host: DemoHost, daemon: str) -> dict[str, Any] | None:
    """The daemon's status file, None while there is none."""
    try:
        document: dict[str, Any] = json.loads(read_bytes(os.path.join(host_paths(host.prefix).run, f"{daemon}.json")))
    except (FileNotFoundError, ValueError):
        return None
    return document


def resident_bytes(pid: int) -> int:
    """VmRSS of a process of ours. OsremedError when it has ended."""
    for line in read_bytes(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OsremedError(f"pid {pid} has ended")


def start_workload(host: DemoHost, name: str, script: str, arguments: Sequence[object], *, adj: int = 0) -> int:
    """A workload inside the control group; its pid."""
    argv = [sys.executable, "-I", "-S", os.path.join(_WORKLOADS, script), *map(str, arguments)]
    process = host.place.start(name, argv, inside=host.group)
    if adj:
        with open(f"/proc/{process.pid}/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write(str(adj))
    return process.pid


def available_bytes(host: DemoHost) -> int:
    reading = cgroup.memory(host.group)
    if isinstance(reading, Missing):
        raise OsremedError(f"the control group cannot be read: {reading}")
    return reading.value.available_bytes


def kernel_oom_kills(host: DemoHost) -> int:
    reading = cgroup.oom_kills(host.group)
    if isinstance(reading, Missing):
        raise OsremedError(f"the kernel's OOM counter cannot be read: {reading}")
    return reading.value


def events_of(host: DemoHost) -> list[Event]:
    """What the guard decided, oldest first."""
    directory = os.path.join(host_paths(host.prefix).events, "fastoom")
    if not os.path.isdir(directory):
        return []
    events = [event_from_json(entry.record) for entry in read_journal(directory).entries]
    return [event for event in events if event.name == "memory.near_oom"]


def stop_reading_signal() -> None:
    """A story that is interrupted still tears its place down."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
