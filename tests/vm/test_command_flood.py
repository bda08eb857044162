"""Issue 11's third case on a host with a kernel and a systemd of its own: minutes of flood after a launch. FastOOM ends
what floods the memory, a late answer leads back to its second and to its cause, the switch that its owner declared is
turned and kept because 99 of 100 answers come sooner, and one that does nothing is taken back.

The story is that of `osremed demo command-flood`, and its claims are judged here. What is real here and is not there:
the rollout, the units of systemd with what they are forbidden, a slice with a limit, ssh, another kernel and its
Python. Machines are emulated: rates come from what an answer takes in the calm, and nothing is said of times."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest

from osremed.core.event import event_from_json
from osremed.core.journal import read_journal
from osremed.core.units import format_bytes
from osremed.demo import flooded as floods
from osremed.demo.command_flood import mending_of
from osremed.demo.flood_summary import Launch, Placebo, claims_of, lookback_of, text_of
from osremed.demo.flooded import CACHE, PLACEBO, RUNBOOK, SERVICE
from osremed.demo.place import say
from osremed.demo.shipped import find_shipped
from osremed.runbook.model import ENDED, RunState
from tests.vm.flooded_host import ASKED, CONFIG_FILE, RECORDER, SLICE, FloodedHost

pytestmark = [pytest.mark.vm, pytest.mark.ansible, pytest.mark.long, pytest.mark.timeout(2400)]
PEAK_S = 30
LOOKS_S = 30  #: the second look, which tells the trap, is after the peak
DEVICES, MOST_CALM_MS = 1000, 36.0
CALM_PER_S = 2.0
#: What is asked of the service while a run proves something, besides by customers: by that run and by the recorder.
ASKED_PER_S = 14.5
COMMAND = ["/usr/bin/python3", "-ISB", "/opt/osremed/agent/current/osremed"]
PROTECT = [{"cmdline": r"flood_gateway\.py"}, {"name": "sshd"}]


def rates(calm_ms):
    """Requests a second of the flood, and in the peak besides. With what a run asks the service gets a little more than
    it can answer, where it is slow enough: then its P99 is that of a queue, which says the same each time on a machine
    that shares its CPUs."""
    calm_s = calm_ms / 1000
    return min(25.0, max(0.3 / calm_s, 1.15 / calm_s - ASKED_PER_S)), min(60.0, 0.3 / calm_s)


class Story:
    """One host and its control plane, from the rollout to the end of both runs."""

    def __init__(self, host, plane):
        self.host, self.plane = host, plane
        self.devices = DEVICES

    def begin(self, zipapp, folder):
        """The service serves, and osremed is rolled out."""
        host, plane = self.host, self.plane
        host.furnish()
        host.serve(DEVICES, CACHE)
        calm_ms = host.calm_ms()
        if calm_ms > MOST_CALM_MS:  # of fewer devices the table is shorter
            self.devices = round(DEVICES * MOST_CALM_MS / calm_ms)
            host.serve(self.devices, CACHE)
        host.hold("ota-logcollect", "logcollect", 14)
        plane.write_inventory([(host.name, host.vm)])
        # One host has both launches, within the hour that the runbook would rest.
        plane.shipped = floods.narrowed(find_shipped(""), str(folder), cooldown="1s")
        plane.start_dispatcher()
        # An emulated CPU takes 25 ms for one look of the guard: at a small slice it would look 27 times a second.
        plane.roll_out(
            zipapp, agent_timeline="never", agent_hotspot="always", agent_writable=["/etc/ota-gateway"],
            fastoom_scopes=[{"node": True}, {"cgroup": f"/{SLICE}"}], fastoom_protect=PROTECT,
            fastoom_overrides={"floor_ms": 250}, fastoom_prefer=[{"name": "ota-burst"}],
        )  # fmt: skip
        say(f"{host.name}: rolled out; {self.devices} devices are connected")

    def events(self, name):
        """Those of the host that reached the control plane, oldest first."""
        told = [event_from_json(entry.record) for entry in read_journal(self.plane.paths.intake).entries]
        return [event for event in told if event.name == name]

    def killed(self):
        return [each for event in self.events("memory.near_oom") for each in event.attributes.get("killed", ())]

    def look(self, *words):
        """The document of a verb of the installed program. It computes for a while on an emulated CPU."""
        code, out = self.host.vm.run([*COMMAND, *words, "-o", "json"], timeout_s=300)
        assert code in (0, 1), out
        return json.loads(out)

    def launch(self):
        host = self.host
        service, collector = host.main_pid(SERVICE), host.main_pid("ota-logcollect")
        kills = host.kernel_oom_kills()
        host.record(LOOKS_S)
        host.start_customers("calm", CALM_PER_S)
        calm_ms = host.calm_ms()
        say(f"{host.name}: calm: an answer takes {calm_ms:.1f} ms; one above {floods.late_ms(calm_ms):.0f} ms is late")
        flood_ns = host.now_ns()
        self.flood_per_s, peak_per_s = rates(calm_ms)
        host.start_customers("flood", self.flood_per_s)
        host.start_customers("peak", peak_per_s)
        host.watch(floods.late_ms(calm_ms))
        per_s = self.flood_per_s + peak_per_s + CALM_PER_S
        say(f"{host.name}: the launch: {per_s:.0f} requests/s and memory flood in for {PEAK_S} s")
        bursts = ("ota-burst-1", "ota-burst-2")
        for name in bursts:
            host.hold(name, "ota-burst", 4, 15, 240, flood=True)
        over_s = time.monotonic() + PEAK_S
        host.until(lambda: time.monotonic() > over_s and len(self.killed()) >= 2, "FastOOM ends what floods", 180)
        host.stop("customers-peak", *bursts)
        peak_over_s = host.now_ns() / 1e9
        for each in self.killed():
            say(f"{host.name}: FastOOM ended {each['name']} {format_bytes(each['heap_bytes'])}")
        jitter = host.until(lambda: self.late(flood_ns), "a late answer is told", 180)
        back = self.look_back(int(jitter.attributes["second_ns"]))
        say(f"{host.name}: the trap there: {back.summary}; advice: {back.fix}")
        mending = self.mend(peak_over_s)
        return Launch(
            host=host.name,
            seconds=PEAK_S,
            calm_ms=calm_ms,
            oom_events=tuple(self.events("memory.near_oom")),
            gateway_alive=host.main_pid(SERVICE) == service,
            logcollect_alive=host.main_pid("ota-logcollect") == collector,
            kernel_oom_kills=host.kernel_oom_kills() - kills,
            jitter=jitter,
            flood_ns=flood_ns,
            lookback=back,
            mending=mending,
        )

    def late(self, since_ns):
        told = [each for each in self.events("latency.jitter") if each.attributes["source"] == "probe"]
        return next((each for each in told if each.time_ns >= since_ns), None)

    def look_back(self, second_ns):
        """As a person does, once the window around that second is written."""
        written = lambda: self.look("hotspot", "status")["ring"]["to_ns"] > second_ns + 5 * 10**9  # noqa: E731
        self.host.until(written, "the second is in the ring", 180)
        at = self.look("hotspot", "at", str(second_ns), "--window", "2s")
        return lookback_of(at, self.look("hotspot", "traps", str(second_ns), "--window", "10s"))

    def mend(self, since_s, after=None):
        """The run of the trap, `after` another one: approved, applied, proven or taken back."""
        host, control = self.host, self.plane.control
        found = partial(floods.find_run, control, host.name, RUNBOOK, after=after)
        before = host.read(CONFIG_FILE)
        waiting = host.until(lambda: found(RunState.AWAITING_APPROVAL), "a run waits for approval", 480)
        assert waiting.state is RunState.AWAITING_APPROVAL, f"{waiting.state}: {waiting.reason}"
        assert host.read(CONFIG_FILE) == before, "nothing changes before the approval"
        say(f"{host.name}: {floods.approve(control, waiting)}")
        run = host.until(lambda: found(*ENDED), "the run ends", 600)
        say(f"{host.name}: run {run.run_id} {run.state.value}: {run.reason}")
        left = self.look("agent", "undo", "list")["pending"]
        config = (before, host.read(CONFIG_FILE))
        return mending_of(control, run, since_s=since_s, asked=host.read(ASKED), config=config, undo_left=left)

    def placebo(self, after):
        """The service is deployed anew in the same flood; what its owner declares now does nothing."""
        host = self.host
        host.serve(self.devices, PLACEBO)
        service, began_s = host.main_pid(SERVICE), host.now_ns() / 1e9
        say(
            f"{host.name}: {self.flood_per_s + CALM_PER_S:.0f} requests/s; the switch that is declared now does nothing"
        )
        mending = self.mend(began_s, after)
        return Placebo(host.name, mending, host.main_pid(SERVICE) == service)


@pytest.fixture
def story(vms, plane, zipapp, tmp_path):
    plane.start_prefect()
    (vm,) = vms(1)
    story = Story(FloodedHost(vm, "ota0", plane.intake_port), plane)
    story.begin(zipapp, tmp_path)
    return story


def test_a_flood_is_survived_explained_and_mended_and_a_switch_that_does_nothing_is_taken_back(story):
    """One story: a start of a machine and a rollout cost more than what is looked at."""
    host = story.host
    launch = story.launch()
    kept = json.loads(host.read(CONFIG_FILE))
    placebo = story.placebo(launch.mending.run)
    claims = claims_of(launch, placebo)
    print("\n".join(text_of(launch, placebo, claims)))
    assert [words for words, held in claims.items() if not held] == []
    assert kept == {**floods.CONFIG, CACHE.key: CACHE.on}
    assert json.loads(host.read(CONFIG_FILE)) == floods.CONFIG
    assert [each.action for each in launch.mending.run.plan.steps] == ["service_switch"]
    assert host.recorder()["pid"] == host.main_pid(RECORDER), "the one that systemd started is the one that told"
    assert host.recorder()["services"][SERVICE]["error"] == ""
    assert story.plane.audit()[0] == 0
