"""Those the sampler has met: what is said where it has no room for one more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from osremed.core.reading import Value
from osremed.hotspot import records
from osremed.hotspot.capture import Capture
from osremed.hotspot.encounters import Encounters
from osremed.sensors import procfs
from osremed.sensors.bpf.ring import Batch


class Kernel:
    """The sampler, with room for one Python process; `meetings` are sent once."""

    def __init__(self) -> None:
        self.walked: list[int] = []
        self.meetings: list[bytes] = []

    def take_texts(self) -> Batch:
        sent, self.meetings = self.meetings, []
        return Batch(b"".join(sent), [(at * records.MEETING.size, 0) for at in range(len(sent))])

    def set_python(self, pid: int, walk: bytes) -> bool:
        if self.walked and pid not in self.walked:
            return False
        self.walked = [pid]
        return True

    def forget_python(self, pid: int) -> None:
        self.walked.remove(pid)


def met(pid: int) -> bytes:
    stat = procfs.stat(pid)
    assert isinstance(stat, Value)
    start_ns = stat.value.start_time_ticks * 10_000_000
    return records.MEETING.pack(records.MET, 1, pid, start_ns, 4, pid, b"python")


@pytest.mark.skipif(sys.version_info[:2] > (3, 13), reason="frames of this Python are not read")
def test_a_python_process_without_room_is_a_gap_until_there_is_some() -> None:
    kernel = Kernel()
    encounters = Encounters(kernel, Capture())
    words = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        kernel.meetings = [met(first.pid), met(os.getpid())]
        encounters.meet()
        assert kernel.walked == [first.pid]
        assert any("Python" in gap for gap in encounters.take_gaps())
        assert any("Python" in gap for gap in encounters.take_gaps()), "it has no frames in the next segment, too"
        first.kill()
    encounters.forget_ended()
    assert kernel.walked == [os.getpid()]
    assert not encounters.take_gaps()
