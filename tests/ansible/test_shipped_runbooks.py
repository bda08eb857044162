"""Shipped runbooks on this machine, from the event to the proof: a real fault in a control group of its own, the real
executor, the runbook as it is shipped (with shorter times to prove it). Each is run a second time with an executor that
says it changed something and did not: then the proof must fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from osremed.core.action import Outcome, Status
from osremed.core.clock import SystemClock
from osremed.core.event import Event
from osremed.core.reading import Missing, Value
from osremed.executor.runner import AnsibleExecutor
from osremed.runbook.approvals import write_approval
from osremed.runbook.catalog import load_entry, match
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from osremed.sensors import cgroup, cpugroup, procfs
from tests.support import an_agent
from tests.support.shortened import shortened

ROOT = Path(__file__).resolve().parents[2]
FAULTS = ROOT / "tests/kernel/runbooks/faults.py"
MIB = 1 << 20
pytestmark = [pytest.mark.ansible, pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root")]

#: Fills its group with page cache, keeps the file open, and rests.
FILLER = """
import ctypes, mmap, os, sys, time
file = open(sys.argv[1], "w+b")
for _ in range(84):
    file.write(os.urandom(1 << 20))
file.flush()
os.fsync(file.fileno())
if sys.argv[2] == "locked":
    whole = mmap.mmap(file.fileno(), 0)
    here = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(whole)))
    assert ctypes.CDLL(None, use_errno=True).mlock(here, ctypes.c_size_t(len(whole))) == 0, ctypes.get_errno()
print("full", flush=True)
time.sleep(600)
"""
#: Stands in for systemd: `restart` ends the process of the unit and starts it anew in its group.
SYSTEMCTL = """#!{python} -IS
import json, os, subprocess, sys, time
path = {path!r}
unit = json.load(open(path))
if sys.argv[1] == "restart":
    os.kill(unit["facts"]["MainPID"], 9)
    child = subprocess.Popen(unit["command"], stdin=-3, stdout=-3, stderr=-3, start_new_session=True)
    open(unit["procs"], "w").write(str(child.pid))
    unit["facts"].update(MainPID=child.pid, InactiveExitTimestampMonotonic=int(time.monotonic() * 1e6))
    json.dump(unit, open(path, "w"))
elif sys.argv[1] == "show":
    print("\\n".join("%s=%s" % item for item in unit["facts"].items()))
"""


class Pretends:
    """The real executor, but for changes: those it says it made."""

    def __init__(self, real):
        self._real = real

    def run(self, call):
        asks = call.check or call.module.rpartition(".")[2] in ("evidence", "probe", "undo")
        return self._real.run(call) if asks else Outcome(Status.OK, changed=True)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """`shipped(name, event, attributes, acts)`: the ended run of a shipped runbook."""
    for directory in ("etc/osremed", "var/lib/osremed/undo", "var/lib/osremed/events", "run/osremed"):
        (tmp_path / "host" / directory).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    facts = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "osremed_prefix": str(tmp_path / "host"),
        "osremed_command": [str(Path(sys.executable).parent / "osremed")],
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"here": facts}}}))
    work = str(tmp_path / "work")
    made = AnsibleExecutor(str(tmp_path / "hosts.json"), str(ROOT / "collections"), work)
    with an_agent.running(tmp_path / "host"), contextlib.closing(made) as real:

        def run(name, event_name, attributes, *, acts):
            entry = load_entry(shortened(name, tmp_path / f"{name}-{acts}"))
            clock = SystemClock()
            event = Event(uuid.uuid4().hex, event_name, "here", clock.wall_ns(), {**attributes, "state": "raised"})
            assert match(entry, event).matched

            async def approves(_seconds):
                write_approval(opened.directory, opened.run, approved=True, by="test", reason="asked")

            executor = real if acts else Pretends(real)
            store = RunStore(str(tmp_path / "runs" / f"{name}-{acts}"))
            operator = Operator(executor, store, clock, frozenset({"here"}), pause=approves)
            opened = operator.store.create(event, entry, clock)
            try:
                return asyncio.run(drive(operator, opened, entry.runbook))
            finally:
                opened.close()

        yield run


@contextlib.contextmanager
def _ended(child):
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@contextlib.contextmanager
def _memory_group(limit_bytes):
    hierarchy = cgroup.memory_hierarchy()
    if isinstance(hierarchy, Missing):
        pytest.skip(str(hierarchy))
    group = cgroup.create(hierarchy.value, f"/osremed-{uuid.uuid4().hex[:8]}", limit_bytes)
    try:
        yield group
    finally:
        cgroup.remove(group, timeout_s=20)


def _within(group, argv, **options):
    """Started inside: what it touches first is charged there."""

    def join():
        Path(group.directory, "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.Popen(argv, preexec_fn=join, **options)  # noqa: PLW1509  one thread, and one system call


def _until(condition, within_s):
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.2)


@pytest.mark.parametrize("acts", [True, False])
def test_page_cache_that_fills_a_group_is_dropped(shipped, tmp_path, acts):
    """A kernel with proactive reclaim (DAMON) takes cold pages by itself, and then the trouble is over by itself: what
    nobody is to drop is locked in memory."""
    with _memory_group(96 * MIB) as group:
        argv = [sys.executable, "-c", FILLER, str(tmp_path / "filled"), "cold" if acts else "locked"]
        with _ended(_within(group, argv, stdout=subprocess.PIPE)) as filler:
            assert filler.stdout.readline() == b"full\n"
            before = cgroup.memory(group).value
            attributes = {
                "scope": group.path, "unit": "", "limit_bytes": before.limit_bytes, "used_bytes": before.usage_bytes,
                "cache_bytes": before.file_lru_bytes, "cache_ratio": 0.9, "given_back_per_s": 0.0,
            }  # fmt: skip
            run = shipped("page-cache-hog", "memory.page_cache", attributes, acts=acts)
            after = cgroup.memory(group).value
    assert [finding.name for finding in run.findings] == ["page-cache-hog"]
    if acts:
        assert run.state is RunState.SUCCEEDED, run.reason
        assert after.usage_bytes < before.usage_bytes - 60 * MIB
    else:
        assert run.state is not RunState.SUCCEEDED
        assert after.usage_bytes > before.usage_bytes - 8 * MIB


@pytest.mark.parametrize("acts", [True, False])
def test_a_service_that_leaks_is_restarted_and_holds_less(shipped, tmp_path, acts):
    with _memory_group(512 * MIB) as group, _leaking_unit(tmp_path, group) as unit:
        pid = unit()["facts"]["MainPID"]
        _until(lambda: cgroup.stat(group).value["anon"] > 24 * MIB, 60)
        held = cgroup.stat(group).value["anon"]
        attributes = {
            "pid": pid, "start_time_ticks": procfs.stat(pid).value.start_time_ticks, "process": "python",
            "scope": group.path, "unit": "leaky.service", "held_bytes": held, "before_bytes": 8 * MIB,
            "scope_bytes": held, "seconds": 40.0, "rate_bytes_s": 524288.0, "fills_in_s": 900,
            "limit_bytes": 512 * MIB,
        }  # fmt: skip
        run = shipped("memory-leak", "memory.growth", attributes, acts=acts)
        now = unit()["facts"]["MainPID"]
    assert "memory-leak" in [finding.name for finding in run.findings]
    assert (run.state is RunState.SUCCEEDED, now != pid) == (acts, acts), run.reason


@contextlib.contextmanager
def _leaking_unit(tmp_path, group):
    state = tmp_path / "unit.json"
    command = [sys.executable, str(FAULTS), "leak", "300"]
    first = _within(group, command)
    unit = {
        "command": command,
        "procs": f"{group.directory}/cgroup.procs",
        "facts": {
            "LoadState": "loaded", "ActiveState": "active", "SubState": "running", "MainPID": first.pid,
            "NRestarts": 0, "InactiveExitTimestampMonotonic": 1,
        },
    }  # fmt: skip
    state.write_text(json.dumps(unit))
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text(SYSTEMCTL.format(python=sys.executable, path=str(state)))
    systemctl.chmod(0o755)

    def told():
        return json.loads(state.read_text())

    try:
        yield told
    finally:
        for pid in cgroup.pids(group).value:  # the group is ours, and so is all that runs in it
            os.kill(pid, 9)
        first.wait()
        _until(lambda: not cgroup.pids(group).value, 20)


@pytest.mark.parametrize("acts", [True, False])
def test_a_cpu_limit_that_stops_a_group_is_raised_by_half(shipped, acts):
    with _cpu_group("20000") as group, _ended(subprocess.Popen([sys.executable, str(FAULTS), "paced", "300"])) as paced:
        os.setpriority(os.PRIO_PROCESS, paced.pid, -10)  # other work of this machine must not be what stops it
        Path(group.directory, "cgroup.procs").write_text(str(paced.pid))
        _until(lambda: cpugroup.throttling(group).value.throttled_periods > 20, 60)
        attributes = {"trap": "throttled", "scope": group.path, "who": group.path, "unit": "", "pid": 0, "second_ns": 1,
                      "summary": "", "where": "", "figures": {"seconds_per_s": 0.1, "worst_s": 0.2}}  # fmt: skip
        run = shipped("cpu-throttling", "hotspot.trap", attributes, acts=acts)
        quota = cpugroup.quota(group)
    assert "throttled" in [finding.name for finding in run.findings]
    assert isinstance(quota, Value)
    if acts:
        assert run.state is RunState.SUCCEEDED, run.reason
        assert quota.value.quota_us == 30000
    else:
        assert run.state is not RunState.SUCCEEDED
        assert quota.value.quota_us == 20000


@contextlib.contextmanager
def _cpu_group(quota_us):
    hierarchy = cpugroup.hierarchy()
    if isinstance(hierarchy, Missing):
        pytest.skip(str(hierarchy))
    group = cgroup.group(hierarchy.value, f"/osremed-{uuid.uuid4().hex[:8]}")
    os.mkdir(group.directory)
    try:
        if group.hierarchy.version == 1:
            Path(group.directory, "cpu.shares").write_text("65536")
            Path(group.directory, "cpu.cfs_quota_us").write_text(quota_us)
        else:
            Path(group.directory, "cpu.weight").write_text("10000")
            Path(group.directory, "cpu.max").write_text(f"{quota_us} 100000")
        yield group
    finally:
        os.rmdir(group.directory)
