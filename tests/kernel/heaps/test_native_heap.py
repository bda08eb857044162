"""C++ objects by class and malloc's arenas of a stripped program, against what it planted."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from osremed.core.reading import Reason
from osremed.panorama.heaps.collect import Wish, read_heap
from osremed.panorama.heaps.growth import compare
from osremed.panorama.heaps.model import HeapReport, NoHeap

pytestmark = pytest.mark.kernel

SOURCE = os.path.join(os.path.dirname(__file__), "planter.cc")
N = 40_000
LONG = Wish(limit_s=60.0, rows=100)


@pytest.fixture(scope="module", params=["dynamic", "static"])
def program(request, tmp_path_factory):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    path = tmp_path_factory.mktemp("cpp") / "planter"
    flags = (
        ["-static", "-Wl,--whole-archive", "-lpthread", "-Wl,--no-whole-archive"] if request.param == "static" else []
    )
    subprocess.run([compiler, "-O2", "-s", "-o", str(path), SOURCE, "-pthread", *flags], check=True)
    return str(path)


def report_of(pid: int) -> HeapReport:
    heap = read_heap(pid, LONG)
    assert isinstance(heap, HeapReport), heap
    return heap


def test_objects_of_a_stripped_program_are_counted_to_the_object(start, program):
    target = start([program, str(N)])
    counts = {row.name: row.count for row in report_of(target.pid).snapshot.types}
    for name in ("Session", "Order", "Both"):
        assert counts[f"app::{name}"] == target.planted[name]
    shared = [count for name, count in counts.items() if name.startswith("std::_Sp_counted_ptr_inplace<app::Shared")]
    assert shared == [target.planted["Shared"]]  # in the arena of another thread
    assert counts["malloc chunks of 96 bytes"] == pytest.approx(N // 4, abs=5)


def test_arenas_agree_with_malloc_itself(start, program):
    """The parts of each arena close, and [heap] is as long as the kernel says."""
    target = start([program, str(N)])
    arenas = report_of(target.pid).snapshot.arenas
    with open(f"/proc/{target.pid}/maps") as maps:
        low, high = next(line.split()[0] for line in maps if line.rstrip().endswith("[heap]")).split("-")
    assert arenas[0].name == "[heap]"
    assert abs(arenas[0].bytes - (int(high, 16) - int(low, 16))) < 4096
    for arena in arenas:
        assert arena.in_use_bytes + arena.free_bytes + arena.top_bytes == arena.bytes
    assert len(arenas) == 2


def test_growth_of_a_class(start, program):
    target = start([program, str(N)])
    before = report_of(target.pid).snapshot
    assert target.say("25000") == "grown"
    growth = compare(before, report_of(target.pid).snapshot)
    assert growth.types[0].name == "app::Session"
    assert growth.types[0].count_per_s * growth.window_s == pytest.approx(25_000)


def test_what_has_no_known_allocator_is_unsupported(start):
    """A program whose first mapping of the heap is no chunk of glibc's."""
    target = start(["/bin/sh", "-c", "echo '{}'; read line"])
    with open(f"/proc/{target.pid}/maps") as maps:
        low = int(next(line for line in maps if line.rstrip().endswith("[heap]")).split("-")[0], 16)
    os.kill(target.pid, 19)
    with open(f"/proc/{target.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(low)
        memory.write(b"\xff" * 4096)
    heap = read_heap(target.pid, LONG)
    assert isinstance(heap, NoHeap)
    assert heap.missing.reason is Reason.UNSUPPORTED
