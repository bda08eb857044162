"""Shipped runbooks from the fault to the proof, every part real: the agent and the recorder tell of what happens in
control groups of the test's own, the dispatcher and Prefect run what is shipped, Ansible changes it, the host proves
it. Times are shorter than the shipped ones; nothing else differs."""

from __future__ import annotations

import os
import shlex
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from osremed.core.reading import Missing
from osremed.core.record import record
from osremed.demo import flooded, vram_stage
from osremed.demo import host as hosts
from osremed.demo.control import Control, prefect, start_dispatcher, write_inventory
from osremed.demo.host import DemoHost
from osremed.demo.place import Place, open_place
from osremed.demo.shipped import Shipped
from osremed.runbook.model import RunState
from osremed.sensors import cgroup, cpugroup
from osremed.sensors.bpf import features
from tests.support.shortened import shortened

ROOT = Path(__file__).resolve().parents[2]
FAULTS = str(ROOT / "tests/kernel/runbooks/faults.py")
MIB = 1 << 20
pytestmark = [
    pytest.mark.demo,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="control groups and BPF need root"),
]
#: runbook -> (field, how it goes on after the test's token): what of its events is the test's own. Others on this
#: machine have faults, too, and who syncs files waits for a disk as well.
BOOKS = {
    "memory-leak": ("scope", ".slice/import"),
    "page-cache-hog": ("scope", ".slice/reports"),
    "dying-cgroups": ("scope", ".slice/pods"),
    "cpu-throttling": ("scope", "-"),
    "disk-fsync-storm": ("who", "-fsyncs"),
    "blocking-io": ("who", "-blocking"),
}
#: The agent, with looks at the whole memory every 2.5 seconds.
AGENT = """
import sys
from osremed.agent import history
history.EVERY_S, history.WIDE_EVERY = 2.5, 1
from osremed.cli.main import main
sys.exit(main())
"""
#: Reads a file over and over until it is told to rest, and keeps it open.
READER = """
import os, sys, time
with open(sys.argv[1], "rb", buffering=0) as stream:
    while not os.path.exists(sys.argv[2]):
        stream.seek(0)
        while stream.read(1 << 20):
            pass
        time.sleep(0.05)
    time.sleep(600)
"""


@record
class Plane:
    place: Place
    host: DemoHost
    control: Control
    stage: vram_stage.Stage
    token: str  #: in the name of all that is the test's own


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """One host of this machine: its agent, its recorder, a service that leaks; and who remedies it."""
    missing = features.absent()
    if isinstance(missing, Missing):
        pytest.skip(str(missing))
    state, token = tmp_path_factory.mktemp("plane"), uuid.uuid4().hex[:6]
    for name, (field, more) in BOOKS.items():
        shortened(name, state / "runbooks", f"'{token}{more}' in event.{field}")
    path = os.environ["PATH"]
    with open_place(str(state)) as place:
        group = place.make_group(f"/osremed{token}.slice/import.service", 512 * MIB)
        host = hosts.make_host(place, "here", group, "")
        stage = _with_a_leaking_service(host, state)
        try:
            with prefect(str(state), keep=False) as server:
                inventory = write_inventory(str(state), [host])
                shipped = Shipped(str(state / "runbooks"), str(ROOT / "collections"))
                control = start_dispatcher(place, server, inventory, shipped)
                hosts.start_daemons(host, control.intake_url, control.paths.token, ())
                near = ["/usr/bin/env", f"OSREMED_PREFIX={host.prefix}", sys.executable, "-c", AGENT, "agent", "run"]
                place.start("here-agent", near)
                flooded.start_recorder(host)
                yield Plane(place, host, control, stage, token)
                place.end("here-")
                place.end("dispatcher")
        finally:
            os.environ["PATH"] = path
            place.close()
            cgroup.remove(cgroup.group(group.hierarchy, f"/osremed{token}.slice"), timeout_s=20)


@pytest.fixture
def plane(leaking):
    """Once the leak is mended and its service stopped: a host has one run at a time."""
    remedied(leaking, "memory-leak")
    vram_stage.systemctl(leaking.stage, "stop", "import.service")
    return leaking


def _with_a_leaking_service(host, state):
    """It runs before all else, so that it has grown when it is first looked at."""
    units = Path(host.prefix, "etc/systemd/system")
    units.mkdir(parents=True)
    command = shlex.join([sys.executable, FAULTS, "leak", "900"])
    (units / "import.service").write_text(
        f"[Service]\nX-Group={host.group.directory}/cgroup.procs\nExecStart={command}\n"
    )
    stage = vram_stage.Stage(str(state), "", 0, str(state / "keeper.socket"))
    os.environ["PATH"] = vram_stage.start_keeper(stage, host.place, [host])
    vram_stage.systemctl(stage, "start", "import.service")
    return stage


def remedied(plane, runbook, known=()):
    """The ended run of that runbook that is not among the known ones; approved, if it asks."""

    def look(*states):
        runs, _damaged = plane.control.store.runs()
        return next(
            (r for r in runs if r.runbook == runbook and r.run_id not in known and (r.ended or r.state in states)), None
        )

    needs = ("dispatcher", "here-agent", "here-hotspot")
    run = plane.place.wait_for(f"{runbook} begins", lambda: look(RunState.AWAITING_APPROVAL), 180, *needs)
    if run.state is RunState.AWAITING_APPROVAL:
        flooded.approve(plane.control, run)
        run = plane.place.wait_for(f"{runbook} ends", look, 240, *needs)
    return run


def names(run):
    return [finding.name for finding in run.findings]


@contextmanager
def running(plane, argv, group=None, name="fault"):
    plane.place.start(name, argv, inside=group)
    try:
        yield
    finally:
        plane.place.end(name)


def own_python(plane, folder, fault):
    """An interpreter whose processes carry the test's token in their name."""
    link = folder / f"{plane.token}-{fault}"
    link.symlink_to(os.path.realpath(sys.executable))
    return [str(link), "-I", "-S", FAULTS, fault, "300", str(folder)]


def test_a_service_that_leaks_is_restarted_and_what_it_held_is_free(leaking):
    before = cgroup.pids(leaking.host.group).value
    run = remedied(leaking, "memory-leak")
    after = cgroup.pids(leaking.host.group).value
    assert run.state is RunState.SUCCEEDED, run.reason
    assert "memory-leak" in names(run)
    assert len(after) == 1
    assert not set(before) & set(after)


def written(path, mib):
    """A file that is on disk and in nobody's page cache: who touches a page first pays for it."""
    with open(path, "wb") as file:
        file.writelines(os.urandom(MIB) for _ in range(mib))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return str(path)


@pytest.mark.parametrize("rests", [True, False])
def test_page_cache_is_dropped_and_the_run_says_whether_that_lasted(plane, tmp_path, rests):
    known = {run.run_id for run in plane.control.store.runs()[0]}
    group = plane.place.make_group(f"/osremed{plane.token}.slice/reports-{rests}.service", 64 * MIB)
    argv = [sys.executable, "-c", READER, written(tmp_path / "read", 96), str(tmp_path / "rest")]
    with running(plane, argv, group):

        def raised():
            return any(
                run.runbook == "page-cache-hog" and run.run_id not in known for run in plane.control.store.runs()[0]
            )

        plane.place.wait_for("page-cache-hog is raised", raised, 120, "here-agent", "dispatcher", "fault")
        if rests:
            (tmp_path / "rest").touch()
        run = remedied(plane, "page-cache-hog", known)
        used = cgroup.memory(group).value.usage_bytes
    assert "page-cache-hog" in names(run)
    state = RunState.SUCCEEDED if rests else RunState.UNDONE
    assert (run.state, used < 32 * MIB) == (state, rests), run.reason


@pytest.mark.parametrize(("fault", "state", "quota_us"), [
    ("paced", RunState.SUCCEEDED, 30000),
    ("burn", RunState.UNDONE, 20000),
])  # fmt: skip
def test_a_cpu_limit_is_raised_where_that_helps_and_else_put_back(plane, fault, state, quota_us):
    known = {run.run_id for run in plane.control.store.runs()[0]}
    with cpu_group(f"/osremed{plane.token}-{fault}") as group:
        argv = ["/bin/sh", "-c", 'echo $$ > "$0" && exec nice -n -15 "$@"', f"{group.directory}/cgroup.procs"]
        with running(plane, [*argv, sys.executable, FAULTS, fault, "300"]):
            run = remedied(plane, "cpu-throttling", known)
            quota = cpugroup.quota(group).value.quota_us
    assert "throttled" in names(run)
    assert (run.state, quota) == (state, quota_us), run.reason


@contextmanager
def cpu_group(path):
    """Of 0.2 CPUs; its limit stops it, not the others of this machine."""
    found = cpugroup.hierarchy()
    if isinstance(found, Missing):
        pytest.skip(str(found))
    group = cgroup.group(found.value, path)
    os.mkdir(group.directory)
    v1 = found.value.version == 1
    try:
        for name, text in (
            (("cpu.shares", "65536"), ("cpu.cfs_quota_us", "20000"))
            if v1
            else (("cpu.weight", "10000"), ("cpu.max", "20000 100000"))
        ):
            Path(group.directory, name).write_text(text)
        yield group
    finally:
        os.rmdir(group.directory)


def test_page_cache_that_removed_groups_hold_is_dropped(plane, tmp_path):
    size = max(20 * MIB, round(0.006 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 8))
    write = f"f = open(sys.argv[1], 'wb'); f.write(b'x' * {size}); f.flush(); os.fsync(f.fileno())"
    parent = plane.place.make_group(f"/osremed{plane.token}.slice/pods", 4096 * MIB)
    for number in range(8):
        group = cgroup.create(parent.hierarchy, f"{parent.path}/job-{number}", size + 32 * MIB)
        argv = [sys.executable, "-c", f"import os, sys; {write}", str(tmp_path / f"job-{number}")]
        assert plane.place.start("job", argv, inside=group).wait(60) == 0
        cgroup.remove(group, timeout_s=20)
    run = remedied(plane, "dying-cgroups")
    assert run.state is RunState.SUCCEEDED, run.reason
    assert {"dying-groups", "held-by-page-cache"} <= set(names(run))


@pytest.mark.parametrize(("runbook", "fault", "finding"), [
    ("disk-fsync-storm", "fsyncs", "fsync-storm"),
    ("blocking-io", "blocking", "blocking-io"),
])  # fmt: skip
def test_what_only_its_author_can_mend_is_told_with_its_line_and_nothing_is_changed(
    plane, tmp_path, runbook, fault, finding
):
    with running(plane, own_python(plane, tmp_path, fault)):
        run = remedied(plane, runbook)
    told = next(each for each in run.findings if each.name == finding)
    assert "faults.py:" in told.summary
    assert run.state is RunState.REFUSED, run.reason
