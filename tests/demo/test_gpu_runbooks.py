"""Shipped runbooks of GPUs from the fault to the decision, every part real but the driver: the watch reads GPUs of a
driver that says what a scenario says, its events go by the agent and the dispatcher to a run that looks at the host
through Ansible. What such a run found becomes a case that tells the same."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import yaml

from osremed.core.record import record
from osremed.demo import fakenvml, flooded, vram_stage
from osremed.demo import host as hosts
from osremed.demo.control import Control, prefect, start_dispatcher, write_inventory
from osremed.demo.place import Place, open_place
from osremed.demo.shipped import Shipped
from osremed.runbook.model import Run, RunState
from osremed.runbook.text import parse_text
from osremed.sensors import cgroup
from tests.support.shortened import shortened

ROOT = Path(__file__).resolve().parents[2]
BOOKS = ("gpu-xid", "gpu-slow-rank", "gpu-hang")
GPUS = 4
pytestmark = [
    pytest.mark.demo,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the driver is built with a C compiler"),
]


@record
class Plane:
    place: Place
    host: hosts.DemoHost
    control: Control
    driver: fakenvml.Scenario

    def trainer(self) -> int:
        """The process of the job that uses the first GPU, in a service of its own."""
        return cgroup.pids(self.host.group).value[0]


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A host of four healthy GPUs, one of them used by a service."""
    state = tmp_path_factory.mktemp("gpus")
    for name in BOOKS:
        restarts_at_once(Path(shortened(name, state / "runbooks")))
    (state / "driver").mkdir()
    fakenvml.build(state / "driver")
    driver = fakenvml.Scenario(state / "scenario")
    environment = vram_stage.leading_to(str(state / "driver"), str(driver.path))
    with open_place(str(state)) as place:
        service = f"osremed{uuid.uuid4().hex[:6]}-trainer.service"
        group = place.make_group(f"/{service}", 256 << 20)
        host = hosts.make_host(place, "gpu0", group, "", environment)
        policy = os.path.join(os.path.dirname(host.policy), "timeline.json")
        deadlines = {"deadline_s": 1.0, "first_deadline_s": 1.0}
        windows = {"interval_s": 0.2, **deadlines, "window_s": 1.0, "growth_window_s": 1.6, "stuck_s": 1.6}
        Path(policy).write_bytes(vram_stage.watch_policy(**windows))
        path = os.environ["PATH"]
        try:
            start_trainer(host, state, service)
            driver.set(gpus=GPUS, all__name="NVIDIA L20", all__sm_util=50)
            with prefect(str(state), keep=False) as server:
                shipped = Shipped(str(state / "runbooks"), str(ROOT / "collections"))
                control = start_dispatcher(place, server, write_inventory(str(state), [host]), shipped)
                hosts.start_daemons(host, control.intake_url, control.paths.token, ("timeline", "agent"))
                plane = Plane(place, host, control, driver)
                driver.set(g0__processes=f"{plane.trainer()}:1000")
                yield plane
                place.end("gpu0-")
                place.end("dispatcher")
        finally:
            os.environ["PATH"] = path
            place.close()
            cgroup.remove(group, timeout_s=20)


def restarts_at_once(path):
    """A service that was started a moment ago is restarted, too."""
    book = parse_text(path.read_bytes(), str(path)).data
    for step in book["remediate"]:
        if step["action"] == "service_restart":
            step["with"]["min_interval_s"] = 1
    path.write_text(yaml.safe_dump(book, sort_keys=False))


def start_trainer(host, state, service):
    """Below who keeps units where no systemd runs; its `systemctl` is found first from here on."""
    units = Path(host.prefix, "etc/systemd/system")
    units.mkdir(parents=True)
    command = shlex.join([sys.executable, "-c", "import time; time.sleep(3600)"])
    group = f"X-Group={host.group.directory}/cgroup.procs"
    (units / service).write_text(f"[Service]\n{group}\nExecStart={command}\n")
    stage = vram_stage.Stage(str(state), "", 0, str(state / "keeper.socket"))
    os.environ["PATH"] = vram_stage.start_keeper(stage, host.place, [host])
    vram_stage.systemctl(stage, "start", service)
    host.place.wait_for("the trainer runs", lambda: cgroup.pids(host.group).value, 30, "keeper")


def decided(plane, runbook, known) -> Run:
    """The next run of that runbook, where it ended or waits for a person."""

    def look():
        runs, _damaged = plane.control.store.runs()
        new = (run for run in runs if run.runbook == runbook and run.run_id not in known)
        return next((run for run in new if run.ended or run.state is RunState.AWAITING_APPROVAL), None)

    return plane.place.wait_for(f"{runbook} decides", look, 90, "dispatcher", "gpu0-agent", "gpu0-timeline")


def ended(plane, run) -> Run | None:
    return next((each for each in plane.control.store.runs()[0] if each.run_id == run.run_id and each.ended), None)


#: what the driver says while it is sick, and when it is well again; the runbook; what is found
FAULTS = {
    "throttled": ({"g1__clock_reasons": "0x40"}, {"g1__clock_reasons": 0}, "gpu-slow-rank", {"throttled"}),
    "narrow-link": (
        {"g2__pcie_width": 8, "g2__pcie_width_max": 16}, {"g2__pcie_width": 16}, "gpu-slow-rank", {"narrow-link"},
    ),
    "driver-hangs": ({"g3__hang_ms": 60_000}, {"g3__hang_ms": 0}, "gpu-hang", {"driver-hangs"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_driver_says_of_a_sick_gpu_is_found_and_nothing_is_changed_unasked(plane, fault, tmp_path):
    sick, well, runbook, findings = FAULTS[fault]
    known = {run.run_id for run in plane.control.store.runs()[0]}
    plane.driver.set(**sick)
    try:
        run = decided(plane, runbook, known)
    finally:
        plane.driver.set(**well)
    assert findings <= {each.name for each in run.findings}
    assert run.state is RunState.REFUSED, run.reason
    case_tells_the_same(plane, run, tmp_path)


def test_a_job_that_holds_its_gpu_and_does_nothing_is_restarted_once_somebody_approves(plane, tmp_path):
    known = {run.run_id for run in plane.control.store.runs()[0]}
    before = plane.trainer()
    plane.driver.set(g0__sm_util=0)
    run = decided(plane, "gpu-hang", known)
    assert (run.state, [step.action for step in run.plan.steps]) == (RunState.AWAITING_APPROVAL, ["service_restart"])
    assert plane.trainer() == before
    flooded.approve(plane.control, run)

    def restarted():
        pids = cgroup.pids(plane.host.group).value
        return pids and pids[0] != before and pids[0]

    after = plane.place.wait_for("the service is restarted", restarted, 90, "dispatcher", "keeper")
    plane.driver.set(g0__sm_util=50, g0__processes=f"{after}:1000")
    run = plane.place.wait_for("the run ends", lambda: ended(plane, run), 120, "dispatcher", "gpu0-timeline")
    assert run.state is RunState.SUCCEEDED, run.reason
    assert "held-and-idle" in {each.name for each in run.findings}
    case_tells_the_same(plane, run, tmp_path)


def test_an_error_that_asks_for_the_application_is_told_and_without_its_process_nobody_is_restarted(plane, tmp_path):
    """The driver's event of an Xid names no process: only the kernel log does."""
    known = {run.run_id for run in plane.control.store.runs()[0]}
    plane.driver.event(0, 31)
    run = decided(plane, "gpu-xid", known)
    assert "application-fault" in {each.name for each in run.findings}
    assert (run.event.attributes["injected"], run.event.attributes["code"]) == (False, 31)
    assert run.state is RunState.REFUSED, run.reason
    case_tells_the_same(plane, run, tmp_path)


def case_tells_the_same(plane, run, folder):
    """The case of the run, beside the runbook that it was of."""
    words = [sys.executable, "-m", "osremed"]
    told = subprocess.run(
        [*words, "runs", "case", run.run_id, "--state", plane.control.paths.state],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    book = folder / run.runbook
    (book / "cases").mkdir(parents=True)
    shipped = Path(plane.place.state, "runbooks")
    shutil.copy(shipped / run.runbook / "runbook.yaml", book)
    shutil.copytree(shipped / "parts", folder / "parts")
    name = f"recorded-{run.findings[0].name}.yaml"
    (book / "cases" / name).write_text(told.stdout)
    if keep := os.environ.get("OSREMED_KEEP_CASES"):
        shutil.copy(book / "cases" / name, Path(keep, f"{run.runbook}-{name}"))
    tried = subprocess.run([*words, "runbook", "test", str(book)], check=False, capture_output=True, text=True)
    assert tried.returncode == 0, tried.stdout + tried.stderr
