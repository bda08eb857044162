"""What a process was called when it burned the time: the program it became, not the one it was forked from."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from osremed.core.reading import Value
from osremed.hotspot.capture import Capture
from osremed.sensors import procfs


def test_a_process_seen_before_its_exec_gets_the_name_of_what_it_became():
    with subprocess.Popen(["sh", "-c", "read line; exec sleep 60"], stdin=subprocess.PIPE) as target:
        try:
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            key = (target.pid, stat.value.start_time_ticks, 1)
            capture = Capture()
            before = capture.see(key, 1)
            assert before is not None
            assert before.row["name"] == "sh"
            assert target.stdin is not None
            target.stdin.write(b"\n")
            target.stdin.flush()
            deadline = time.monotonic() + 20
            while Path(f"/proc/{target.pid}/comm").read_text() != "sleep\n" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert capture.see(key, 1) is before
            after = capture.see((*key[:2], 2), 1)
            assert after is not None
            assert after.row["name"] == "sleep"
            assert any("sleep" in mapping[3] for mapping in after.row["maps"])
            assert capture.forget_ended() == [before]
            assert list(capture.processes.values()) == [after]
        finally:
            target.kill()


def test_a_service_that_names_itself_later_is_told_by_that_name():
    with subprocess.Popen(["sleep", "60"]) as target:
        try:
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            key, capture = (target.pid, stat.value.start_time_ticks, 1), Capture()
            seen = capture.see(key, 1, name="python3")
            assert seen is not None
            seen.unwritten = False
            assert capture.see(key, 4, name="ota-gateway") is seen
            assert (seen.row["name"], seen.unwritten) == ("ota-gateway", True)
        finally:
            target.kill()
