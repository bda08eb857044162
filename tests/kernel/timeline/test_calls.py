"""Uprobes on libraries with CUDA's and NCCL's names: what was asked for, by which line of which process."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from osremed.core.reading import Value
from osremed.timeline.ledger import OF_CONTEXT, OF_HOST, UNSEEN, shares
from osremed.timeline.ordinals import Sight
from tests.kernel.timeline.conftest import MIB, PYTHONS, say

pytestmark = pytest.mark.kernel
ALONE = Sight("GPU-0", Value(frozenset(("GPU-0",))), Value(("GPU-0",)))


def settled(calls, pid, wanted, deadline_s=30.0):
    """The ledger of a process once it has seen so many allocations."""
    end = time.monotonic() + deadline_s
    while True:
        calls.take()
        ledger = calls.processes[pid].ledger
        if ledger.seen >= wanted:
            return ledger
        assert time.monotonic() < end, f"{ledger.seen} of {wanted} allocations were seen, {calls.document()}"
        time.sleep(0.02)


@pytest.mark.parametrize("python", PYTHONS, ids=lambda each: Path(each).parts[-3])
def test_each_of_800_allocations_by_40_threads_has_its_line(cuda, following, program, python):
    process, pid = program(python, "threads", cuda, 40, 20)
    calls = following()
    calls.look([pid])
    say(process)
    ledger = settled(calls, pid, 800)
    wrong = []
    for share in shares(ledger):
        number = share.sizes[0] // (2 * MIB) - 10
        line = share.place.lines[0] if share.place.lines else None
        expected = (f"ask_{number}", f"/made/worker_{number}.py", 10 + number)
        if line != expected or set(share.sizes) != {share.sizes[0]} or len(share.sizes) != 20:
            wrong.append((expected, line, share.sizes))
    assert not wrong
    assert len(shares(ledger)) == 40
    assert {share.place.library.rpartition("/")[2] for share in shares(ledger)} == {"libc10_cuda.so"}
    assert calls.document()["lost"] == 0


def test_each_cell_of_a_notebook_has_its_own_line_though_all_lay_at_one_address(cuda, following, program):
    process, pid = program(sys.executable, "cells", cuda)
    calls = following()
    calls.look([pid])
    for number in range(8):
        say(process)
        settled(calls, pid, number + 1)
        say(process, "gone")
    told = {share.sizes: share.place.lines[0].file for share in shares(calls.processes[pid].ledger)}
    assert told == {((10 + number) * 2 * MIB,): f"cell-{number:02d}" for number in range(8)}


def test_what_is_freed_refused_waited_for_and_reduced_is_told_apart(cuda, following, program):
    process, pid = program(sys.executable, "calls", cuda, FAKE_SYNC_MS="30")
    calls = following()
    calls.look([pid])
    say(process)
    ledger = settled(calls, pid, 5)
    held = {(share.place.function, share.place.library.rpartition("/")[2]): share.sizes for share in shares(ledger)}
    ctypes_caller = next(library for name, library in held if name == "cuMemCreate")
    assert held == {
        ("cudaMalloc", ctypes_caller): (7 * MIB,),
        ("cuMemCreate", ctypes_caller): (2 * MIB,),
        ("cudaMalloc", "libnccl.so.2"): (4 * MIB,),
    }, "what the runtime asks of the driver is not counted again"
    assert sum(ledger.failed.values()) == 1
    assert sum(ledger.released.values()) == 1
    assert ledger.unheard == 0 or ledger.unheard == 1  # the driver's part of the one release
    sums = {name: each for (of, name), each in calls.sums().items() if of == pid}
    assert (sums["ncclAllReduce"].count, sums["ncclAllReduce"].bytes) == (3, 12_000)
    assert (sums["ncclSend"].count, sums["ncclSend"].bytes) == (1, 4_000)
    assert sums["cudaStreamSynchronize"].count == 2
    assert sums["cudaStreamSynchronize"].total_ns >= 60e6
    assert sums["cudaStreamSynchronize"].longest_ns >= 30e6
    assert "cuStreamSynchronize" not in sums


def test_an_allocation_has_the_device_its_thread_chose_and_none_where_that_cannot_be_known(cuda, following, program):
    process, pid = program(sys.executable, "choices", cuda)
    calls = following()
    calls.look([pid])
    say(process)
    held = {share.sizes[0] // MIB: share.place.device for share in shares(settled(calls, pid, 10))}
    assert held == {
        1: 0,
        2: 3,
        3: 3,
        4: OF_CONTEXT,
        5: 3,
        6: OF_CONTEXT,
        7: 0,
        8: OF_CONTEXT,
        9: 2,
        10: OF_HOST,
    }


def test_a_thread_that_was_there_before_the_probes_may_have_chosen_any_device(cuda, following, program):
    process, pid = program(sys.executable, "serve", cuda, 26)
    calls = following()
    calls.look([pid])
    say(process, None)
    assert [share.place.device for share in shares(settled(calls, pid, 1))] == [UNSEEN]


def test_a_process_in_namespaces_of_its_own_has_its_lines_too(cuda, following, program, tmp_path):
    """Its libraries lie on a file system that nobody else sees, and it has another number inside."""
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    inside = tmp_path / "inside"
    inside.mkdir()
    shell = f'mount -t tmpfs none {inside} && cp {cuda}/* {inside} && exec "$@"'
    before = ("unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child", "sh", "-c", shell, "sh")
    process, number = program(sys.executable, "threads", inside, 3, 2, before=before)
    assert not list(inside.iterdir())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    pid = int(children[0])
    assert number != pid
    calls = following()
    calls.look([pid])
    say(process)
    lines = {share.place.lines[0].file for share in shares(settled(calls, pid, 6))}
    assert lines == {f"/made/worker_{number}.py" for number in range(3)}


def test_a_library_that_was_replaced_on_disk_is_probed_where_it_is_mapped(cuda, following, program, tmp_path):
    copies = tmp_path / "copies"
    shutil.copytree(cuda, copies)
    process, pid = program(sys.executable, "threads", copies, 2, 2)
    shutil.rmtree(copies)
    calls = following()
    calls.look([pid])
    say(process)
    settled(calls, pid, 4)


def test_too_many_calls_step_the_probes_down_and_the_gap_is_told(cuda, following, program):
    process, pid = program(sys.executable, "threads", cuda, 4, 500)
    calls = following(calls_per_s=50.0)
    calls.look([pid])
    say(process)
    calls.look([pid])
    assert calls.step == 1
    process, second = program(sys.executable, "threads", cuda, 4, 500)
    calls.look([second])
    say(process)
    calls.look([second])
    assert calls.step == 2
    process, third = program(sys.executable, "threads", cuda, 4, 500)
    calls.look([third])
    say(process)
    calls.look([third])
    assert calls.step == 3
    told = calls.explain({third: ALONE}, 64 * MIB, 0)[0]
    assert any("stepped down" in gap for gap in told["gaps"])
    assert {share.place.device for share in shares(calls.processes[third].ledger)} == {UNSEEN}, "nobody saw the choice"
    before = calls.probes.value.tally()[0]
    fourth, _pid = program(sys.executable, "threads", cuda, 2, 50)
    say(fourth)
    assert calls.probes.value.tally()[0] == before, "nothing is probed any more"
