"""What recording costs: run statistics of the BPF programs, on for a part of each round and in each window of system
calls, and the recorder's own CPU."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from osremed.hotspot.sensor import COUNTING, SAMPLING, Sensor, measuring


class Meter:
    """`begin` and `end` around the part of a round in which run statistics are on, which stands for all of it; `window`
    around a window of system calls, which stands for itself; `round` adds up. `cost` is of the last round: seconds of
    wall time, of BPF and of this process."""

    def __init__(self, sensor: Sensor) -> None:
        self._sensor = sensor
        self._measured_s = self._measured_run_s = 0.0
        self._measured_at = self._windows_run_s = 0.0
        self.cost: dict[str, float] = {"wall_s": 0.0, "bpf_s": 0.0, "own_s": 0.0}
        self._own_before_s = time.process_time()

    def reset(self) -> None:
        """What starting cost is not the price of recording."""
        self._own_before_s = time.process_time()

    def begin(self) -> None:
        self._measuring = measuring()
        self._measured_at = time.monotonic()
        self._run_before_s = self._sensor.run_time_s(SAMPLING)

    def end(self) -> None:
        if not self._measured_at:
            return
        self._measured_run_s = self._sensor.run_time_s(SAMPLING) - self._run_before_s
        self._measured_s = time.monotonic() - self._measured_at
        self._measuring.close()
        self._measured_at = 0.0

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        with measuring():
            before_s = self._sensor.run_time_s(COUNTING)
            yield
            self._windows_run_s += self._sensor.run_time_s(COUNTING) - before_s

    def round(self, wall_s: float) -> None:
        own_s = time.process_time()
        busy_s = self._measured_run_s / self._measured_s * wall_s if self._measured_s else 0.0
        busy_s += self._windows_run_s
        self._windows_run_s = 0.0
        self.cost = {"wall_s": wall_s, "bpf_s": busy_s, "own_s": own_s - self._own_before_s}
        self._own_before_s = own_s

    def share(self) -> float:
        """Of the machine, in the last round."""
        cost = self.cost
        return (cost["bpf_s"] + cost["own_s"]) / cost["wall_s"] / len(self._sensor.cpus) if cost["wall_s"] else 0.0

    def document(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in self.cost.items()}
