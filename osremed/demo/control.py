"""The control plane of a story: Prefect, the dispatcher, an inventory of its hosts, and the collection it calls."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Sequence
from datetime import datetime

from osremed.core.errors import NotFound
from osremed.core.files import write_atomic
from osremed.core.record import record
from osremed.demo.host import DemoHost
from osremed.demo.place import Place, wait_for
from osremed.flows.server import Server, free_port, prefect_is_up, start_server
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


def find_folder(root: str, name: str) -> str:
    path = os.path.join(root, name)
    if not os.path.isdir(path):
        raise NotFound(f"no folder {name!r}", where=root, hint="run the demo from a checkout of osremed")
    return path


def start_dispatcher(
    place: Place, server: Server, inventory: str, root: str, *, port: int = 0, runbooks: str = ""
) -> Control:
    """Returns when its intake is ready for events, on a free port if none is given. `runbooks`: a folder of others than
    the shipped ones."""
    paths = ControlPaths(os.path.join(place.state, "control"))
    port = port or free_port()
    argv = [
        *(sys.executable, "-m", "osremed", "dispatcher", "--state", paths.state),
        *("--runbooks", runbooks or find_folder(root, "runbooks"), "--collections", find_folder(root, "collections")),
        *("--inventory", inventory, "--api-url", server.api_url, "--port", str(port)),
    ]
    process = place.start("dispatcher", argv)
    url = f"http://127.0.0.1:{port}"
    wait_for("the dispatcher is ready", lambda: prefect_is_up(f"{url}/v1"), 120)
    return Control(server, paths, url, process.pid)


def start_prefect(state: str) -> Server:
    return start_server(os.path.join(state, "prefect"))


def shown_in_prefect_ns(server: Server, run_id: str) -> int | None:
    """When Prefect first had the run, None if it never did."""
    body = json.dumps({"flow_runs": {"tags": {"all_": [f"run:{run_id}"]}}, "sort": "START_TIME_ASC"}).encode()
    request = urllib.request.Request(f"{server.api_url}/flow_runs/filter", data=body, method="POST")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        runs = json.loads(answer.read())
    return round(datetime.fromisoformat(runs[0]["created"]).timestamp() * 1e9) if runs else None
