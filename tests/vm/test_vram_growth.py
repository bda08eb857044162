"""Issue 11's second case on a host with a kernel and a systemd of its own: memory of two GPUs grows though the KV cache
is not full, is explained, limited and proved flat; and the limit that does not help is taken back.

The story is that of `osremed demo vram-growth`, and its claims are judged here. What is real here and is not there: the
rollout, the units of systemd, its drop-ins, restarts and control groups, ssh, another kernel and its Python. Machines
are emulated, so that waits are long, and nothing is said of times."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from osremed.demo import fakecuda, fakenvml
from osremed.demo import vram_stage as stages
from osremed.demo.shipped import find_shipped
from osremed.demo.vram_growth import approve, other_alerts, run_in
from osremed.demo.vram_summary import Chapter, read_sights, summary_text, write_page
from osremed.runbook.model import ENDED, RunState
from tests.soak.hosts import SoakHost

pytestmark = [
    pytest.mark.vm,
    pytest.mark.ansible,
    pytest.mark.long,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the GPUs of the story are built with a C compiler"),
]
LIBRARIES, STATE = "/usr/local/lib/vram", "/var/lib/vram"
PROGRAM, WITNESS = f"{LIBRARIES}/vllm_server.py", f"{LIBRARIES}/vram_witness.py"
LEDGER, SCENARIO, SIGHTS = f"{STATE}/ledger", f"{STATE}/scenario", f"{STATE}/sights.jsonl"
UNIT, PORT = "vllm.service", 8000
DROP_IN = f"/etc/systemd/system/{UNIT}.d/90-osremed-gpu.conf"
LIMIT = "PYTORCH_ALLOC_CONF=garbage_collection_threshold:0.8"
#: Half as many requests as in the local story: memory lasts twice as long, as everything takes longer.
REQUEST_EVERY_S, WITNESS_EVERY_S = 2.0, 1.0
#: The proof is longer than the watch looks back. A machine that stalls meanwhile has seen nothing hold: it begins anew,
#: and may do so for long. Where the growth goes on nothing is waited for.
WINDOWS = {"interval_s": 1.0, "growth_window_s": 20.0, "deadline_s": 20.0}
HOLDS, WITHIN = "30s", {False: "400s", True: "100s"}
HEALTHY_S = 150
ENVIRONMENT = stages.leading_to(LIBRARIES, SCENARIO)
_ASK = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{PORT}/health', timeout=9).read().decode())"
_LOAD = "import ctypes, os, sys; [ctypes.CDLL(os.path.join(sys.argv[1], name)) for name in sys.argv[2:]]"


class GpuHost(SoakHost):
    """A machine with two GPUs that are none and a server on them, which is a unit."""

    def furnish(self, directory, *, keeps):
        """What is there before osremed: driver, libraries, server; and what leads the watch to the driver."""
        self.set_clock(0)
        self.vm.check(["mkdir", "-p", LEDGER])
        fakecuda.build(directory)
        fakenvml.build(directory)
        names = sorted(path.name for path in directory.iterdir())
        for name in names:
            self.vm.copy(directory / name, f"{LIBRARIES}/{name}")
        code, said = self.vm.run(["/usr/bin/python3", "-IS", "-c", _LOAD, LIBRARIES, *names])
        if "GLIBC_" in said:
            pytest.skip(f"what is compiled here does not run on the machine: {said.strip().splitlines()[-1]}")
        assert code == 0, said
        pynvml = pytest.importorskip("pynvml", reason="NVIDIA's own binding witnesses the story")
        for path in (stages.SERVER, stages.WITNESS, pynvml.__file__):
            self.vm.copy(Path(path), f"{LIBRARIES}/{Path(path).name}")
        scenario = Path(stages.two_gpus(str(directory / "scenario"), LEDGER))
        self.vm.copy(scenario, SCENARIO)
        program = [
            "/usr/bin/python3",
            "-IS",
            PROGRAM,
            *stages.server_words(LIBRARIES, PORT, REQUEST_EVERY_S, keeps=keeps),
        ]
        self.vm.write(f"/etc/systemd/system/{UNIT}", stages.server_unit(LEDGER, program))
        self.vm.write("/etc/osremed/timeline.json", stages.watch_policy(**WINDOWS))
        led = "[Service]\n" + "".join(f"Environment={each}\n" for each in ENVIRONMENT)
        self.vm.write("/etc/systemd/system/osremed-timeline.service.d/driver.conf", led.encode())

    def serve(self):
        """The server serves, is witnessed, and both its workers are followed. The watch is stopped meanwhile, or the
        growth would be that of the start."""
        self.vm.check(["sh", "-c", f"systemctl stop osremed-timeline; systemctl daemon-reload; systemctl start {UNIT}"])
        self.until(self.health, "the server serves", 120)
        led = [f"--setenv={each}" for each in ENVIRONMENT]
        witness = ["/usr/bin/python3", "-B", WITNESS, SIGHTS, str(WITNESS_EVERY_S)]
        self.vm.check(["systemd-run", "--quiet", "--unit=witness", *led, *witness])
        self.vm.check(["systemctl", "start", "osremed-timeline"])
        self.until(lambda: self.followed() == ["vllm-worker-tp0", "vllm-worker-tp1"], "both workers are followed", 180)

    def followed(self):
        calls = json.loads(self.vm.check(["cat", "/run/osremed/timeline.json"]))["calls"]
        assert "missing" not in calls, calls
        return sorted(each["name"] for each in calls["processes"] if each["name"].startswith("vllm-worker"))

    def health(self):
        """What the server says of itself; None while it does not serve."""
        code, out = self.vm.run(["/usr/bin/python3", "-IS", "-c", _ASK])
        return json.loads(out) if code == 0 else None

    def drop_in(self):
        """Its text; empty when there is none."""
        return self.vm.check(["sh", "-c", f"test ! -e {DROP_IN} || cat {DROP_IN}"])

    def unit(self):
        """What systemd says of the server."""
        shown = ("ActiveState", "MainPID", "NRestarts", "NeedDaemonReload", "Environment", "DropInPaths")
        said = self.vm.check(["systemctl", "show", "-p", ",".join(shown), UNIT])
        return SimpleNamespace(**dict(line.split("=", 1) for line in said.splitlines()))

    def environment_of(self, pid):
        return self.vm.check(["cat", f"/proc/{pid}/environ"]).split("\0")


@pytest.fixture
def tell(vms, plane, zipapp, tmp_path):
    """The story of one host, from its rollout to the end of the run."""

    def told(*, keeps):
        (vm,) = vms(1)
        host = GpuHost(vm, "gpu0", plane.intake_port)
        libraries = tmp_path / "libraries"
        libraries.mkdir()
        host.furnish(libraries, keeps=keeps)
        command = ["/usr/bin/env", *ENVIRONMENT, "/usr/bin/python3", "-ISB", "/opt/osremed/host/current/osremed"]
        plane.write_inventory([(host.name, vm)], osremed_command=command)
        verify = {"for": HOLDS, "within": WITHIN[keeps]}
        plane.shipped = stages.fitted(find_shipped(""), str(tmp_path), PORT, verify=verify, healthy_s=HEALTHY_S)
        plane.start_prefect()
        plane.start_dispatcher()
        plane.roll_out(zipapp, agent_timeline="always")
        host.serve()
        found = partial(run_in, plane.control, host.name)
        waits = host.until(lambda: found((RunState.AWAITING_APPROVAL, *ENDED)), "a run waits for approval", 600)
        assert waits.state is RunState.AWAITING_APPROVAL, f"{waits.state}: {waits.reason}"
        figures, before = host.health(), host.unit()
        assert (host.drop_in(), before.ActiveState) == ("", "active"), "nothing changes before the approval"
        approve(plane.control, waits)
        run = host.until(lambda: found(tuple(ENDED)), "the run ends", 900)
        chapter = chapter_of(plane.control, host, run, tmp_path / "sights.jsonl", keeps=keeps, before=figures)
        print(summary_text([chapter], write_page([chapter], str(tmp_path / "report"))))
        return SimpleNamespace(host=host, run=run, chapter=chapter, before=before, after=host.unit())

    return told


def chapter_of(control, host, run, sights, *, keeps, before):
    after = host.health()
    sights.write_text(host.vm.check(["cat", SIGHTS]))
    return Chapter(
        host=host.name,
        keeps=keeps,
        unit=UNIT,
        event=run.event,
        run=run,
        happenings=control.store.happenings(run.run_id),
        others=other_alerts(control, run),
        sights=read_sights(str(sights)),
        before=before,
        after=after,
        drop_in=host.drop_in(),
        report=control.store.of(run.run_id).report,
        program=PROGRAM,
    )


def what_does_not_hold(chapter):
    return [f"{claim.name}: {claim.rests_on}" for claim in chapter.claims if not claim.holds]


def was_restarted_once_and_by_order(told):
    return (
        told.after.ActiveState == "active"
        and int(told.after.MainPID) not in (0, int(told.before.MainPID))
        and told.after.NRestarts == "0"
        and told.after.NeedDaemonReload == "no"
    )


def test_growth_is_traced_to_its_line_limited_by_a_drop_in_and_proved_flat(tell):
    told = tell(keeps=False)
    assert what_does_not_hold(told.chapter) == []
    assert told.run.state is RunState.SUCCEEDED
    assert was_restarted_once_and_by_order(told), told.after
    assert DROP_IN in told.after.DropInPaths
    assert LIMIT in told.host.environment_of(told.after.MainPID), "the server obeys what the drop-in says"
    assert told.host.followed() == ["vllm-worker-tp0", "vllm-worker-tp1"], "the workers of after are followed, too"


def test_a_limit_that_does_not_help_a_program_that_holds_on_to_its_memory_is_taken_back(tell):
    told = tell(keeps=True)
    assert what_does_not_hold(told.chapter) == []
    assert told.run.state is RunState.UNDO_INCOMPLETE, "a restart cannot be taken back, and a human is told so"
    assert was_restarted_once_and_by_order(told), told.after
    assert told.after.DropInPaths == "", "systemd has read that it is gone"
    assert LIMIT not in told.after.Environment
