"""What a process was called when it burned the time: the program it became, not the one it was forked from."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from osremed.core.reading import Value
from osremed.hotspot.capture import Capture, Captured
from osremed.sensors import procfs


def test_a_process_seen_before_its_exec_gets_the_name_of_what_it_became():
    with subprocess.Popen(["sh", "-c", "read line; exec sleep 60"], stdin=subprocess.PIPE) as target:
        try:
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            key = (target.pid, stat.value.start_time_ticks, 1)
            capture = Capture()
            before = capture.see(key, 1, 100.0)
            assert before is not None
            assert before.row["name"] == "sh"
            assert target.stdin is not None
            target.stdin.write(b"\n")
            target.stdin.flush()
            deadline = time.monotonic() + 20
            while Path(f"/proc/{target.pid}/comm").read_text() != "sleep\n" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert capture.see(key, 1, 100.1) is before
            after = capture.see((*key[:2], 2), 1, 100.2)
            assert after is not None
            assert after.row["name"] == "sleep"
            assert any("sleep" in mapping[3] for mapping in after.row["maps"])
            assert capture.forget_ended() == [before]
            assert list(capture.processes.values()) == [after]
        finally:
            target.kill()


def test_mappings_are_read_again_when_samples_come_and_rarely_later():
    target = Captured((1, 2, 0), {}, 100.0)
    seen = []
    for samples in range(1, 50):
        target.samples = samples
        if target.stale(100.0):
            seen.append(samples)
            target.read_at = samples
    assert seen == [3, 10, 40]
    assert [target.stale(at) for at in (129.0, 131.0)] == [False, True]
