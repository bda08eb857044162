"""The stage of the VRAM story: a driver and CUDA that are none, an inference server kept as a unit, a witness, and the
shipped runbook as a site would make it its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from osremed.core.errors import Unavailable
from osremed.core.files import read_bytes, write_atomic
from osremed.core.record import record
from osremed.demo import fakecuda, fakenvml
from osremed.demo import host as hosts
from osremed.demo.host import DemoHost
from osremed.demo.place import Place, require
from osremed.demo.shipped import Shipped, widened
from osremed.flows.server import free_port
from osremed.runbook.text import parse_text

MIB = 1 << 20
GPU_MIB = 46068  #: an L20, as in the published case
SERVED_MIB = 37 * 1024  #: weights and KV cache: 0.82 of it; the rest lasts for five minutes of requests
RUNBOOK = "gpu-vram-growth"
APPROVER = "ana"
_REQUEST_EVERY_S = 1.0
_WINDOW_S, _INTERVAL_S = 10.0, 0.5
#: The watch looks back ten seconds here and not ten minutes, and so the proof need not last longer either.
_VERIFY = {"within": "60s", "for": "20s"}
_HEALTHY_S = 60
_GROUP_BYTES = 512 * MIB
_WORKLOADS = os.path.join(os.path.dirname(__file__), "workloads")
SERVER, WITNESS = (os.path.join(_WORKLOADS, name) for name in ("vllm_server.py", "vram_witness.py"))
_KEEPER = os.path.join(_WORKLOADS, "unit_keeper.py")
_PYTHON = (sys.executable, "-I", "-S")


@record
class Stage:
    """What all hosts share: the folder of all that is made, the built libraries, the port of the server, and the socket
    of who keeps the units."""

    folder: str
    libraries: str
    port: int
    socket: str


@record
class Service:
    """The server of one host. `environment`: NAME=VALUE that leads a program to the driver of its GPUs."""

    unit: str
    ledger: str
    environment: tuple[str, ...]
    witness: str

    @property
    def name(self) -> str:
        return os.path.basename(self.unit)

    @property
    def drop_in(self) -> str:
        return os.path.join(f"{self.unit}.d", "90-osremed-gpu.conf")


def check_machine() -> None:
    """Unavailable, with what is missing, where the story cannot be told."""
    require("control groups and BPF probes", bpf=True)
    if importlib.util.find_spec("pynvml") is None:
        hint = "pip install 'osremed[gpu]'"
        raise Unavailable("NVIDIA's own binding, nvidia-ml-py, witnesses the story and is not installed", hint=hint)


def build_stage(folder: str) -> Stage:
    """Unavailable without a C compiler."""
    directory = Path(folder, "libraries")
    directory.mkdir(parents=True)
    hint = "apt-get install gcc libc6-dev: the GPUs of this story are two small C programs, built before it begins"
    try:
        fakecuda.build(directory)
        fakenvml.build(directory)
    except FileNotFoundError as error:
        raise Unavailable("there is no C compiler: the program `cc`", hint=hint) from error
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"`cc` ended with {error.returncode}: it said why above", hint=hint) from error
    return Stage(folder, str(directory), free_port(), os.path.join(folder, "keeper.socket"))


def fitted(
    shipped: Shipped, folder: str, port: int, *, verify: Mapping[str, str] = _VERIFY, healthy_s: int = _HEALTHY_S
) -> Shipped:
    """With the runbook alone, written below `folder`, told how to ask the server at this port for its health and with
    waits that fit the windows of the watch there."""
    book = os.path.join(shipped.runbooks, RUNBOOK, "runbook.yaml")
    document = parse_text(widened(read_bytes(book).decode()).encode(), book).data
    document["verify"][0].update(verify)
    restart = next(step for step in document["remediate"] if step["action"] == "service_restart")
    health = {"url": f"http://127.0.0.1:{port}/health", "hold_s": 3}
    restart["with"].update(health=health, timeout_s=healthy_s, min_interval_s=5)
    folder = os.path.join(folder, "runbooks")
    os.makedirs(os.path.join(folder, RUNBOOK))
    text = yaml.safe_dump(document, sort_keys=False)
    write_atomic(os.path.join(folder, RUNBOOK, "runbook.yaml"), text.encode())
    return Shipped(folder, shipped.collections)


# --- units ---


def _units(host: DemoHost) -> str:
    return os.path.join(host.prefix, "etc/systemd/system")


def start_keeper(stage: Stage, place: Place, hosts_with_units: list[DemoHost]) -> str:
    """Who keeps the units; the value of PATH with which `systemctl` asks it."""
    argv = [*_PYTHON, _KEEPER, "keep", stage.socket, *map(_units, hosts_with_units)]
    place.start("keeper", argv)
    place.wait_for("the keeper of units listens", lambda: os.path.exists(stage.socket), 30, "keeper")
    directory = os.path.join(stage.folder, "bin")
    os.makedirs(directory)
    words = shlex.join([*_PYTHON, _KEEPER, "ask", stage.socket])
    write_atomic(os.path.join(directory, "systemctl"), f'#!/bin/sh\nexec {words} "$@"\n'.encode(), mode=0o755)
    return f"{directory}:{os.environ['PATH']}"


def systemctl(stage: Stage, *words: str) -> None:
    argv = [*_PYTHON, _KEEPER, "ask", stage.socket, *words]
    subprocess.run(argv, check=True, timeout=60, stdin=subprocess.DEVNULL)


# --- one host ---


def make_gpu_host(place: Place, stage: Stage, name: str, zipapp: str, *, keeps: bool) -> tuple[DemoHost, Service]:
    """A host with two GPUs, a watch that looks back seconds and not minutes, and a server that does not run yet."""
    unit = f"osremed-demo-{uuid.uuid4().hex[:8]}-vllm.service"
    ledger = os.path.join(stage.folder, "vram", name)
    os.makedirs(ledger)
    scenario = two_gpus(f"{ledger}.scenario", ledger)
    environment = leading_to(stage.libraries, scenario)
    host = hosts.make_host(place, name, place.make_group(f"/{unit}", _GROUP_BYTES), zipapp, environment)
    os.makedirs(_units(host))
    witness = os.path.join(host.prefix, "witness.jsonl")
    service = Service(os.path.join(_units(host), unit), ledger, environment, witness)
    policy = os.path.join(os.path.dirname(host.policy), "timeline.json")
    write_atomic(policy, watch_policy(interval_s=_INTERVAL_S, growth_window_s=_WINDOW_S))
    program = [*_PYTHON, SERVER, *server_words(stage.libraries, stage.port, _REQUEST_EVERY_S, keeps=keeps)]
    group = f"X-Group={host.group.directory}/cgroup.procs"
    write_atomic(service.unit, server_unit(service.ledger, program, group))
    return host, service


def two_gpus(scenario: str, ledger: str) -> str:
    """The file `scenario`, for the fake driver: two GPUs whose memory is what the ledger says."""
    told = fakenvml.Scenario(Path(scenario))
    told.set(gpus=2, ledger=ledger, all__name="NVIDIA L20", all__vram_used=0, all__vram_total=GPU_MIB * MIB)
    return scenario


def leading_to(libraries: str, scenario: str) -> tuple[str, ...]:
    """NAME=VALUE that leads a program to the driver of such GPUs."""
    return f"LD_LIBRARY_PATH={libraries}", f"OSREMED_FAKE_NVML={scenario}"


def watch_policy(**windows: float) -> bytes:
    """Of a watch that looks back seconds and not minutes, and looks for no dumps and traces."""
    words = {"apiVersion": "osremed/v1", "kind": "TimelinePolicy", "dumps": "", "trace_every_s": 0}
    return json.dumps({**words, **windows}, indent=2).encode()


def server_words(libraries: str, port: int, every_s: float, *, keeps: bool) -> list[str]:
    """What the server is told. `keeps`: the program itself holds on to its scratch memory."""
    return [libraries, str(port), str(SERVED_MIB), str(every_s), str(int(keeps))]


def server_unit(ledger: str, program: Sequence[str], *more: str) -> bytes:
    """The text of its unit; `more` are lines of [Service]."""
    lines = [
        "[Service]",
        *more,
        f'Environment="FAKE_VRAM={ledger}:{GPU_MIB}" FAKE_ALLOWED_MIB={GPU_MIB}',
        f"ExecStart={shlex.join(program)}",
    ]
    return ("\n".join(lines) + "\n").encode()


def start_server(host: DemoHost, stage: Stage, service: Service) -> None:
    """Returns when it serves and is witnessed."""
    systemctl(stage, "daemon-reload")
    systemctl(stage, "start", service.name)
    host.place.wait_for("the server serves", lambda: health(stage), 60, "keeper")
    argv = ["/usr/bin/env", *service.environment, sys.executable, WITNESS, service.witness, str(_INTERVAL_S)]
    host.place.start(f"{host.name}-witness", argv)


def health(stage: Stage) -> dict[str, Any] | None:
    """What the server says of itself; None while it does not serve."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{stage.port}/health", timeout=5) as answer:
            document: dict[str, Any] = json.loads(answer.read())
            return document
    except (OSError, urllib.error.URLError):
        return None
