"""A trace belongs to its moment: the watch takes it when the alert is raised, and who collects later finds it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from osremed.agent.collect import collect
from osremed.cli.main import main
from osremed.timeline import kineto
from osremed.timeline.incidents import Report
from osremed.timeline.jobtrace import Kept, _make_room, _move, kept, only_one, taken_near
from osremed.timeline.tracewatch import Traces, asked

SECOND = 10**9
NOW = 1_795_000_000 * SECOND


def raised(name="gpu.throttle", **facts):
    return Report(name, {"state": "raised", "gpu": 0, **facts})


def zombies(parent):
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [pid for pid in children if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"]


def test_the_trace_is_taken_when_the_alert_is_raised_and_found_when_the_job_is_gone(
    job, scenario, watch, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path / "host"))
    pid = job(KINETO_USE_DAEMON="1", KINETO_IPC_SOCKET_DIR=str(tmp_path))
    scenario.set(gpus=1, g0__processes=f"{pid}:1000")
    running = watch(growth_bytes=1 << 40)
    running.wait_for_status(lambda found: len(found["gpus"]) == 1, "the GPU is read")
    scenario.set(g0__clock_reasons="0x40")
    (event,) = running.wait_for(
        lambda found: [each for each in found if each["name"] == "gpu.throttle"], "the alert is raised"
    )
    status = running.wait_for_status(lambda found: "path" in found["traces"]["last"], "the trace is there")
    assert status["traces"]["last"]["alert"] == "gpu.throttle"
    assert status["traces"]["under_way"] == ""
    assert main(["timeline", "status"]) == 0
    assert f"trace for gpu.throttle, of process {pid}: " in capsys.readouterr().out
    running.wait_for_status(
        lambda _: not zombies(running.process.pid), "the process that took the trace is no zombie of the watch"
    )
    os.kill(pid, signal.SIGKILL)
    told = collect("gpu_trace", {"within_s": 1, "moment": str(event["time_ns"])})
    assert (told["pid"], told["path"]) == (pid, status["traces"]["last"]["path"])
    assert 0 <= told["late_s"] < 30
    assert told["ranks"][0]["operators"][0]["name"] == "aten::mm"
    assert Path(told["path"]).stat().st_mode & 0o777 == 0o600
    later = collect("gpu_trace", {"within_s": 1, "moment": str(event["time_ns"] + 3600 * SECOND)})
    assert "path" not in later, "it tells nothing of an hour later"


def test_one_trace_at_a_time_and_no_more_often_than_the_policy_allows(tmp_path):
    traces = Traces(str(tmp_path))
    report = raised(pid=7)
    assert traces.wanted([report], {}, 0.0, NOW) is None, "the policy says never"
    assert traces.wanted([Report("gpu.throttle", {"state": "cleared", "pid": 7})], {}, 600.0, NOW) is None
    assert traces.wanted([raised("gpu.lost", pid=7)], {}, 600.0, NOW) is None
    assert traces.wanted([raised()], {}, 600.0, NOW) is None, "nobody to ask"
    assert traces.wanted([report], {}, 600.0, NOW) is not None
    assert traces.wanted([report], {}, 600.0, NOW + 900 * SECOND) is None, "one is under way"
    traces.done({"path": "/x", "pid": 7})
    assert traces.wanted([report], {}, 600.0, NOW + 599 * SECOND) is None
    assert traces.wanted([report], {}, 600.0, NOW + 601 * SECOND) is not None
    traces.done({"missing": "unsupported"})
    assert traces.wanted([report], {}, 600.0, NOW + 602 * SECOND) is not None, "nobody was asked: nothing was spent"
    assert not traces.document()["last"].get("path")
    assert not traces.overdue(NOW + 603 * SECOND)
    assert traces.overdue(NOW + 700 * SECOND)


def test_who_is_named_is_asked_before_the_others():
    assert asked({"pid": 9, "others": [3, 4], "gpu": -1}, {}) == [9, 3, 4]


def test_the_newest_trace_near_the_moment_is_the_one(tmp_path):
    for at_s, pid in ((-500, 1), (-10, 1), (5, 2), (60, 3), (500, 1)):
        (tmp_path / f"{NOW + at_s * SECOND}-{pid}.json").write_text("{}")
    (tmp_path / "lock").touch()
    assert taken_near(str(tmp_path), NOW).pid == 3
    assert taken_near(str(tmp_path), NOW, pid=1).at_ns == NOW - 10 * SECOND
    assert taken_near(str(tmp_path), NOW + 9000 * SECOND) is None


def test_old_traces_and_those_beyond_the_limits_make_room(tmp_path):
    for number in range(20):
        (tmp_path / f"{NOW + number * SECOND}-1.json").write_text("{}")
    big = tmp_path / f"{NOW + 30 * SECOND}-1.json"
    with big.open("wb") as file:
        file.truncate(380 << 20)
    (tmp_path / f"{NOW - 8 * 86400 * SECOND}-1.json").write_text("{}")
    (tmp_path / f"{NOW}-2.json.part").write_text("torn")
    _make_room(str(tmp_path), NOW + 40 * SECOND)
    assert len(kept(str(tmp_path))) == 15
    assert not list(tmp_path.glob("*.part"))
    with big.open("ab") as file:
        file.truncate(390 << 20)
    _make_room(str(tmp_path), NOW + 40 * SECOND)
    assert kept(str(tmp_path)) == []


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_a_job_puts_in_the_place_of_its_trace_is_not_read(tmp_path, kind):
    written, place = tmp_path / "osremed-1.json", Kept(str(tmp_path / f"{NOW}-1.json"), NOW, 1)
    if kind == "link":
        (tmp_path / "secret").write_text("root's own")
        written.symlink_to(tmp_path / "secret")
    else:
        os.mkfifo(written)
    assert "missing" in _move(str(written), place).as_json()
    assert kept(str(tmp_path)) == []


def test_who_collects_waits_for_a_trace_that_is_under_way(tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    directory = tmp_path / "var/lib/osremed/timeline/traces"
    with only_one(str(directory)):
        told = collect("gpu_trace", {"within_s": 1})
    assert (told["missing"], told["detail"]) == ("timed_out", "another trace is under way")


def test_the_socket_of_a_watch_that_was_killed_is_no_other_daemon(job, tmp_path):
    pid = job(KINETO_USE_DAEMON="1", KINETO_IPC_SOCKET_DIR=str(tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ended:
        ended.bind(str(tmp_path / "dynolog"))
    began = time.monotonic()
    kineto.ask(pid, kineto.Wish(0.1, str(tmp_path), False, False), 20.0)
    assert time.monotonic() - began < 20
