"""The trace of page allocations: asked for, or because too much is unaccounted for; told in text, page and finding."""

from __future__ import annotations

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.collect import Sources, collect_panorama
from osremed.panorama.document import as_document
from osremed.panorama.render import render
from osremed.panorama.sources import kernel_sources
from osremed.sensors import alloctrace
from osremed.sensors.alloctrace import AllocationTrace, Keeper

MIB = 1 << 20
TRACE = AllocationTrace(
    2.0, 900, 0,
    (
        Keeper(64 * MIB, 9, "slab", ("allocate_slab", "new_slab"), "app", 7),
        Keeper(5 * MIB, 80, "", ("packet_set_ring", "do_syscall_64"), "tcp\x1bdump", 9),
    ),
)  # fmt: skip
#: Of 1,000,000 kB: what the counters of the conftest leave over, and twice what a healthy host shows.
HEALTHY, STRAYED = {"MemFree": 468_000}, {"MemFree": 400_000}


@pytest.fixture
def asked(monkeypatch):
    """For how long was traced, each time."""
    seconds = []

    def trace(wanted_s):
        seconds.append(wanted_s)
        return Value(TRACE)

    monkeypatch.setattr(alloctrace, "trace_allocations", trace)
    return seconds


def look(proc, trace_s):
    only = kernel_sources(trace_s=trace_s, trace_if_large_s=2.0).allocations
    return collect_panorama(proc_root=proc.root, sources=Sources(allocations=only))


@pytest.mark.parametrize(
    ("meminfo", "trace_s", "expected"),
    [(HEALTHY, None, []), (STRAYED, None, [2.0]), (HEALTHY, 5.0, [5.0]), (STRAYED, 5.0, [5.0]), (STRAYED, 0.0, [])],
)
def test_it_runs_when_asked_or_when_too_much_is_unaccounted_for(proc, asked, meminfo, trace_s, expected):
    proc.meminfo(**meminfo)
    found = look(proc, trace_s)
    assert asked == expected
    assert bool(found.allocations) is bool(expected)
    assert ("allocations" in [layer.name for layer in found.layers]) is bool(expected)


def test_who_keeps_pages_is_in_the_finding_the_text_and_the_document(proc, asked):
    proc.meminfo(**STRAYED)
    found = look(proc, None)
    finding = next(each.finding for each in found.findings if each.finding.name == "kernel-unaccounted")
    assert "packet_set_ring kept 5 MiB" in finding.summary.replace("5.00", "5").replace("5.0", "5")
    assert "allocate_slab" not in finding.summary  # the balance has that
    text = render(found)
    assert "packet_set_ring < do_syscall_64" in text
    assert "\x1b" not in text
    keepers = as_document(found)["allocations"]["keepers"]
    assert [each["counted_as"] for each in keepers] == ["", "slab"]


def test_a_trace_that_cannot_run_is_a_gap(proc, monkeypatch):
    monkeypatch.setattr(
        alloctrace, "trace_allocations", lambda wanted_s: Missing(Reason.UNSUPPORTED, "bpf", "this kernel has no BTF")
    )
    found = look(proc, 1.0)
    assert found.allocations == {}
    assert ("allocations", "this kernel has no BTF") in [(gap.layer, gap.missing.detail) for gap in found.gaps]
