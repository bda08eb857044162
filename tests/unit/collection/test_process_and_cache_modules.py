"""proc_signal, page_cache, cgroup_reclaim and the modules that only look: real processes and files, stand-in groups."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _process, _residency, _rules
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._reload import start_ticks
from ansible_collections.osremed.host.plugins.modules import (
    cgroup_reclaim,
    fastoom_info,
    memory_info,
    page_cache,
    proc_signal,
    psi_info,
)

from osremed.core.reading import Value
from osremed.fastoom import collect
from osremed.fastoom.model import Process
from osremed.fastoom.policy import matches, parse_policy
from osremed.fastoom.rules import KEYS

SLEEPER = "import signal, sys, time\n{how}\nprint(flush=True)\nwhile True: time.sleep(60)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def options_of(module, **given):
    spec = module.argument_spec()
    return {name: given.get(name, facts.get("default")) for name, facts in spec.items()}


@pytest.fixture
def start():
    children = []

    def start(how="", name="sleeper-of-the-test"):
        argv = [sys.executable, "-c", SLEEPER.format(how=how), name]
        children.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
        children[-1].stdout.readline()
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def send(child, check=False, **given):
    given = {"start_time_ticks": start_ticks(child.pid), "policy_file": "/nonexistent.json", "grace_s": 10.0, **given}
    return proc_signal.act(options_of(proc_signal, pid=child.pid, **given), check)


def test_a_process_that_listens_is_ended_once(start):
    child = start()
    ticks = start_ticks(child.pid)
    preview = send(child, check=True)
    assert (preview["changed"], child.poll()) == (True, None)
    done = send(child)
    assert (done["changed"], done["ended"], done["signals"]) == (True, True, ["TERM"])
    assert child.wait(timeout=10) == -signal.SIGTERM
    again = send(child, start_time_ticks=ticks)
    assert (again["changed"], again["gone"], again["signals"]) == (False, True, [])


def test_one_that_does_not_listen_is_ended_by_force_only_if_that_is_asked_for(start):
    child = start(STUBBORN)
    with pytest.raises(ActionFailed, match=r"has not ended.*set escalate") as failed:
        send(child, grace_s=0.1)
    assert (failed.value.facts["signals"], child.poll()) == (["TERM"], None)
    assert send(child, grace_s=0.1, escalate=True)["signals"] == ["TERM", "KILL"]
    assert child.wait(timeout=10) == -signal.SIGKILL


def test_a_pid_that_is_someone_else_now_is_left_alone(start):
    child = start()
    assert send(child, start_time_ticks=start_ticks(child.pid) + 1)["gone"]
    with pytest.raises(ActionFailed, match="not the one that was meant"):
        send(child, cmdline="another-name")
    assert child.poll() is None


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "rule", [{"name": "python*"}, {"cmdline": "sleeper-of-the-[t]est"}, {"argv": ["sleeper-of*"]}, {"exe": "*/python*"}]
)
def test_what_the_policy_of_fastoom_protects_is_refused(start, tmp_path, rule, check):
    child = start()
    policy = tmp_path / "fastoom.json"
    policy.write_text(json.dumps({"protect": [{"name": "other"}, rule]}))
    with pytest.raises(ActionFailed, match=r"not to be touched: .*fastoom\.json protects it"):
        send(child, policy_file=str(policy), check=check, signal="KILL")
    assert child.poll() is None


@pytest.mark.parametrize("text", ["{", "[]", '{"protect": {}}', '{"protect": [{}]}', '{"protect": [{"cmdline": "("}]}'])
def test_a_policy_that_cannot_be_read_protects_everybody(start, tmp_path, text):
    child = start()
    (tmp_path / "fastoom.json").write_text(text)
    with pytest.raises(ActionFailed):
        send(child, policy_file=str(tmp_path / "fastoom.json"))
    assert child.poll() is None


@pytest.mark.parametrize("pid", [1, os.getpid()])
def test_pid_1_and_the_carrier_of_the_task_are_refused(pid):
    with pytest.raises(ActionFailed, match="not to be touched"):
        send(SimpleNamespace(pid=pid), signal="CONT")


def test_kernel_threads_are_refused():
    thread = _process.Process(2, 1, "kthreadd", (), True, 0)
    assert _process.why_untouchable(thread, "/nonexistent") == "it is a kernel thread"


@pytest.mark.parametrize("bad", [{"grace_s": -1}, {"grace_s": 601}, {"signal": "HUP", "escalate": True}])
def test_bad_requests_are_named(start, bad):
    child = start()
    with pytest.raises(ActionFailed):
        send(child, **bad)
    assert child.poll() is None


@pytest.mark.parametrize(
    "rule",
    [{"name": "python3"}, {"name": "py*"}, {"name": "PYTHON3"}, {"name": "worker"}, {"cmdline": "^/usr/bin/py.* -m x"},
     {"cmdline": "-m$"}, {"name": "py*", "cmdline": "nope"}, {"name": "[ab]*"}, {"name": "*"}],
)  # fmt: skip
def test_a_rule_protects_here_what_it_protects_in_fastoom(rule):
    argv = ("/usr/bin/python3", "-m", "x")
    document = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": "low", "scopes": [{"node": True}]}
    policy = parse_policy(json.dumps({**document, "protect": [rule]}).encode(), "/p")
    theirs = Process(pid=7, start_time_ticks=1, name="worker", argv=Value(argv), heap_bytes=0, oom_score_adj=0)
    ours = _process.Process(7, 1, "worker", argv, False, 1)
    assert _rules.verdict(rule, ours) is matches(policy.protect[0], theirs)


def rules_for(child):
    """Rules about a child of the test, of every kind, that hold and that do not."""
    path = _rules.cgroup_of(child.pid)
    program = os.readlink(f"/proc/{child.pid}/exe")
    return [
        {"argv": ["-c", "sleeper*"]}, {"argv": ["sleeper"]}, {"argv": ["-c", "nobody"]},
        {"exe": program}, {"exe": "*/python*"}, {"exe": "python*"}, {"exe": os.path.dirname(program)},
        {"cgroup": path}, {"cgroup": "/"}, {"cgroup": path + "/below"}, {"cgroup": "/nowhere"}, {"cgroup": "/*"},
        {"user": "root"}, {"user": os.getuid()}, {"user": 4711},
        {"user": "root", "exe": "*/python*", "argv": ["-c"]}, {"user": 4711, "name": "*"},
    ]  # fmt: skip


def test_every_kind_of_rule_means_here_whom_it_means_in_fastoom(start):
    child = start()
    source = collect.open_source(asked=frozenset({"exe", "cgroup"}))
    theirs = collect.details(child.pid, source).value
    ours = _process.look(child.pid)
    verdicts = []
    for rule in rules_for(child):
        policy = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "protect": [rule]}
        compiled = parse_policy(json.dumps(policy).encode(), "/p").protect[0]
        verdicts.append(_rules.verdict(rule, ours))
        assert verdicts[-1] is matches(compiled, theirs), rule
    assert set(verdicts) == {True, False}


def test_the_keys_are_those_of_fastoom():
    assert set(_rules.KEYS) == set(KEYS)


@pytest.mark.parametrize(
    "rule", [{"exe": "/usr/bin/x"}, {"cgroup": "/a"}, {"user": 5}, {"user": "nobody-has-this-name"}]
)
def test_what_cannot_be_read_protects_here_as_it_does_in_fastoom(tmp_path, rule):
    (tmp_path / "7").mkdir()
    ours = _process.Process(7, 1, "worker", ("worker",), False, 1)
    assert _rules.verdict(rule, ours, str(tmp_path)) is None
    assert _rules.verdict({**rule, "name": "other"}, ours, str(tmp_path)) is False
    policy = tmp_path / "p.json"
    policy.write_text(json.dumps({"protect": [rule]}))
    (tmp_path / "7" / "oom_score_adj").write_text("0")
    assert "may protect it" in _process.why_untouchable(ours, str(policy), str(tmp_path))


@pytest.fixture
def cached(tmp_path):
    """A file of 4 MiB whose pages are on disk and in memory."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * (4 << 20))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    path.read_bytes()
    return str(path)


def drop(*paths, check=False, **given):
    return page_cache.act(options_of(page_cache, paths=list(paths), **given), check)


def in_memory(path):
    fd = _residency.open_regular(path)
    try:
        return _residency.residency(fd).cached_bytes
    finally:
        os.close(fd)


def test_cached_pages_are_previewed_and_dropped_and_the_bytes_stay(cached):
    """Not all that was read needs to be cached still: some kernels page out what looks cold in a second (DAMON)."""
    before = in_memory(cached)
    preview = drop(cached, check=True, sync=True)
    between = in_memory(cached)
    done = drop(cached, sync=True)
    after = in_memory(cached)
    assert (preview["changed"], done["changed"]) == (True, True)
    assert between <= preview["dropped_bytes"] <= before <= 4 << 20 <= 2 * before
    (file,) = done["files"]
    assert after <= file["after_bytes"] <= 1 << 20
    assert file["before_bytes"] <= between
    assert done["dropped_bytes"] == file["before_bytes"] - file["after_bytes"]
    again = drop(cached, sync=True)
    assert (again["changed"], again["files"][0]["result"]) == (False, "skipped")
    with open(cached, "rb") as stream:
        assert stream.read() == b"x" * (4 << 20)


def residency_of(cached_bytes, dirty_bytes):
    return _residency.Residency(cached_bytes, dirty_bytes, "cachestat")


@pytest.mark.parametrize(
    ("dirty", "sync", "refused"), [(0, False, False), (4096, False, True), (None, False, True), (4096, True, False)]
)
def test_pages_that_are_or_may_be_not_on_disk_are_refused_unless_they_are_written_first(dirty, sync, refused):
    reason = page_cache.why_not(residency_of(1 << 20, dirty), options_of(page_cache, sync=sync), None)
    assert (reason is not None and reason[0] == "refused") is refused


def test_bounds_on_what_is_dropped(cached, tmp_path):
    assert drop(cached, sync=True, max_bytes=4096)["files"][0]["why"] == "max_bytes is used up"
    assert drop(cached, sync=True, min_resident=5 << 20)["files"][0]["result"] == "skipped"
    for bad in ({"max_bytes": 0}, {"min_resident": -1}):
        with pytest.raises(ActionFailed):
            drop(cached, **bad)
    with pytest.raises(ActionFailed):
        drop()


def test_what_is_no_file_is_refused_and_does_not_stop_the_others(cached, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    os.symlink(cached, tmp_path / "link")
    odd = [str(tmp_path / "fifo"), str(tmp_path / "link"), str(tmp_path), str(tmp_path / "absent"), "relative"]
    done = drop(*odd, cached, sync=True)
    assert [one["result"] for one in done["files"]] == ["refused"] * 5 + ["dropped"]
    with pytest.raises(ActionFailed, match=r"no file could be dropped: .*absent: No such file"):
        drop(*odd)


@pytest.fixture
def group(tmp_path):
    """A group of version 2 whose memory.reclaim takes what it is told; `ask` reclaims."""
    directory = tmp_path / "a"
    directory.mkdir()
    for name, text in {
        "cgroup.controllers": "memory", "memory.current": str(256 << 20), "memory.reclaim": "",
        "memory.pressure": "some avg10=0.50 avg60=0.00 avg300=0.00 total=7",
    }.items():  # fmt: skip
        (directory / name).write_text(text + "\n")
    mounts = {"unified": SimpleNamespace(version=2, mount=str(tmp_path))}

    def ask(check=False, **given):
        given = {"cgroup": "/a", "bytes": "160MiB", **given}
        return cgroup_reclaim.act(options_of(cgroup_reclaim, **given), check, mounts)

    return SimpleNamespace(ask=ask, directory=directory, mounts=mounts)


def test_memory_is_reclaimed_in_steps_until_it_is_done(group, monkeypatch):
    asked = []

    def kernel(path, text):
        asked.append(int(text))
        current = int((group.directory / "memory.current").read_text())
        (group.directory / "memory.current").write_text(str(current - int(text)))

    monkeypatch.setattr(cgroup_reclaim, "write_value", kernel)
    done = group.ask()
    assert asked == [64 << 20, 64 << 20, 32 << 20]
    assert (done["reclaimed_bytes"], done["steps"], done["stopped_by"]) == (160 << 20, 3, "done")


def test_it_stops_when_the_group_feels_it_when_nothing_comes_and_in_check_mode(group, monkeypatch):
    preview = group.ask(check=True)
    assert (preview["steps"], preview["stopped_by"]) == (0, "check_mode")
    assert (group.directory / "memory.reclaim").read_text() == "\n"
    assert group.ask(max_pressure=0.4)["stopped_by"] == "pressure"

    def exhausted(path, text):
        raise BlockingIOError(11, "Resource temporarily unavailable", path)

    monkeypatch.setattr(cgroup_reclaim, "write_value", exhausted)
    assert (group.ask()["steps"], group.ask()["stopped_by"]) == (1, "exhausted")


def test_what_cannot_be_reclaimed_is_said(group):
    group.mounts["memory"] = SimpleNamespace(version=1, mount=group.mounts["unified"].mount)
    with pytest.raises(ActionFailed, match="UNSUPPORTED: cgroup /a is of version 1"):
        group.ask()
    del group.mounts["memory"]
    (group.directory / "memory.reclaim").unlink()
    with pytest.raises(ActionFailed, match=r"UNSUPPORTED: this kernel has no memory\.reclaim"):
        group.ask()
    for bad in (
        {"bytes": "max"},
        {"bytes": "0"},
        {"bytes": "x"},
        {"timeout_s": 0},
        {"max_pressure": 0},
        {"cgroup": "/"},
    ):
        with pytest.raises(ActionFailed):
            group.ask(**bad)


def test_figures_are_read_and_what_is_not_there_is_a_gap(group, tmp_path):
    proc = tmp_path / "proc"
    (proc / "pressure").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  1000 kB\nHugePages_Total:  3\n")
    (proc / "pressure/cpu").write_text("some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n")
    (proc / "pressure/io").write_text("nonsense\n")
    memory = memory_info.look({"cgroups": ["/a", "/absent"]}, group.mounts, str(proc))
    assert memory["meminfo"] == {"MemTotal": 1024000, "HugePages_Total": 3}
    assert memory["cgroups"]["/a"]["usage_bytes"] == 256 << 20
    assert memory["cgroups"]["/a"]["limit_bytes"]["missing"] == "unsupported"
    assert memory["cgroups"]["/absent"]["missing"] == "no_data"
    psi = psi_info.look({"cgroups": ["/a"]}, group.mounts, str(proc))
    assert psi["node"]["cpu"]["some"] == {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total_us": 9}
    assert (psi["node"]["memory"]["missing"], psi["node"]["io"]["missing"]) == ("unsupported", "malformed")
    assert psi["cgroups"]["/a"]["memory"]["some"]["total_us"] == 7


def test_whether_the_guard_obeys_the_policy_is_told(start_daemon, tmp_path):
    policy = tmp_path / "fastoom.json"
    options = {"path": str(policy), "status_file": str(tmp_path / "status.json")}
    nothing = fastoom_info.look(options)
    assert (nothing["running"], nothing["obeyed"], nothing["policy"]["missing"]) == (False, False, "no_data")
    policy.write_text('{"sensitivity": "low"}')
    start_daemon("accepts", policy)
    seen = fastoom_info.look(options)
    assert (seen["running"], seen["obeyed"], seen["policy"]) == (True, True, {"sensitivity": "low"})
    policy.write_text("{")
    seen = fastoom_info.look(options)
    assert (seen["running"], seen["obeyed"], seen["policy"]["missing"]) == (True, False, "malformed")
