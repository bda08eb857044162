"""The launch event: requests and memory flood in, the service answers late, the trap is named and mended, and a switch
that does nothing is taken back."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Sequence
from typing import Any

from osremed.core.answer import Answer
from osremed.core.errors import ExitCode
from osremed.core.event import Event
from osremed.core.files import read_bytes
from osremed.core.units import format_bytes
from osremed.demo import flooded as floods
from osremed.demo import host as hosts
from osremed.demo.control import Control, how_to_stop, prefect, start_dispatcher, write_inventory
from osremed.demo.flood_summary import Launch, Lookback, Mending, Placebo, claims_of, document_of, lookback_of, text_of
from osremed.demo.flooded import CACHE, PLACEBO, RUNBOOK, Flooded
from osremed.demo.host import DemoHost
from osremed.demo.place import open_place, require, say
from osremed.demo.shipped import Shipped, find_shipped
from osremed.flows.server import Server
from osremed.runbook.model import Run, RunState

MIB = 1 << 20
LIMIT_BYTES = 320 * MIB
_CALM_PER_S = 2.0
#: How much of the service's time its customers take, and in the peak besides: as measured in the calm, at most so many
#: requests a second.
_FLOOD, _PEAK = (0.3, 25.0), (0.45, 60.0)
_BURSTS, _BURST_MIB, _BURST_MIB_S = 2, 240, 30


def command_flood(*, collections: str, seconds: int = 15, keep: bool = False, state: str | None = None) -> Answer:
    """`seconds`: how long memory floods in; requests flood until the run has ended. Exit code 0 if every claim held."""
    require("control groups, namespaces and BPF", bpf=True)
    hosts.stop_reading_signal()
    shipped = find_shipped(collections)
    state = os.path.abspath(state or os.path.join(".osremed", "command-flood"))
    for folder in ("hosts", "control", "logs", "runbooks"):
        shutil.rmtree(os.path.join(state, folder), ignore_errors=True)
    with prefect(state, keep=keep) as server:
        launch, placebo = _tell(state, shipped, server, seconds)
    claims = claims_of(launch, placebo)
    ending = how_to_stop(server) if keep else ""
    text = "\n".join((*text_of(launch, placebo, claims), ending)).rstrip()
    code = ExitCode.OK if all(claims.values()) else ExitCode.FAILED
    return Answer(document_of(launch, placebo, claims), text, code)


def _tell(state: str, shipped: Shipped, server: Server, seconds: int) -> tuple[Launch, Placebo]:
    name = f"/osremed-demo-{uuid.uuid4().hex[:8]}"
    with open_place(state) as place:
        launch_host, placebo_host = (
            hosts.make_host(place, each, place.make_group(f"{name}-{each}", LIMIT_BYTES), shipped.zipapp)
            for each in ("demo-launch", "demo-placebo")
        )
        inventory = write_inventory(state, [launch_host, placebo_host])
        control = start_dispatcher(place, server, inventory, floods.narrowed(shipped, state))
        say(f"the dispatcher takes events at {control.intake_url}")
        launch = _launch(launch_host, control, seconds)
        place.end(launch_host.name)
        placebo = _placebo(placebo_host, control)
        place.end(placebo_host.name)
        return launch, placebo


def _launch(host: DemoHost, control: Control, seconds: int) -> Launch:
    service = floods.start_service(host, CACHE)
    hosts.start_workload(host, f"{host.name}-logcollect", "hold.py", ["logcollect", 14])
    hosts.start_daemons(host, control.intake_url, control.paths.token)
    # A trap is told at the second look: the first evidence is of the time after the peak, as the last one is.
    floods.start_recorder(host, max(8, seconds // 2 + 4))
    say(f"{host.name}: control group {host.group.path}, limit {format_bytes(LIMIT_BYTES)}")
    floods.start_customers(service, "calm", _CALM_PER_S)
    calm_ms = floods.calm_ms(service)
    say(f"{host.name}: calm: an answer takes {calm_ms:.1f} ms; one above {floods.late_ms(calm_ms):.0f} ms is late")
    floods.watch_service(service, floods.late_ms(calm_ms))
    flood_ns = time.time_ns()
    rates = [_rate(share, calm_ms) for share in (_FLOOD, _PEAK)]
    for name, per_s in zip(("flood", "peak"), rates, strict=True):
        floods.start_customers(service, name, per_s)
    say(f"{host.name}: the launch: {sum(rates) + _CALM_PER_S:.0f} requests/s and memory flood in for {seconds} s")
    _flood_memory(host, seconds)
    host.place.end(f"{host.name}-peak")
    peak_over_s = time.time()
    say(f"{host.name}: the peak is over; {rates[0] + _CALM_PER_S:.0f} requests/s go on")
    jitter = _jitter(host, flood_ns)
    sign = jitter.attributes["signs"][0]
    say(f"{host.name}: an answer took {1000 * sign['value']:.0f} ms at {_clock(jitter.attributes['second_ns'])}")
    lookback = _look_back(host, jitter)
    say(f"{host.name}: on the CPU in that second: {lookback.hottest}")
    say(f"{host.name}: the trap there: {lookback.summary}; advice: {lookback.fix}")
    mending = _mend(service, control, peak_over_s)
    return Launch(
        host=host.name,
        seconds=seconds,
        calm_ms=calm_ms,
        oom_events=tuple(hosts.events_of(host)),
        gateway_alive=host.place.is_alive(f"{host.name}-gateway"),
        logcollect_alive=host.place.is_alive(f"{host.name}-logcollect"),
        kernel_oom_kills=hosts.kernel_oom_kills(host),
        jitter=jitter,
        flood_ns=flood_ns,
        lookback=lookback,
        mending=mending,
    )


def _placebo(host: DemoHost, control: Control) -> Placebo:
    """The same service and the same load; what its owner declared for the trap does nothing."""
    service = floods.start_service(host, PLACEBO)
    hosts.start_daemons(host, control.intake_url, control.paths.token)
    floods.start_recorder(host)
    per_s = _rate(_FLOOD, floods.calm_ms(service)) + _CALM_PER_S
    floods.watch_service(service, 5000.0)  # asked, and never late enough to be told
    began_s = time.time()
    floods.start_customers(service, "flood", per_s)
    say(f"{host.name}: {per_s:.0f} requests/s; the switch that is declared here does nothing")
    return Placebo(host.name, _mend(service, control, began_s), host.place.is_alive(f"{host.name}-gateway"))


def _rate(share: tuple[float, float], calm_ms: float) -> float:
    busy, most_per_s = share
    return min(most_per_s, busy / (calm_ms / 1000))


def _flood_memory(host: DemoHost, seconds: int) -> None:
    """Two processes at a time that grow until somebody ends them, for so long."""
    until_s, number = time.monotonic() + seconds, 0
    names: list[str] = []
    told = 0
    while time.monotonic() < until_s:
        names = [name for name in names if host.place.is_alive(name)]
        if len(names) < _BURSTS:
            number += 1
            names.append(f"{host.name}-burst-{number}")
            hosts.start_workload(host, names[-1], "hold.py", ["ota-burst", 4, _BURST_MIB_S, _BURST_MIB])
        acted = [event for event in hosts.events_of(host) if event.attributes.get("killed")]
        for event in acted[told:]:
            ended = ", ".join(
                f"{each['name']} {format_bytes(each['heap_bytes'])}" for each in event.attributes["killed"]
            )
            say(f"{host.name}: FastOOM at {event.attributes['available_ratio']:.1%} available ended {ended}")
        told = len(acted)
        time.sleep(0.5)
    host.place.end(f"{host.name}-burst")


def _jitter(host: DemoHost, flood_ns: int) -> Event:
    """The first late answer that the recorder told since the flood began."""

    def look() -> Event | None:
        told = floods.recorder_events(host, "latency.jitter")
        late = [event for event in told if event.attributes["source"] == "probe" and event.time_ns >= flood_ns]
        return late[0] if late else None

    needs = (f"{host.name}-gateway", f"{host.name}-hotspot")
    return host.place.wait_for(f"a late answer on {host.name} is told", look, 120, *needs)


def _look_back(host: DemoHost, jitter: Event) -> Lookback:
    """Through the verbs that a person would use, on the second that the event names."""
    second_ns = int(jitter.attributes["second_ns"])
    ready_ns = second_ns + 8 * 10**9  # the window is written
    time.sleep(max(0.0, (ready_ns - time.time_ns()) / 1e9))
    at = floods.ask_host(host, "hotspot", "at", str(second_ns), "--window", "2s")
    traps = floods.ask_host(host, "hotspot", "traps", str(second_ns), "--window", "10s")
    return lookback_of(at, traps)


def _mend(service: Flooded, control: Control, flood_s: float) -> Mending:
    """The run of the trap: approved by somebody, applied, proven or taken back."""
    host, before = service.host, read_bytes(service.config)
    waiting = floods.run_in(control, host, RUNBOOK, RunState.AWAITING_APPROVAL)
    if waiting.state is RunState.AWAITING_APPROVAL:
        for finding in waiting.findings:
            say(f"{host.name}: finding {finding.name}: {finding.summary}")
        say(f"{host.name}: {floods.approve(control, waiting)}")
    run = floods.run_in(control, host, RUNBOOK)
    say(f"{host.name}: run {run.run_id} {run.state.value}: {run.reason}")
    left = floods.ask_host(host, "agent", "undo", "list").get("pending", ())
    asked = read_bytes(service.asked)
    config = (before, read_bytes(service.config))
    return mending_of(control, run, since_s=flood_s, asked=asked, config=config, undo_left=left)


def mending_of(
    control: Control, run: Run, *, since_s: float, asked: bytes, config: tuple[bytes, bytes], undo_left: Sequence[Any]
) -> Mending:
    """`asked`: the customers' requests, those since `since_s` count. `config`: the service's, before and after."""
    changed_s, verdict_s = (floods.moment_of(control, run, kind) for kind in ("applied", "verified"))
    windows = ((since_s, changed_s), (changed_s, verdict_s))
    customers = [floods.customers_p99_ms(asked, *each) for each in windows]
    return Mending(
        run=run,
        approved_by=next((each.by for _, each in control.store.happenings(run.run_id) if each.kind == "approved"), ""),
        p99_before_ms=floods.p99_before_ms(control, run),
        customers_before_ms=customers[0],
        customers_after_ms=customers[1],
        config_before=config[0],
        config_after=config[1],
        undo_left=tuple(undo_left),
        report=control.store.of(run.run_id).report,
    )


def _clock(at_ns: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_ns // 10**9))
