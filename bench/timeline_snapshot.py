#!/usr/bin/env python3
"""What one snapshot of 8 GPUs costs: CPU time of the watch and of its eight probes, without the driver's own work (the
fake driver of the tests answers at once; its own reading of the scenario is in the figure)."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from figures import tell

ROOT = Path(__file__).resolve().parents[1]
GPUS, ROUNDS = 8, 100


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from tests.support.fakenvml import Scenario, build  # noqa: PLC0415

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

    def children_s() -> float:
        spent = 0
        for probe in probes:
            fields = read_file(f"/proc/{probe.pid}/stat").rpartition(b")")[2].split()
            spent += int(fields[11]) + int(fields[12])
        return spent / os.sysconf("SC_CLK_TCK")

    probes = [Probe(serve_gpu(index)) for index in range(GPUS)]
    histories, alerts, settings = [History(600) for _ in probes], Alerts(), Settings()

    def snapshot(at_s: float) -> None:
        for probe in probes:
            probe.ask(time.monotonic_ns())
        for index, probe in enumerate(probes):
            while not (told := probe.answers()):
                time.sleep(0.0005)
            histories[index].add(at_s, snapshot_from_json(told[0]["snapshot"]))
            alerts.judge_all(f"gpu{index}", histories[index], settings, {})

    snapshot(0.0)
    own_s, theirs_s = time.process_time(), children_s()
    for each in range(ROUNDS):
        snapshot(10.0 * (each + 1))
    own_ms = (time.process_time() - own_s) / ROUNDS * 1000
    theirs_ms = (children_s() - theirs_s) / ROUNDS * 1000
    print(f"{GPUS} GPUs, a snapshot: watch {own_ms:.2f} ms, probes {theirs_ms:.2f} ms of CPU")
    tell(f"a look at {GPUS} GPUs, beyond the driver's own work", "ms", {"osremed": [own_ms + theirs_ms]}, {"": 5})
    for probe in probes:
        probe.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
