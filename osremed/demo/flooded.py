"""One host of the flood: its service, what it declares, who asks it, and the run that mends it."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from functools import partial
from typing import Any

import yaml

from osremed.agent.answers import percentile
from osremed.core.errors import OsremedError
from osremed.core.event import Event, event_from_json
from osremed.core.evidence import load_bundle
from osremed.core.files import read_bytes, write_atomic
from osremed.core.journal import read_journal
from osremed.core.paths import host_paths
from osremed.core.record import record
from osremed.demo import host as hosts
from osremed.demo.control import Control
from osremed.demo.host import DemoHost
from osremed.demo.shipped import Shipped, widened
from osremed.flows.server import free_port
from osremed.hotspot.probes import Probe, ask
from osremed.runbook.model import ENDED, Run, RunState
from osremed.runbook.text import parse_text

SERVICE = "ota-gateway"
TRAP = "frequent-proc-reads"
RUNBOOK = "proc-read-storm"
_DEVICES = 1000
CONFIG = {"cache_s": 0, "turbo": False}
_PROBES_PER_S = 5.0
_SLOW_TIMES = 2  #: what takes so many times the median of a calm while is late
_RUN_TIMEOUT_S = 240
_DAEMONS = ("agent", "hotspot")


@record
class Switch:
    """What the service's owner declares. One of them does nothing."""

    name: str
    key: str
    on: int | bool
    off: int | bool


CACHE = Switch("ota-gateway-cache", "cache_s", 1, 0)
PLACEBO = Switch("ota-gateway-turbo", "turbo", True, False)


@record
class Flooded:
    """A host with its service running. `asked` is the file of the customers' requests."""

    host: DemoHost
    port: int
    config: str
    asked: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


def write_files(host: DemoHost, switch: Switch) -> str:
    """The guard's policy, the switch, and the service's configuration, whose path is returned."""
    etc = os.path.dirname(host.policy)
    config = os.path.join(host.prefix, "etc", "ota-gateway.json")
    policy = {
        "apiVersion": "osremed/v1",
        "kind": "FastoomPolicy",
        "sensitivity": "low",
        "scopes": [{"cgroup": host.group.path}],
        "protect": [{"cmdline": r"flood_gateway\.py"}],
        "prefer": [{"name": "ota-burst"}],
        "avoid": [],
        "overrides": {},
    }
    switches = declaration(switch, r"flood_gateway\.py .*" + host.name, config)
    for path, document in ((host.policy, policy), (f"{etc}/switches.json", switches), (config, CONFIG)):
        write_atomic(path, json_file(document))
    return config


def declaration(switch: Switch, cmdline: str, config: str) -> dict[str, Any]:
    """What the owner of the service says of it in /etc/osremed/switches.json."""
    declared = {
        "name": switch.name,
        "mends": TRAP,
        "cmdline": cmdline,
        "service": SERVICE,
        "file": config,
        "key": switch.key,
        "on": switch.on,
        "off": switch.off,
    }
    return {"apiVersion": "osremed/v1", "kind": "ServiceSwitches", "switches": [declared]}


def json_file(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


def narrowed(shipped: Shipped, folder: str, **guards: Any) -> Shipped:
    """With the runbook alone, below `folder`, for traps of the service, and with other guards: the recorder sees the
    whole machine, and whoever else reads /proc on it is not in this story."""
    book = os.path.join(shipped.runbooks, RUNBOOK, "runbook.yaml")
    document = parse_text(widened(read_bytes(book).decode()).encode(), book).data
    for trigger in document["on"]:
        trigger["where"] += f" and event.who.startswith('{SERVICE}[')"
    document["guards"].update(guards)
    folder = os.path.join(folder, "runbooks")
    os.makedirs(os.path.join(folder, RUNBOOK))
    text = yaml.safe_dump(document, sort_keys=False)
    write_atomic(os.path.join(folder, RUNBOOK, "runbook.yaml"), text.encode())
    return Shipped(folder, shipped.collections)


def start_service(host: DemoHost, switch: Switch) -> Flooded:
    """Returns when the service answers."""
    config, port = write_files(host, switch), free_port()
    service = f"{host.name}-gateway"
    hosts.start_workload(host, service, "flood_gateway.py", [port, config, _DEVICES])
    flooded = Flooded(host, port, config, os.path.join(host.prefix, "asked"))
    host.place.wait_for(f"{SERVICE} of {host.name} answers", lambda: _ask_s(flooded) is not None, 60, service)
    return flooded


def _ask_s(flooded: Flooded) -> float | None:
    answer = ask(Probe(SERVICE, flooded.url))
    return None if answer.error else answer.took_s


def calm_ms(flooded: Flooded) -> float:
    """Median of 40 answers, one after the other."""
    took = [_ask_s(flooded) for _ in range(40)]
    return 1000 * statistics.median(each for each in took if each is not None)


def watch_service(flooded: Flooded, slow_ms: float) -> None:
    """The recorder's policy names the service from now on."""
    path = os.path.join(os.path.dirname(flooded.host.policy), "hotspot.json")
    write_atomic(path, json_file(watching(flooded.url, slow_ms, _PROBES_PER_S)))
    status = hosts.daemon_status(flooded.host, "hotspot")
    if status is None:
        raise OsremedError(f"the recorder of {flooded.host.name} has no status file")
    os.kill(int(status["pid"]), signal.SIGHUP)


def watching(url: str, slow_ms: float, per_s: float) -> dict[str, Any]:
    """The recorder's policy."""
    probe = {"name": SERVICE, "url": url, "every_s": 1 / per_s, "slow_ms": round(min(slow_ms, 5000.0), 1)}
    return {"apiVersion": "osremed/v1", "kind": "HotspotPolicy", "probes": [probe]}


def late_ms(calm: float) -> float:
    return _SLOW_TIMES * calm


def start_recorder(host: DemoHost, traps_every_s: int = 8) -> None:
    """Looks for traps every few seconds instead of every five minutes: a story has no ten minutes."""
    argv = (*host.command, "hotspot", "run", "--segment", "2s", "--ceiling", "90%", "--traps", f"{traps_every_s}s")
    recorder = f"{host.name}-hotspot"
    host.place.start(recorder, argv)
    host.place.wait_for(f"hotspot of {host.name} records", partial(hosts.daemon_status, host, "hotspot"), 60, recorder)


def start_customers(flooded: Flooded, name: str, per_s: float) -> None:
    """Poisson arrivals, outside the control group."""
    script = os.path.join(os.path.dirname(__file__), "workloads", "poisson.py")
    argv = [sys.executable, "-I", "-S", script, str(flooded.port), str(per_s), "11", flooded.asked]
    flooded.host.place.start(f"{flooded.host.name}-{name}", argv)


def customers_p99_ms(asked: bytes, since_s: float | None, until_s: float | None) -> float | None:
    """As those who ask saw it, of requests that were due between two moments; None without one, or without a moment."""
    if since_s is None or until_s is None:
        return None
    rows = [line.split() for line in asked.decode().splitlines()]
    took = [float(row[1]) for row in rows if len(row) == 3 and since_s <= float(row[0]) < until_s]
    return percentile(took, 0.99) if took else None


def recorder_events(host: DemoHost, name: str) -> list[Event]:
    """Those of that name, oldest first."""
    directory = os.path.join(host_paths(host.prefix).events, "hotspot")
    if not os.path.isdir(directory):
        return []
    events = [event_from_json(entry.record) for entry in read_journal(directory).entries]
    return [event for event in events if event.name == name]


def ask_host(host: DemoHost, *words: str) -> dict[str, Any]:
    """The document that a verb of the on-host program prints."""
    ended = subprocess.run([*host.command, *words, "-o", "json"], capture_output=True, timeout=120, check=False)
    if ended.returncode not in (0, 1):
        said = ended.stderr.decode("utf-8", "replace")[-500:]
        raise OsremedError(f"osremed {' '.join(words)} ended with {ended.returncode}: {said}")
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def run_in(control: Control, host: DemoHost, runbook: str, *states: RunState) -> Run:
    """The first run of the runbook on this host that came to one of the states, or ended otherwise, which is for the
    caller to see."""

    look = partial(find_run, control, host.name, runbook, *states)
    what = f"{runbook} on {host.name} is {' or '.join(states) or 'ended'}"
    return host.place.wait_for(what, look, _RUN_TIMEOUT_S, "dispatcher", *(f"{host.name}-{each}" for each in _DAEMONS))


def find_run(control: Control, host: str, runbook: str, *states: RunState, after: Run | None = None) -> Run | None:
    """As `run_in` finds it, `after` another run; None while there is none."""
    runs, _damaged = control.store.runs()
    found = [run for run in runs if run.host == host and run.runbook == runbook]
    later = [run for run in found if after is None or run.raised_ns > after.raised_ns]
    return next((run for run in later if run.state in states or run.state in ENDED), None)


def approve(control: Control, run: Run) -> str:
    """By the command line, as a person does; what it says."""
    argv = [sys.executable, "-m", "osremed", "runs", "approve", run.run_id, "--state", control.paths.state]
    ended = subprocess.run([*argv, "--reason", "the owner declared it"], capture_output=True, timeout=60, check=False)
    if ended.returncode:
        raise OsremedError(f"the run was not approved: {ended.stderr.decode('utf-8', 'replace')[-500:]}")
    return ended.stdout.decode().strip()


def p99_before_ms(control: Control, run: Run) -> float | None:
    """As the evidence of the run has it."""
    told = load_bundle(control.store.of(run.run_id).bundle).items.get("answers", {})
    rows = [row for row in told.get("services", ()) if row["service"] == SERVICE]
    return float(rows[0]["p99_ms"]) if rows and not isinstance(rows[0]["p99_ms"], dict) else None


def moment_of(control: Control, run: Run, kind: str) -> float | None:
    """Seconds since the epoch of the first happening of that kind."""
    instants = [at_ns for at_ns, happening in control.store.happenings(run.run_id) if happening.kind == kind]
    return instants[0] / 1e9 if instants else None
