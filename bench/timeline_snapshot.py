#!/usr/bin/env python3
"""What one snapshot of 8 GPUs costs: CPU time of the watch and of its eight probes, by the scheduler's own count. The
fake driver of the tests answers at once; what it takes to look at its scenario file is in the figure, and told."""

from __future__ import annotations

import ctypes
import os
import select
import sys
import tempfile
import time
from pathlib import Path

from figures import tell

ROOT = Path(__file__).resolve().parents[1]
GPUS, ROUNDS = 8, 100


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from osremed.demo.fakenvml import Scenario, build  # noqa: PLC0415

    folder = tempfile.mkdtemp()
    if "OSREMED_FAKE_NVML" not in os.environ:  # the loader reads LD_LIBRARY_PATH at start only
        library = build(Path(folder))
        Scenario(Path(folder, "scenario")).set(gpus=GPUS)
        os.environ.update(LD_LIBRARY_PATH=str(library.parent), OSREMED_FAKE_NVML=f"{folder}/scenario")
        os.execv(sys.executable, [sys.executable, *sys.argv])
    from osremed.sensors.procfs import read_file  # noqa: PLC0415
    from osremed.timeline.alerts import Alerts  # noqa: PLC0415
    from osremed.timeline.model import snapshot_from_json  # noqa: PLC0415
    from osremed.timeline.probing import Probe, serve_gpu  # noqa: PLC0415
    from osremed.timeline.rules import History  # noqa: PLC0415
    from osremed.timeline.settings import Settings  # noqa: PLC0415

    def spent_ms(pids: list[int]) -> float:
        return sum(int(read_file(f"/proc/{pid}/schedstat").split()[0]) for pid in pids) / 1e6

    probes = [Probe(serve_gpu(index)) for index in range(GPUS)]
    histories, alerts, settings = [History(600) for _ in probes], Alerts(), Settings()

    def snapshot(at_s: float) -> None:
        for probe in probes:
            probe.ask(time.monotonic_ns())
        waiting = {probe.fd: index for index, probe in enumerate(probes)}
        while waiting:
            for fd in [fd for fd, _ in poll.poll() if fd in waiting]:
                index = waiting.pop(fd)
                histories[index].add(at_s, snapshot_from_json(probes[index].answers()[0]["snapshot"]))
                alerts.judge_all(f"gpu{index}", histories[index], settings, {})

    for probe in probes:
        probe.ask(time.monotonic_ns())
    poll = select.poll()
    for probe in probes:
        poll.register(probe.fd, select.POLLIN)
    snapshot(0.0)
    pids = [probe.pid for probe in probes]
    own_ms, theirs_ms = spent_ms([os.getpid()]), spent_ms(pids)
    for each in range(ROUNDS):
        snapshot(10.0 * (each + 1))
    own_ms, theirs_ms = (spent_ms([os.getpid()]) - own_ms) / ROUNDS, (spent_ms(pids) - theirs_ms) / ROUNDS
    drivers_ms = GPUS * driver_ms()
    print(f"{GPUS} GPUs, a snapshot: watch {own_ms:.2f} ms, probes {theirs_ms:.2f} ms of CPU")
    print(f"of it the fake driver's own: about {drivers_ms:.2f} ms")
    tell(f"a look at {GPUS} GPUs, beyond the driver's own work", "ms", {"osremed": [own_ms + theirs_ms]}, {"": 5})
    for probe in probes:
        probe.close()
    return 0


def driver_ms() -> float:
    """The fake driver's part of a snapshot: its calls, each beyond what a call into C takes at all."""
    from osremed.sensors.nvml import Nvml, snapshot  # noqa: PLC0415

    class Counted(Nvml):
        calls = 0

        def code(self, name: str, *arguments: object) -> int:
            self.calls += 1
            return super().code(name, *arguments)

    def call_ms(function: object, *arguments: object) -> float:
        began = time.process_time()
        for _ in range(5000):
            function(*arguments)  # type: ignore[operator]
        return (time.process_time() - began) / 5

    nvml = Counted()
    device, place = nvml.device(0), ctypes.c_uint()
    identity = nvml.identity(0, device)
    nvml.calls = 0
    snapshot(nvml, identity, device)
    library = ctypes.CDLL("libnvidia-ml.so.1")
    beyond = call_ms(library.nvmlDeviceGetPowerUsage, device, ctypes.byref(place)) - call_ms(ctypes.CDLL(None).getpid)
    return nvml.calls * beyond


if __name__ == "__main__":
    sys.exit(main())
