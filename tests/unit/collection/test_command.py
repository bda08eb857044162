from __future__ import annotations

import os
import sys
import time

from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded


def test_output_and_exit_code_come_back():
    ended = run_bounded(
        [sys.executable, "-c", "import sys; print('out'); sys.stderr.write('err'); sys.exit(3)"], 20, 100
    )
    assert (ended.code, ended.stdout, ended.stderr_text(), ended.why_no_code) == (3, b"out\n", "err", "")


def test_a_command_that_does_not_end_is_ended_with_its_children(tmp_path):
    pid_file = tmp_path / "pid"
    script = f"sleep 100 & echo $! > {pid_file}; wait"
    ended = run_bounded(["sh", "-c", script], 5, 100)  # time enough to write down its child
    assert (ended.code, ended.timed_out) == (None, True)
    assert "5 s" in ended.why_no_code
    give_up = time.monotonic() + 60
    while _lives(int(pid_file.read_text())):
        assert time.monotonic() < give_up
        time.sleep(0.01)


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_that_closes_its_output_and_stays_is_ended_too():
    ended = run_bounded([sys.executable, "-c", "import os,time; os.close(1); os.close(2); time.sleep(100)"], 0.5, 100)
    assert ended.timed_out


def test_endless_output_is_cut():
    ended = run_bounded(["yes"], 20, 10_000)
    assert (ended.code, ended.too_large, len(ended.stdout)) == (None, True, 10_000)
    assert ended.duration_s < 10


def test_endless_errors_keep_their_end():
    script = "import sys\nfor n in range(20000): sys.stderr.write('%09d\\n' % n)"
    ended = run_bounded([sys.executable, "-c", script], 20, 100)
    assert ended.code == 0
    assert ended.stderr.endswith(b"000019999\n")
    assert len(ended.stderr) <= 1 << 14


def test_a_command_that_cannot_be_started_says_why():
    ended = run_bounded(["/nonexistent/command"], 1, 100)
    assert ended.code is None
    assert "/nonexistent/command" in ended.why_no_code


def test_no_child_is_left_over():
    run_bounded(["true"], 5, 100)
    run_bounded(["sleep", "50"], 0.1, 100)
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:
        for pid in stream.read().split():
            with open(f"/proc/{pid}/comm") as comm:
                assert comm.read().strip() not in ("true", "sleep")
