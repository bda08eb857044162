"""What a process was called when it burned the time: the program it became, not the one it was forked from."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from osremed.core.reading import Value
from osremed.hotspot.capture import _TICK_NS, Capture
from osremed.sensors import procfs


def test_a_process_seen_before_its_exec_gets_the_name_of_what_it_became():
    with subprocess.Popen(["sh", "-c", "read line; exec sleep 60"], stdin=subprocess.PIPE) as target:
        try:
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            start_ns = stat.value.start_time_ticks * _TICK_NS
            capture = Capture()
            before = capture.see(target.pid, start_ns, 100.0)
            assert before is not None
            assert before.row["name"] == "sh"
            assert target.stdin is not None
            target.stdin.write(b"\n")
            target.stdin.flush()
            deadline = time.monotonic() + 20
            while Path(f"/proc/{target.pid}/comm").read_text() != "sleep\n" and time.monotonic() < deadline:
                time.sleep(0.01)
            after = capture.see(target.pid, start_ns, 101.0)
            assert after is before
            assert after.row["name"] == "sleep"
            assert any("sleep" in mapping[3] for mapping in after.row["maps"])
        finally:
            target.kill()
