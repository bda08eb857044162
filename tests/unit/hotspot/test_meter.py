"""What recording costs, told whole."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from osremed.hotspot import meter
from osremed.hotspot.meter import Meter
from osremed.hotspot.sensor import COUNTING, SAMPLING


class Programs:
    """Run times as the kernel counts them: while statistics are on."""

    def __init__(self) -> None:
        self.cpus, self.run_s, self.on = [0, 1], dict.fromkeys((*SAMPLING, *COUNTING), 0.0), 0

    def run_time_s(self, programs: Sequence[str]) -> float:
        return sum(self.run_s[name] for name in programs)

    def runs(self, name: str, seconds: float) -> None:
        self.run_s[name] += seconds * bool(self.on)

    @contextlib.contextmanager
    def measuring(self) -> Any:
        self.on += 1
        yield
        self.on -= 1


@pytest.mark.parametrize("inside", [False, True])
def test_each_window_of_system_calls_counts_once_wherever_it_lies(
    monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    programs, now_s = Programs(), [100.0]

    class Statistics(contextlib.ExitStack):
        def __init__(self) -> None:
            super().__init__()
            self.enter_context(programs.measuring())

    monkeypatch.setattr(meter, "measuring", Statistics)
    monkeypatch.setattr(meter.time, "monotonic", lambda: now_s[0])
    made = Meter(programs)  # type: ignore[arg-type]

    def window() -> None:
        with made.window():
            programs.runs("on_call", 0.02)

    for tick in range(10):
        if tick == 1:
            made.begin()
        if tick == 2:
            made.end()
        programs.runs("on_switch", 0.003)
        if tick % 4 == (1 if inside else 0):
            window()
        now_s[0] += 1.0
    made.round(10.0)
    assert made.cost["bpf_s"] == pytest.approx(10 * 0.003 + 3 * 0.02)
    made.round(10.0)
    assert made.cost["bpf_s"] == pytest.approx(10 * 0.003), "windows of the round before do not count again"
