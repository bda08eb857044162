"""The control plane of a story: Prefect, the dispatcher, an inventory of its hosts, and the collection it calls."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import datetime

from osremed.core.files import write_atomic
from osremed.core.record import record
from osremed.demo.host import DemoHost
from osremed.demo.place import Place, say
from osremed.demo.shipped import Shipped
from osremed.flows.server import Server, free_port, prefect_is_up, start_server, stop_server
from osremed.flows.settings import ControlPaths
from osremed.runbook.store import RunStore


@record
class Control:
    server: Server
    paths: ControlPaths
    intake_url: str
    dispatcher_pid: int

    @property
    def store(self) -> RunStore:
        return RunStore(self.paths.runs)


def write_inventory(state: str, hosts: Sequence[DemoHost]) -> str:
    """All hosts are this machine, each with a prefix and a command of its own."""
    variables = {
        host.name: {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "osremed_prefix": host.prefix,
            "osremed_command": list(host.command),
        }
        for host in hosts
    }
    path = os.path.join(state, "inventory.json")
    write_atomic(path, json.dumps({"all": {"hosts": variables}}, indent=2).encode())
    return path


def start_dispatcher(place: Place, server: Server, inventory: str, shipped: Shipped, *, port: int = 0) -> Control:
    """Returns when its intake is ready for events, on a free port if none is given."""
    paths = ControlPaths(os.path.join(place.state, "control"))
    port = port or free_port()
    argv = [
        *(sys.executable, "-m", "osremed", "dispatcher", "--state", paths.state),
        *("--runbooks", shipped.runbooks, "--collections", shipped.collections),
        *("--inventory", inventory, "--api-url", server.api_url, "--port", str(port)),
    ]
    process = place.start("dispatcher", argv)
    url = f"http://127.0.0.1:{port}"
    place.wait_for("the dispatcher is ready", lambda: prefect_is_up(f"{url}/v1"), 120, "dispatcher")
    return Control(server, paths, url, process.pid)


@contextlib.contextmanager
def prefect(state: str, *, keep: bool) -> Iterator[Server]:
    """A server of the story's own, stopped at the end unless the story was told whole and it is to be kept."""
    say("starting Prefect (a new database takes a quarter of a minute)")
    server = start_server(os.path.join(state, "prefect"))
    kept = False
    try:
        say(f"Prefect is up: {server.ui_url}")
        yield server
        kept = keep
    finally:
        if not kept:
            stop_server(server)


def how_to_stop(server: Server) -> str:
    """What is said of a server that was kept."""
    return f"Prefect UI: {server.ui_url}  (stop it with: kill -INT {server.process.pid})"


def shown_in_prefect_ns(server: Server, run_id: str) -> int | None:
    """When Prefect first had the run, None if it never did."""
    body = json.dumps({"flow_runs": {"tags": {"all_": [f"run:{run_id}"]}}, "sort": "START_TIME_ASC"}).encode()
    request = urllib.request.Request(f"{server.api_url}/flow_runs/filter", data=body, method="POST")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        runs = json.loads(answer.read())
    return round(datetime.fromisoformat(runs[0]["created"]).timestamp() * 1e9) if runs else None
