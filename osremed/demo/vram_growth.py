"""The VRAM story: memory of two GPUs grows though the KV cache is not full, is explained, limited, and proved to be
flat; and the same limit on a program that itself holds on to its memory, which is undone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from osremed.core.answer import Answer
from osremed.core.errors import ExitCode, OsremedError, Unavailable
from osremed.core.event import Event, event_from_json
from osremed.core.files import read_bytes
from osremed.core.journal import read_journal
from osremed.core.paths import host_paths
from osremed.demo import host as hosts
from osremed.demo import vram_stage as stages
from osremed.demo.control import Control, how_to_stop, prefect, start_dispatcher, write_inventory
from osremed.demo.host import DemoHost
from osremed.demo.place import open_place, say
from osremed.demo.shipped import Shipped, find_shipped
from osremed.demo.vram_stage import APPROVER, Service, Stage
from osremed.demo.vram_summary import Chapter, read_sights, summary_document, summary_text, write_page
from osremed.flows.server import Server
from osremed.runbook.model import Run, RunState

_STORIES = (("demo-reserve", False), ("demo-leak", True))
_ACTED = (RunState.SUCCEEDED, RunState.UNDONE, RunState.UNDO_INCOMPLETE)


def _followed(host: DemoHost, count: int) -> list[str] | None:
    """The names of the processes whose calls of CUDA are followed, once there are `count`."""
    calls = (hosts.daemon_status(host, "timeline") or {}).get("calls") or {}
    if "missing" in calls:
        raise Unavailable(f"calls of CUDA cannot be followed: {calls['missing']}: {calls['detail']}")
    names = sorted(each["name"] for each in calls.get("processes", ()) if each["name"].startswith("vllm-worker"))
    return names if len(names) >= count else None


def _alert(host: DemoHost) -> Event | None:
    """The first alert of the watch about growth."""
    directory = os.path.join(host_paths(host.prefix).events, "timeline")
    if not os.path.isdir(directory):
        return None
    for entry in read_journal(directory).entries:
        event = event_from_json(entry.record)
        if event.name == "gpu.vram_growth" and event.attributes["state"] == "raised":
            return event
    return None


def run_in(control: Control, host: str, states: Sequence[RunState]) -> Run | None:
    runs, _damaged = control.store.runs()
    return next((run for run in runs if run.host == host and run.state in states), None)


def approve(control: Control, run: Run) -> None:
    """As the approver does, with `osremed runs approve`."""
    argv = [sys.executable, "-m", "osremed", "runs", "approve", run.run_id]
    argv += ["--reason", "the line is known, and the limit can be taken back", "--state", control.paths.state]
    environment = {**os.environ, "OSREMED_ACTOR": APPROVER}
    subprocess.run(argv, check=True, timeout=120, env=environment, stdout=subprocess.DEVNULL)


def _remedied(host: DemoHost, control: Control) -> Run:
    """The run, from its approval to its end."""
    look = partial(run_in, control, host.name, (RunState.AWAITING_APPROVAL,))
    needs = ("dispatcher", f"{host.name}-timeline", f"{host.name}-agent")
    run = host.place.wait_for("a run waits for approval", look, 180, *needs)
    say(f"{host.name}: run {run.run_id} waits, {run.reason}; {APPROVER} reads its plan and approves")
    approve(control, run)
    run = host.place.wait_for("the run ends", partial(run_in, control, host.name, _ACTED), 300, *needs)
    say(f"{host.name}: run {run.run_id} {run.state.value}: {run.reason}")
    return run


def _served(stage: Stage) -> dict[str, Any]:
    figures = stages.health(stage)
    if figures is None:
        raise OsremedError(
            "the server does not serve any more", hint="its log lies beside its unit in the state folder"
        )
    return figures


def other_alerts(control: Control, run: Run) -> tuple[str, ...]:
    """Why the other alerts of the host began no run of their own."""
    decisions = [entry.record for entry in read_journal(control.paths.decisions).entries]
    said = [
        each["why"] for each in decisions if each.get("host") == run.host and each["matched"] and not each["admitted"]
    ]
    return tuple(dict.fromkeys(said))


def _tell_host(host: DemoHost, service: Service, stage: Stage, control: Control, *, keeps: bool) -> Chapter:
    stages.start_server(host, stage, service)  # first, or the growth would be that of its start
    hosts.start_daemons(host, control.intake_url, control.paths.token, ("timeline", "agent"))
    watch = f"{host.name}-timeline"
    names = host.place.wait_for("both workers are followed", partial(_followed, host, 2), 60, watch)
    how = (
        "the program itself holds on to its scratch memory" if keeps else "PyTorch's allocator keeps its scratch memory"
    )
    say(f"{host.name}: {service.name} serves a request a second; {how}; followed: {', '.join(names)}")
    raised = f"the watch of {host.name} raises gpu.vram_growth"
    event = host.place.wait_for(raised, partial(_alert, host), 120, watch)
    before = _served(stage)
    say(f"{host.name}: ALERT GPU {event.attributes['gpu']}: {event.attributes['why']}")
    say(f"{host.name}: and the KV cache is {before['kv_cache_usage']:.0%} full")
    run = _remedied(host, control)
    after = _served(stage)
    host.place.end(f"{host.name}-witness")
    drop_in = read_bytes(service.drop_in).decode() if os.path.exists(service.drop_in) else ""
    stages.systemctl(stage, "stop", service.name)
    return Chapter(
        host=host.name,
        keeps=keeps,
        unit=service.name,
        event=run.event,
        run=run,
        happenings=control.store.happenings(run.run_id),
        others=other_alerts(control, run),
        sights=read_sights(service.witness),
        before=before,
        after=after,
        drop_in=drop_in,
        report=control.store.of(run.run_id).report,
    )


def vram_growth(*, collections: str, keep: bool = False, state: str | None = None) -> Answer:
    """Both halves of the story. Exit code 0 when every claim held."""
    stages.check_machine()
    hosts.stop_reading_signal()
    shipped = find_shipped(collections)
    state = os.path.abspath(state or os.path.join(".osremed", "demo-vram"))
    for folder in ("hosts", "control", "logs", "vram-growth"):
        shutil.rmtree(os.path.join(state, folder), ignore_errors=True)
    stage = stages.build_stage(os.path.join(state, "vram-growth"))
    with prefect(state, keep=keep) as server:
        chapters = _tell(stage, state, shipped, server)
    page = write_page(chapters, os.path.join(state, "report"))
    good = all(claim.holds for chapter in chapters for claim in chapter.claims)
    text = summary_text(chapters, page)
    if keep:
        text += f"\n{how_to_stop(server)}"
    return Answer(summary_document(chapters, page), text, ExitCode.OK if good else ExitCode.FAILED)


@contextlib.contextmanager
def _path(value: str) -> Iterator[None]:
    """What is started within it, and Ansible below that, finds the `systemctl` of the story."""
    before = os.environ["PATH"]
    os.environ["PATH"] = value
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _tell(stage: Stage, state: str, shipped: Shipped, server: Server) -> list[Chapter]:
    with open_place(state) as place:
        made = [
            (*stages.make_gpu_host(place, stage, name, shipped.zipapp, keeps=keeps), keeps) for name, keeps in _STORIES
        ]
        all_hosts = [host for host, _service, _keeps in made]
        path = stages.start_keeper(stage, place, all_hosts)
        inventory = write_inventory(state, all_hosts)
        with _path(path):
            control = start_dispatcher(place, server, inventory, stages.fitted(shipped, stage.folder, stage.port))
        say(f"the dispatcher takes events at {control.intake_url}")
        chapters = []
        for host, service, keeps in made:
            chapters.append(_tell_host(host, service, stage, control, keeps=keeps))
            place.end(f"{host.name}-")
        return chapters
