"""A job that asks for wishes, as Kineto does, gets its trace wish; another one gets none. Messages are as
Kineto's client sends them."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.agent.collect import collect
from osremed.cli.main import main
from osremed.core.errors import BadInput, Unavailable
from osremed.core.reading import Missing, Value
from osremed.timeline import kineto


def test_a_job_that_runs_writes_the_trace_that_was_wished_for(job, tmp_path, capsys):
    pid = job(KINETO_USE_DAEMON="1", KINETO_IPC_SOCKET_DIR=str(tmp_path))
    words = [
        "timeline",
        "ask",
        str(pid),
        "--directory",
        str(tmp_path),
        "--duration",
        "200ms",
        "--within",
        "20s",
        "-o",
        "json",
    ]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ranks"][0]["operators"][0]["name"] == "aten::mm"
    asked = json.loads(Path(told["path"]).read_text())["asked"]
    assert asked["ACTIVITIES_DURATION_MSECS"] == "200"
    assert asked["PROFILE_WITH_STACK"] == "true"
    assert not (tmp_path / "dynolog").exists(), "the socket is gone"


def test_an_alert_gets_a_trace_of_the_first_holder_that_lets_itself_be_asked(job, tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path / "host"))
    closed, willing = job(), job(KINETO_USE_DAEMON="1", KINETO_IPC_SOCKET_DIR=str(tmp_path))
    run = tmp_path / "host/run/osremed"
    run.mkdir(parents=True)
    status = {"gpus": [{"processes": [{"pid": closed}, {"pid": willing}]}, {"processes": {"missing": "denied"}}]}
    (run / "timeline.json").write_text(json.dumps(status))
    told = collect("gpu_trace", {"within_s": 20})
    assert told["pid"] == willing
    assert told["ranks"][0]["operators"][0]["name"] == "aten::mm"
    assert told["path"].startswith(str(tmp_path / "host")), "it lies with the evidence, not where the job wrote it"
    assert not list(Path("/tmp").glob(f"osremed-{willing}-*"))


def test_without_a_job_that_lets_itself_be_asked_the_trace_is_a_gap_with_its_reason(job, tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    assert collect("gpu_trace", {})["missing"] == "unsupported"
    assert "none of 1 processes" in collect("gpu_trace", {"pid": str(job())})["detail"]
    with pytest.raises(BadInput, match="not a process"):
        collect("gpu_trace", {"pid": "1; rm"})


def test_only_the_process_that_was_meant_gets_the_wish(job, tmp_path):
    other = job(KINETO_USE_DAEMON="1", KINETO_IPC_SOCKET_DIR=str(tmp_path))
    pid = job(KINETO_USE_DAEMON="1", KINETO_IPC_SOCKET_DIR=str(tmp_path))
    path = kineto.ask(pid, kineto.Wish(0.1, str(tmp_path), False, False), 20.0)
    assert path.endswith(f"_{pid}.json")
    assert not list(tmp_path.glob(f"*_{other}.json"))


def test_a_job_that_was_not_started_for_it_is_not_asked(job, tmp_path):
    with pytest.raises(Unavailable, match="does not ask for wishes"):
        kineto.ask(job(), kineto.Wish(0.1, str(tmp_path), False, False), 1.0)


def test_a_job_that_stands_still_ends_the_wait_and_leaves_no_socket(tmp_path):
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", "input('begun')"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "KINETO_USE_DAEMON": "1", "KINETO_IPC_SOCKET_DIR": str(tmp_path)},
    ) as silent:  # fmt: skip
        assert silent.stdout.read(5) == b"begun", "before that its environment may not be there yet"
        with pytest.raises(Unavailable, match="did not ask in time"):
            kineto.ask(silent.pid, kineto.Wish(0.1, str(tmp_path), False, False), 1.0)
        silent.stdin.close()
    assert time.monotonic() - began < 20
    assert list(tmp_path.iterdir()) == []


def test_another_daemon_is_not_pushed_aside(job, tmp_path):
    pid = job(KINETO_USE_DAEMON="1", KINETO_IPC_SOCKET_DIR=str(tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "dynolog"))
        with pytest.raises(Unavailable, match="another daemon listens"):
            kineto.ask(pid, kineto.Wish(0.1, str(tmp_path), False, False), 5.0)
    assert (tmp_path / "dynolog").exists()


def test_a_trace_counts_only_when_it_is_whole(tmp_path):
    assert isinstance(kineto.finished(str(tmp_path), "a"), Missing)
    (tmp_path / "a_1.json").write_text('{"traceEvents": [')
    assert isinstance(kineto.finished(str(tmp_path), "a"), Missing)
    (tmp_path / "a_1.json").write_text('{"traceEvents": []}\n')
    assert kineto.finished(str(tmp_path), "a") == Value(str(tmp_path / "a_1.json"))


def test_a_pipe_or_a_link_in_the_place_of_a_trace_is_none_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a_0.json")
    assert isinstance(kineto.finished(str(tmp_path), "a"), Missing)
    (tmp_path / "a_1.json").write_text('{"traceEvents": []}')
    assert kineto.finished(str(tmp_path), "a") == Value(str(tmp_path / "a_1.json"))
    (tmp_path / "b_0.json").symlink_to(tmp_path / "a_1.json")
    assert isinstance(kineto.finished(str(tmp_path), "b"), Missing)


@given(st.binary(max_size=200))
def test_bytes_of_strangers_are_a_message_or_refused(data):
    try:
        kind, payload = kineto.parse_message(data)
    except ValueError:
        return
    assert len(payload) == struct.unpack_from("<Q", data)[0]
    assert isinstance(kineto.wants_activities(payload), bool)
    assert isinstance(kind, str)
