"""A probe watches until there is a verdict, and what it did not see is a gap."""

from __future__ import annotations

import pytest

from osremed.agent import probes
from osremed.agent.probes import ProbeKind, prepare_probe, run_probe
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput
from osremed.core.probe import Verdict, parse_tolerance, sample_from_json
from osremed.core.reading import Missing, Reason, Value


@pytest.fixture
def scripted(monkeypatch):
    """Runs a probe whose readings come from a function of time; `stalls`: at which second how long the host stops."""

    def run(reading_at, expect="value > 0.5", within_s=10.0, hold_s=2.0, stalls=()):
        clock, pending = FakeClock(), dict(stalls)
        begin_ns = clock.monotonic_ns()

        def seconds():
            return (clock.monotonic_ns() - begin_ns) / 1e9

        def sleep(duration_s):
            clock.advance(duration_s)
            for at_s in [each for each in pending if seconds() >= each]:
                clock.advance(pending.pop(at_s))

        kind = ProbeKind(lambda: lambda: reading_at(seconds()), {})
        monkeypatch.setitem(probes.PROBES, "test.value", kind)
        tolerance = parse_tolerance(expect, within_s=within_s, hold_s=hold_s)
        return run_probe("test.value", {}, tolerance, clock, sleep)

    return run


def test_it_stops_as_soon_as_the_value_held(scripted):
    probed = scripted(lambda at_s: Value(0.9))
    assert probed.verdict is Verdict.HOLDS
    assert [sample.at_s for sample in probed.samples] == [pytest.approx(n / 4) for n in range(9)]


def test_it_waits_for_the_value_to_recover(scripted):
    probed = scripted(lambda at_s: Value(0.9 if at_s >= 5 else 0.1))
    assert (probed.verdict, probed.samples[-1].at_s) == (Verdict.HOLDS, pytest.approx(7.0))


def test_it_ends_with_the_window(scripted):
    probed = scripted(lambda at_s: Value(0.1))
    assert (probed.verdict, probed.samples[-1].at_s) == (Verdict.FAILS, pytest.approx(10.0))


def test_a_value_that_begins_to_hold_too_late_fails(scripted):
    assert scripted(lambda at_s: Value(0.9 if at_s > 8.1 else 0.1)).verdict is Verdict.FAILS


def test_a_hold_as_long_as_the_window_is_possible(scripted):
    assert scripted(lambda at_s: Value(0.9), within_s=2.0, hold_s=2.0).verdict is Verdict.HOLDS


def test_what_cannot_be_read_is_unknown(scripted):
    probed = scripted(lambda at_s: Missing(Reason.GONE, "group"))
    assert probed.verdict is Verdict.UNKNOWN


def test_a_stalled_host_saw_nothing_hold(scripted):
    probed = scripted(lambda at_s: Value(0.9), within_s=60, hold_s=3.0, stalls={1: 2.5})
    gaps = [sample for sample in probed.samples if isinstance(sample.reading, Missing)]
    assert [gap.reading.reason for gap in gaps] == [Reason.TIMED_OUT]
    assert probed.verdict is Verdict.HOLDS
    assert probed.samples[-1].at_s >= 3.5 + 3.0


def test_a_stall_at_the_end_is_not_a_pass(scripted):
    assert scripted(lambda at_s: Value(0.9), within_s=3, hold_s=3, stalls={1: 5}).verdict is Verdict.FAILS


def test_a_long_window_costs_no_more_samples(scripted):
    probed = scripted(lambda at_s: Value(0.1), within_s=36_000, hold_s=60)
    assert len(probed.samples) <= 2402


def test_the_document_can_be_judged_again_elsewhere(scripted):
    document = scripted(lambda at_s: Value(0.9)).as_json()
    assert document["verdict"] == "HOLDS"
    assert [sample_from_json(sample).reading for sample in document["samples"]] == [Value(0.9)] * 9


@pytest.mark.parametrize(
    ("name", "arguments", "what"),
    [
        ("memory.free", {}, "no probe"),
        ("memory.available_ratio", {"scope": "a"}, "not a scope"),
        ("memory.available_ratio", {"scope": "/a/../b"}, "not a scope"),
        ("memory.available_ratio", {"scope": 1.5}, "argument scope"),
        ("memory.available_ratio", {"node": True}, "unknown argument"),
        ("memory.available_ratio", {"pid": 1}, "unknown argument"),
    ],
)
def test_another_name_or_argument_is_refused_with_the_list(name, arguments, what):
    with pytest.raises(BadInput, match=what) as caught:
        prepare_probe(name, arguments)
    assert caught.value.hint


def test_this_hosts_memory_is_a_share_and_a_size():
    ratio = prepare_probe("memory.available_ratio", {"scope": "node"})()
    size = prepare_probe("memory.available_bytes", {"scope": "node"})()
    assert isinstance(ratio, Value)
    assert isinstance(size, Value)
    assert 0 < ratio.value <= 1
    assert size.value > 1 << 20


def test_a_group_that_does_not_exist_is_missing_not_zero():
    reading = prepare_probe("memory.available_ratio", {"scope": "/no/such/group"})()
    assert isinstance(reading, Missing)
