"""The near-OOM story: exporters, logcollect, then the hog; the service never. And a change that does not help."""

from __future__ import annotations

import os
import shutil
import threading
import time
import urllib.error
import urllib.request
import uuid

from osremed.core.answer import Answer
from osremed.core.canonical import sha256_hex
from osremed.core.errors import ExitCode, OsremedError
from osremed.core.event import Event
from osremed.core.files import read_bytes
from osremed.core.record import record
from osremed.core.units import format_bytes
from osremed.demo import host as hosts
from osremed.demo.control import Control, how_to_stop, prefect, shown_in_prefect_ns, start_dispatcher, write_inventory
from osremed.demo.host import DemoHost
from osremed.demo.place import open_place, require, say
from osremed.demo.shipped import Shipped, acting, find_shipped
from osremed.demo.summary import Chapter, summary_document, summary_text
from osremed.flows.server import Server, free_port
from osremed.runbook.model import Run, RunState

MIB = 1 << 20
LIMIT_BYTES = 512 * MIB
#: What stays available when the slow leak begins: 7 % of the limit, above `low` (4 %), below what is to be held.
_LEFT_BYTES = 38 * MIB
_LEAK_MIB_S = 1.2
_RUN_TIMEOUT_S = 180


@record
class Workloads:
    gateway_port: int
    heartbeat: str


class Customer(threading.Thread):
    """Asks the gateway ten times a second, one request at a time, until stopped; counts what it got."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.answered, self.failed, self.slowest_ms = 0, 0, 0.0
        self._url, self._stop_asking = f"http://127.0.0.1:{port}/", threading.Event()

    def run(self) -> None:
        while not self._stop_asking.wait(0.1):
            began = time.monotonic()
            try:
                with urllib.request.urlopen(self._url, timeout=5) as answer:
                    answer.read()
                self.answered += 1
            except (OSError, urllib.error.URLError):
                self.failed += 1
            self.slowest_ms = max(self.slowest_ms, (time.monotonic() - began) * 1000)

    def end(self) -> None:
        self._stop_asking.set()
        self.join(10)


def _gateway(host: DemoHost, shared_mib: int = 0) -> Workloads:
    port, heartbeat = free_port(), os.path.join(host.prefix, "heartbeat")
    arguments: list[object] = [port, heartbeat] + ([shared_mib] if shared_mib else [])
    service = f"{host.name}-ota-gateway"
    hosts.start_workload(host, service, "ota_gateway.py", arguments)
    host.place.wait_for("ota-gateway answers", lambda: os.path.exists(heartbeat), 30, service)
    return Workloads(port, heartbeat)


def _bystanders(host: DemoHost) -> None:
    for number in (1, 2):
        hosts.start_workload(host, f"{host.name}-exporter-{number}", "hold.py", [f"exporter-{number}", 4], adj=999)
    hosts.start_workload(host, f"{host.name}-logcollect", "hold.py", ["logcollect", 14])
    tiles = os.path.join(host.prefix, "tiles.bin")
    reader = f"{host.name}-map-reader"
    hosts.start_workload(host, reader, "cache_reader.py", [tiles, 48])

    def whole() -> bool:
        return os.path.exists(tiles) and os.path.getsize(tiles) == 48 * MIB

    host.place.wait_for("the map reader has its file", whole, 30, reader)


def _first_event(host: DemoHost) -> Event:
    def look() -> Event | None:
        acted = [event for event in hosts.events_of(host) if event.attributes.get("level") in ("medium", "high")]
        return acted[0] if acted else None

    return host.place.wait_for(f"FastOOM steps in on {host.name}", look, 120, f"{host.name}-fastoom")


def _run_of(control: Control, host: DemoHost) -> Run:
    """The ended run of this host that a guard let in."""

    def look() -> Run | None:
        runs, _damaged = control.store.runs()
        ended = [run for run in runs if run.host == host.name and run.ended and run.state is not RunState.REFUSED]
        return ended[0] if ended else None

    needs = ("dispatcher", f"{host.name}-agent", f"{host.name}-fastoom")
    return host.place.wait_for(f"the run on {host.name} ends", look, _RUN_TIMEOUT_S, *needs)


def _heartbeat(path: str) -> float:
    return float(read_bytes(path).split()[0])


def _chapter(host: DemoHost, control: Control, work: Workloads, customer: Customer, before: str) -> Chapter:
    event = _first_event(host)
    killed = ", ".join(str(item["name"]) for item in event.attributes.get("killed", ())) or "nobody"
    say(f"{host.name}: FastOOM acted at {event.attributes['available_ratio']:.1%} available; ended: {killed}")
    run = _run_of(control, host)
    say(f"{host.name}: run {run.run_id} {run.state.value}: {run.reason}")
    return Chapter(
        host=host.name,
        event=event,
        events=tuple(hosts.events_of(host)),
        run=run,
        happenings=control.store.happenings(run.run_id),
        shown_ns=shown_in_prefect_ns(control.server, run.run_id),
        report=control.store.of(run.run_id).report,
        policy_before=before,
        policy_after=sha256_hex(read_bytes(host.policy)),
        gateway_alive=host.place.is_alive(f"{host.name}-ota-gateway"),
        heartbeat_gap_ms=_heartbeat(work.heartbeat),
        answered=customer.answered,
        failed=customer.failed,
        slowest_ms=customer.slowest_ms,
        kernel_oom_kills=hosts.kernel_oom_kills(host),
        resident={
            "fastoom": hosts.resident_bytes(_pid(host, "fastoom")),
            "agent": hosts.resident_bytes(_pid(host, "agent")),
            "dispatcher": hosts.resident_bytes(control.dispatcher_pid),
        },
    )


def _pid(host: DemoHost, daemon: str) -> int:
    status = hosts.daemon_status(host, daemon)
    if status is None:
        raise OsremedError(f"{daemon} of {host.name} has no status file")
    return int(status["pid"])


def _peak(host: DemoHost, control: Control, before: str) -> Chapter:
    """A leak: raising the sensitivity helps."""
    work = _gateway(host)
    _bystanders(host)
    customer = Customer(work.gateway_port)
    customer.start()
    heap_mib = (hosts.available_bytes(host) - _LEFT_BYTES) // MIB
    say(f"{host.name}: worker takes {heap_mib} MiB at once, then leaks {_LEAK_MIB_S} MiB a second")
    arguments = ["ota-worker", heap_mib, _LEAK_MIB_S, heap_mib + 200]
    hosts.start_workload(host, f"{host.name}-ota-worker", "hold.py", arguments)
    try:
        return _chapter(host, control, work, customer, before)
    finally:
        customer.end()


def _shared(host: DemoHost, control: Control, before: str) -> Chapter:
    """Shared memory of the protected service: nothing that may be ended frees it, so no policy helps."""
    shared_mib = (LIMIT_BYTES - 56 * MIB) // MIB
    _bystanders(host)
    say(f"{host.name}: ota-gateway fills {shared_mib} MiB of shared memory")
    work = _gateway(host, shared_mib)
    customer = Customer(work.gateway_port)
    customer.start()
    try:
        return _chapter(host, control, work, customer, before)
    finally:
        customer.end()


_STORIES = (("demo-peak", _peak), ("demo-shared", _shared))


def near_oom(*, collections: str, keep: bool = False, state: str | None = None) -> Answer:
    """Both halves of the story. Exit code 0 when each ended as it must."""
    hint = "run as root; without root these work: osremed doctor, osremed runbook lint|test"
    require("control groups and signals", hint=hint)
    hosts.stop_reading_signal()
    shipped = find_shipped(collections)
    state = os.path.abspath(state or os.path.join(".osremed", "demo"))
    for folder in ("hosts", "control", "logs"):
        shutil.rmtree(os.path.join(state, folder), ignore_errors=True)
    shipped = acting(shipped, state, "near-oom")
    with prefect(state, keep=keep) as server:
        chapters = _tell(state, shipped, server)
    ending = "everything was taken away again; --keep (make demo KEEP=1) leaves the Prefect UI up"
    good = all(chapter.ended_well for chapter in chapters)
    text = summary_text(chapters) + "\n\n" + (how_to_stop(server) if keep else ending)
    return Answer(summary_document(chapters), text, ExitCode.OK if good else ExitCode.FAILED)


def _tell(state: str, shipped: Shipped, server: Server) -> list[Chapter]:
    name = f"/osremed-demo-{uuid.uuid4().hex[:8]}"
    with open_place(state) as place:
        pairs = []
        for host_name, tell in _STORIES:
            group = place.make_group(f"{name}-{host_name}", LIMIT_BYTES)
            pairs.append((hosts.make_host(place, host_name, group, shipped.zipapp), tell))
        control = start_dispatcher(place, server, write_inventory(state, [host for host, _tell in pairs]), shipped)
        say(f"the dispatcher takes events at {control.intake_url}")
        chapters = []
        for host, tell in pairs:
            say(f"{host.name}: control group {host.group.path}, limit {format_bytes(LIMIT_BYTES)}, sensitivity low")
            before = hosts.write_policy(host)
            hosts.start_daemons(host, control.intake_url, control.paths.token)
            chapters.append(tell(host, control, before))
            place.end(host.name)
        return chapters
