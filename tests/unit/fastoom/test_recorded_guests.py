"""What guests of 768 MB with a slow disk went through, replayed: a leak beside four services that use a file cache of
300 MiB (no guard ran), and readers, a backup and a compiler beside a big idle heap. Five looks a second."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from osremed.core.reading import Value
from osremed.fastoom.growth import Growth
from osremed.fastoom.model import Signals
from osremed.fastoom.policy import SENSITIVITY
from osremed.fastoom.pressure import for_growers_alone, needs_action
from osremed.fastoom.stall import Sample, Window

DATA = Path(__file__).with_name("data")


def seen(name: str) -> Iterator[tuple[float, Signals]]:
    """(seconds, what the guard would have measured then)."""
    window, growth = Window(), Growth()
    with (DATA / f"{name}.csv").open(encoding="ascii") as stream:
        for row in csv.DictReader(stream):
            figure = {key: int(value) for key, value in row.items()}
            size = {key[:-3]: value << 10 for key, value in figure.items() if key.endswith("_kb")}
            now_ns = figure["at_ms"] * 1_000_000
            counters = [figure[f"{key}_pages"] for key in ("refaulted", "scanned", "reclaimed")]
            window.add(Value(Sample(now_ns, figure["full_us"], *counters)))
            grown = growth.note(now_ns, size["anon"] + size["swap_total"] - size["swap_free"])
            limit = size["available"] + size["anon"]
            if growth.due(now_ns, limit):
                growth.keep(now_ns, ())
            yield (
                now_ns / 1e9,
                Signals(
                    limit,
                    size["available"],
                    size["swap_total"],
                    size["swap_free"],
                    stall=window.stall(size["file_lru"]),
                    grown_bytes=grown,
                    crept_bytes=growth.crept_bytes(now_ns),
                ),
            )


def needs(name: str, sensitivity: str = "medium") -> list[tuple[float, Signals]]:
    thresholds = SENSITIVITY[sensitivity]
    return [(at_s, signals) for at_s, signals in seen(name) if needs_action(signals, thresholds)]


def test_a_leak_is_met_within_a_second_of_the_first_stall_while_half_the_memory_counts_as_available() -> None:
    at_s, signals = needs("leak-no-swap")[0]
    assert 18.4 < at_s < 19.4, (
        "reclaim begins at 18.3 s, and 3 s later the heartbeat of this host had stopped for 1.6 s"
    )
    assert signals.available_ratio > 0.4
    assert for_growers_alone(signals, SENSITIVITY["medium"])


def test_a_leak_on_a_host_with_swap_is_met_when_swap_is_full_and_not_before() -> None:
    at_s, signals = needs("leak-swap")[0]
    assert signals.swap_free_bytes < 0.08 * signals.swap_total_bytes
    assert at_s < 89, "the stall begins at 88 s"


@pytest.mark.parametrize("name", ["innocents-no-swap", "innocents-swap"])
@pytest.mark.parametrize("sensitivity", ["low", "medium", "high"])
def test_readers_beside_a_big_idle_heap_are_no_near_oom(name: str, sensitivity: str) -> None:
    assert needs(name, sensitivity) == []


def test_the_readers_did_stall_their_host_and_only_for_moments() -> None:
    stalls = [signals.stall for _, signals in seen("innocents-no-swap")]
    assert any(getattr(stall, "full_ratio", 0) > 0.4 for stall in stalls)
    assert all((getattr(stall, "lasting_ratio", 0) or 0) < 0.4 for stall in stalls)
