"""The running agent: one process, told apart from others, that stops when asked and costs little."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from osremed.agent import verbs
from osremed.core.canonical import sha256_hex
from osremed.core.errors import ExitCode, NotFound, Unavailable
from osremed.core.journal import Journal
from osremed.sensors import procfs
from tests.unit.spoken import spoken

RUN = "from osremed.agent import verbs; import sys; a = verbs.run(); print(a.text); sys.exit(a.exit_code)"


def eventually(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("it did not come true in time")


def status(paths):
    try:
        with open(os.path.join(paths.run, "agent.json")) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


@pytest.fixture
def agent(paths):
    """Starts agents on the test's paths; all are ended at the end."""
    started = []

    def start():
        child = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(child)
        eventually(lambda: status(paths).get("pid") == child.pid or child.poll() is not None)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def configured(paths, intake, tmp_path):
    token = tmp_path / "token"
    token.write_text("a-token\n")
    token.chmod(0o600)
    etc = os.path.dirname(paths.fastoom_policy)
    with open(os.path.join(etc, "agent.json"), "w") as file:
        json.dump({"intake_url": intake.url, "token_file": str(token)}, file)


def event(number):
    return {"id": f"e{number}", "name": "test.event", "host": "h", "time_ns": 1, "attributes": {"n": number}}


def test_events_are_shipped_while_it_runs_and_sigterm_ends_it_cleanly(paths, configured, intake, agent):
    journal = Journal(os.path.join(paths.events, "fastoom"))
    journal.append(event(0))
    child = agent()
    eventually(lambda: intake.unique() == [0])
    journal.append(event(1))
    eventually(lambda: intake.unique() == [0, 1])

    def settled():
        found = status(paths)
        return found if found.get("shipped") == 2 and not found["spooled"] and not found["last_error"] else None

    seen = eventually(settled)
    assert {"pid", "start_time_ticks", "rss_bytes", "cpu_s", "spooled", "shipped", "last_error", "since"} <= set(seen)
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=20)
    assert (child.returncode, out) == (0, "stopped: 2 shipped, 0 spooled\n")
    assert status(paths) == {}


def test_without_an_intake_it_still_takes_changes_back_and_tells_what_is_spooled(paths, agent):
    path = paths.fastoom_policy
    with open(path, "wb") as file:
        file.write(b"new")
    now_ns = time.time_ns()
    previous = {
        "exists": True,
        "content_b64": base64.b64encode(b"old").decode(),
        "mode": 0o644,
        "uid": os.getuid(),
        "gid": os.getgid(),
    }
    record = {
        "undo_id": "u1",
        "kind": "file",
        "path": path,
        "previous": previous,
        "applied_sha256": sha256_hex(b"new"),
        "deadline_ns": now_ns - 1,
        "reload_status": "",
        "created_ns": now_ns - 10**9,
    }
    with open(os.path.join(paths.undo, "u1.json"), "w") as file:
        json.dump(record, file)
    agent()
    eventually(lambda: os.listdir(paths.undo) == [".lock"])
    with open(path, "rb") as file:
        assert file.read() == b"old"
    assert eventually(lambda: status(paths).get("spooled") == 1)  # the event that says so


def test_a_hanging_intake_does_not_hold_up_an_undo(paths, configured, intake, agent):
    release = []

    def hang(handler, events):
        eventually(lambda: release, timeout_s=60)
        handler.take(events)

    intake.behave = hang
    Journal(os.path.join(paths.events, "fastoom")).append(event(0))
    agent()
    eventually(lambda: intake.requests)
    with open(os.path.join(paths.undo, "u1.json"), "w") as file:
        file.write("not a record")
    try:
        assert eventually(lambda: status(paths).get("undo_damaged"))
    finally:
        release.append(True)


def test_sigkill_at_any_moment_loses_no_event(paths, configured, intake, agent):
    journal, chance, count = Journal(os.path.join(paths.events, "fastoom")), random.Random(3), 0
    for _ in range(4):
        child = agent()
        until = time.monotonic() + chance.uniform(0.05, 0.4)
        while time.monotonic() < until:
            journal.append(event(count))
            count += 1
        child.kill()
        child.wait()
    agent()
    eventually(lambda: len(intake.unique()) == count)
    assert intake.unique() == list(range(count))


def test_a_second_agent_on_the_same_paths_is_refused(paths, agent):
    first = agent()
    second = subprocess.run([sys.executable, "-c", RUN], capture_output=True, check=False, text=True, timeout=30)
    assert "another agent runs here" in second.stderr
    assert status(paths)["pid"] == first.pid


def test_status_tells_the_running_agent_from_a_dead_ones_file(paths, agent):
    with pytest.raises(Unavailable, match="no status file"):
        verbs.status()
    child = agent()
    answer = verbs.status()
    assert answer.document["pid"] == child.pid
    assert "intake none" in answer.text
    child.kill()
    child.wait()
    with pytest.raises(Unavailable, match="does not run"):
        verbs.status()


def test_a_broken_configuration_starts_nothing(paths):
    path = os.path.join(os.path.dirname(paths.fastoom_policy), "agent.json")
    with open(path, "w") as file:
        file.write('{"intake_urls": ""}')
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, check=False, text=True, timeout=30)
    assert "unknown key 'intake_urls'" in done.stderr
    assert os.listdir(paths.run) == []


def undo_record(paths):
    """A change of the policy that was not there before."""
    return {
        "undo_id": "u1",
        "kind": "file",
        "path": paths.fastoom_policy,
        "previous": {"exists": False},
        "applied_sha256": sha256_hex(b"new"),
        "deadline_ns": 0,
        "reload_status": "",
        "created_ns": 1,
    }


def test_the_undo_verbs_list_confirm_and_answer_with_exit_codes(paths):
    assert verbs.undo_list().exit_code == ExitCode.OK
    record = undo_record(paths)
    for undo_id in ("u1", "u2"):
        with open(os.path.join(paths.undo, f"{undo_id}.json"), "w") as file:
            json.dump({**record, "undo_id": undo_id}, file)
    with open(paths.fastoom_policy, "wb") as file:
        file.write(b"someone else's")
    assert [each["undo_id"] for each in verbs.undo_list().document["pending"]] == ["u1", "u2"]
    assert verbs.undo_confirm(undo_id="u1").exit_code == ExitCode.OK
    with pytest.raises(NotFound):
        verbs.undo_confirm(undo_id="u1")
    answer = verbs.undo_revert(undo_id="u2")
    assert (answer.exit_code, answer.document["result"]) == (ExitCode.UNDO_INCOMPLETE, "conflict")
    assert verbs.undo_list().exit_code == ExitCode.UNDO_INCOMPLETE
    assert "CONFLICT u2" in verbs.undo_list().text


@pytest.mark.parametrize(
    ("expect", "verdict", "code"),
    [("value > 0%", "HOLDS", ExitCode.OK), ("value > 100%", "FAILS", ExitCode.FAILED)],
)
def test_the_probe_verb_answers_with_its_verdict(expect, verdict, code):
    answer = verbs.probe(name="memory.available_ratio", args='{"scope": "node"}', expect=expect, within="300ms")
    assert (answer.document["verdict"], answer.exit_code) == (verdict, code)
    assert answer.text.startswith(verdict)


def test_a_probe_that_cannot_see_is_not_a_pass():
    args = json.dumps({"scope": "/no/such/group"})
    answer = verbs.probe(name="memory.available_bytes", args=args, expect="value >= 0", within="300ms")
    assert (answer.document["verdict"], answer.exit_code) == ("UNKNOWN", ExitCode.UNAVAILABLE)


STATUS = {
    "pid": 7,
    "since": "2026-11-22T14:03:07Z",
    "rss_bytes": 9 << 20,
    "cpu_s": 0.5,
    "intake": "",
    "shipped": 4,
    "spooled": 3,
    "refused": 2,
    "lost": 1,
    "damaged": 0,
    "undo_pending": ["u1"],
    "undo_conflicts": [],
    "undo_damaged": ["x"],
    "last_error": "none",
}


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        (
            "en",
            [
                "pid 7, since 2026-11-22T14:03:07Z, memory 9.0 MiB, CPU 0.5 s",
                "intake none: 4 shipped, 3 spooled, 2 refused, 1 lost, 0 damaged lines",
                "undo: 1 awaiting confirmation, 0 conflicts, 1 unreadable",
                "LAST ERROR: none",
            ],
        ),
        (
            "zh_CN",
            [
                "pid 7，自 2026-11-22T14:03:07Z 起，内存 9.0 MiB，CPU 0.5 秒",
                "接收端 无：已上报 4，待发 3，被拒 2，丢失 1，损坏 0 行",
                "撤销：1 个待确认，0 个冲突，1 个无法读取",
                "最近的错误：none",
            ],
        ),
        (
            "zh_TW",
            [
                "pid 7，自 2026-11-22T14:03:07Z 起，記憶體 9.0 MiB，CPU 0.5 秒",
                "接收端 無：已回報 4，待送 3，被拒 2，遺失 1，損壞 0 行",
                "復原：1 個待確認，0 個衝突，1 個無法讀取",
                "最近的錯誤：none",
            ],
        ),
    ],
)
def test_the_status_is_told_in_the_language_that_is_spoken(paths, language, lines):
    own = procfs.stat(os.getpid()).value
    with open(os.path.join(paths.run, "agent.json"), "w") as file:
        json.dump({**STATUS, "pid": os.getpid(), "start_time_ticks": own.start_time_ticks}, file)
    with spoken(language):
        told = verbs.status().text
    assert told.replace(f"pid {os.getpid()}", "pid 7", 1).splitlines() == lines


def test_a_history_that_is_not_kept_is_an_error_of_the_agent():
    document = {**STATUS, "last_error": "", "history_error": "disk full"}
    assert verbs._status_lines(document)[3:] == ["LAST ERROR: disk full"]


def test_changes_that_can_be_taken_back_are_told_in_the_language_that_is_spoken(paths):
    assert verbs.undo_list().text == "no change awaits confirmation"
    record = undo_record(paths)
    with open(os.path.join(paths.undo, "u1.json"), "w") as file:
        json.dump(record, file)
    with open(paths.fastoom_policy, "wb") as file:
        file.write(b"someone else's")
    assert verbs.undo_list().text == f"u1  {paths.fastoom_policy}  no deadline"
    with spoken("zh_TW"):
        assert verbs.undo_list().text == f"u1  {paths.fastoom_policy}  沒有期限"
        assert verbs.undo_revert(undo_id="u1").text == f"{paths.fastoom_policy}: 衝突，已被他人變更，未作處理"
        assert verbs.undo_list().text == "沒有等待確認的變更\n衝突 u1：已被他人變更，未作處理"
        told = verbs.probe(name="memory.available_ratio", args='{"scope": "node"}', expect="value > 0%", within="300ms")
    assert re.fullmatch(r"HOLDS: value > 0 .*；最後 [0-9.]+，\d+ 個樣本", told.text)
