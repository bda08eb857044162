"""Allocations that were seen -> what is held by which line, why, and what to do; ranks told apart by their calls."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.units import parse_bytes
from osremed.timeline.callprobes import FUNCTIONS, Flight, Sum, parse_call
from osremed.timeline.jobcalls import Rank, Streaks, jobs, ranks, standstill
from osremed.timeline.ledger import Held, Ledger, Line, Place, shares
from osremed.timeline.memorychain import cause, chain, family, own_line, sentence

MIB = parse_bytes("1 MiB")
OWN = Line("Runner.attention", "/srv/runner.py", 41)
TORCH = Line("decorate_context", "/usr/lib/python3/site-packages/torch/utils/_contextlib.py", 116)
CACHING = Place("cudaMalloc", "/opt/venv/torch/lib/libc10_cuda.so", 0x1200, (OWN, TORCH))


def filled(*allocations):
    ledger = Ledger()
    for number, (size, place) in enumerate(allocations, 1):
        ledger.allocated(number * 0x1000, Held(number, size, place))
    return ledger


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 30), st.integers(1, 1 << 30)), max_size=200))
def test_what_is_held_is_what_was_allocated_and_not_freed(steps):
    ledger, held = Ledger(), {}
    for at, (allocates, address, size) in enumerate(steps):
        if allocates:
            ledger.allocated(address, Held(at, size, CACHING))
            held[address] = size
        else:
            ledger.freed(address)
            held.pop(address, None)
    assert sum(share.bytes for share in shares(ledger)) == sum(held.values())
    assert sum(len(share.sizes) for share in shares(ledger)) == len(held)


def test_only_what_was_allocated_since_the_growth_began_is_told_the_most_first():
    other = Place("cudaMalloc", "/usr/lib/libnccl.so.2", 1, ())
    ledger = filled((500 * MIB, other), (26 * MIB, CACHING), (4 * MIB, other), (26 * MIB, CACHING))
    found = shares(ledger, since_ns=2)
    assert [(share.place, share.sizes) for share in found] == [(CACHING, (26 * MIB, 26 * MIB)), (other, (4 * MIB,))]


def test_a_chain_goes_from_the_growth_to_the_line_to_what_helps():
    told = chain(shares(filled(*[(26 * MIB, CACHING)] * 4)), 104 * MIB, {}, [])
    assert told["explained"] == 1.0
    assert told["line"] == "/srv/runner.py:41"
    assert told["cause"] == "inference-reserve"
    assert told["signature"] == "caching allocator, segment of its own (k x 2 MiB)"
    assert any("PYTORCH_ALLOC_CONF" in each for each in told["advice"])
    assert any(each.startswith("not expandable_segments") for each in told["advice"])
    assert "/srv/runner.py:41" in sentence(told)


def test_the_latest_allocations_are_marked_with_the_wall_clock():
    told = chain(shares(filled(*[(26 * MIB, CACHING)] * 12)), 312 * MIB, {}, [], boot_wall_ns=1000)
    assert told["places"][0]["marks"] == [[1000 + at, 26 * MIB] for at in range(3, 13)]


def test_growth_that_nobody_saw_says_so_and_blames_nobody():
    told = chain([], 64 * MIB, {}, ["it maps no library that is probed"])
    assert (told["explained"], told["places"], "cause" in told) == (0.0, [], False)
    assert "none of the 64.0 MiB" in sentence(told)


@pytest.mark.parametrize(
    ("function", "library", "symbol", "lines", "expected"),
    [
        ("cudaMalloc", "/x/libc10_cuda.so", "", (OWN,), "reserve"),
        ("cudaMalloc", "/x/static_server", "_ZN3c104cuda20CUDACachingAllocator5alloc", (OWN,), "reserve"),
        ("cuMemCreate", "/x/libc10_cuda.so", "", (OWN, TORCH), "expandable-reserve"),
        ("cudaMalloc", "/x/nvidia/nccl/lib/libnccl.so.2", "", (), "communicator-buffers"),
        ("cudaMallocAsync", "/x/libcublasLt.so.12", "", (), "library-workspace"),
        ("cudaMalloc", "/x/_ext.so", "", (OWN,), "direct"),
    ],
)
def test_the_cause_comes_from_who_called_and_how(function, library, symbol, lines, expected):
    place = Place(function, library, 1, lines)
    assert cause(place, family(place, symbol)).name == expected


def test_the_line_of_the_program_is_told_before_those_of_frameworks():
    inside = Line("forward", "/usr/lib/python3/site-packages/torch/nn/modules/linear.py", 125)
    assert own_line((inside, OWN, TORCH)) == OWN
    assert own_line((inside,)) == inside
    assert own_line(()) is None


@given(st.binary(max_size=200))
def test_a_record_that_is_torn_is_refused_and_never_half_read(data):
    try:
        call = parse_call(data)
    except (struct.error, IndexError):
        return
    assert call.function in FUNCTIONS
    assert len(call.python) * 16 + 80 <= len(data)


def sums(**pids):
    found = {}
    for name, (count, waited_s) in pids.items():
        pid = int(name[1:])
        found[pid, "ncclAllReduce"] = Sum(count, 0, 0, 0, 0)
        found[pid, "cudaStreamSynchronize"] = Sum(count, round(waited_s * 1e9), 0, 0, 0)
    return found


def test_processes_that_enter_as_many_collectives_are_one_job():
    found = ranks(
        sums(p1=(10, 1.0), p9=(0, 0.0)), sums(p1=(110, 3.0), p2=(101, 1.0), p3=(500, 1.0), p4=(2, 1.0), p9=(0, 0))
    )
    assert found[0] == Rank(1, 100, 2.0)
    assert [[each.pid for each in job] for job in jobs(found)] == [[1, 2]]


def test_a_rank_is_slow_only_when_it_waits_least_again_and_again():
    streaks = Streaks()
    looks = 0
    for _ in range(40):
        looks += 1
        slow = streaks.look([Rank(1, 100, 3.0), Rank(2, 100, 0.4), Rank(3, 100, 2.9), Rank(4, 100, 3.1)], 10.0)
        if slow:
            break
    assert [each.pid for each in slow] == [2]
    assert slow[0].others == (1, 3, 4)
    assert 0.2 < slow[0].share < 0.3
    assert slow[0].p_value <= 1e-6
    assert looks == 11


def test_ranks_that_take_turns_or_hardly_differ_are_not_slow():
    streaks = Streaks()
    for look in range(200):
        turn = [Rank(pid, 100, 0.4 if pid == look % 4 else 3.0) for pid in range(4)]
        assert streaks.look(turn, 10.0) == []
    for _ in range(200):
        assert streaks.look([Rank(1, 100, 3.00), Rank(2, 100, 2.90)], 10.0) == []


def test_who_entered_fewer_collectives_than_those_that_wait_is_behind():
    now_ns = 1_000_000_000_000
    waits = [Flight(pid, pid, "cudaStreamSynchronize", now_ns - 400_000_000_000) for pid in (1, 3)]
    found = standstill(waits, sums(p1=(50, 0), p2=(49, 0), p3=(50, 0), p7=(5000, 0)), now_ns, 300.0)
    assert (found.waiting, found.behind, round(found.seconds)) == ((1, 3), (2,), 400)
    assert standstill(waits, sums(p1=(50, 0)), now_ns, 300.0).behind == ()
    assert standstill(waits, {}, now_ns - 200_000_000_000, 300.0) is None
