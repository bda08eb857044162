from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import address_space, procfs
from osremed.sensors.address_space import ProcessLost, open_address_space, parse_maps

PAGE = address_space.PAGE_BYTES
LINE = b"7f0000000000-7f0000002000 rw-p 00001000 fe:00 42                         /a b (deleted)\n"


def own_space() -> address_space.AddressSpace:
    opened = open_address_space(os.getpid())
    assert isinstance(opened, Value)
    return opened.value


def address_of(buffer) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def test_a_line_of_maps_is_read_with_blanks_in_its_path():
    (mapping,) = parse_maps(LINE)
    assert mapping.path == "/a b (deleted)"
    assert (mapping.bytes, mapping.offset, mapping.inode, mapping.private_writable) == (8192, 4096, 42, True)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\n",
        b"2000-1000 rw-p 00000000 00:00 0\n",
        LINE + LINE,  # tells the same twice
        LINE + b"7f0000000000-7f0000001000 rw-p 00001000 fe:00 42\n",  # ends before what was told
        LINE.replace(b"rw-p", b"rwxz"),
        b"7f0000000000-7f0000002000 rw-p 00001000 fe:00 \n",
        b"f" * 17 + b"-" + b"f" * 18 + b" rw-p 00000000 00:00 0\n",
    ],
)
def test_what_the_kernel_would_not_write_is_refused(data):
    with pytest.raises(ValueError, match=r"maps|ascending"):
        parse_maps(data)


@pytest.mark.parametrize(
    ("told", "grown", "left"),
    [
        (["1000-2000", "2000-3000"], "2000-5000", ["1000-2000", "2000-5000"]),
        (["1000-2000", "2000-3000"], "1000-5000", ["1000-5000"]),
        (["1000-4000"], "2000-5000", ["1000-2000", "2000-5000"]),
        (["1000-2000", "3000-4000"], "1800-5000", ["1000-1800", "1800-5000"]),
    ],
)
def test_a_mapping_that_grew_while_the_kernel_wrote_takes_the_place_of_what_it_told_before(told, grown, left):
    text = "".join(f"{span} rw-p 00000000 00:00 0\n" for span in [*told, grown])
    assert [f"{one.start:x}-{one.end:x}" for one in parse_maps(text.encode())] == left


MOVER = """
import ctypes, mmap, sys
PAGE, COUNT = mmap.PAGESIZE, 512
area = mmap.mmap(-1, COUNT * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
mprotect = ctypes.CDLL(None, use_errno=True).mprotect
mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
def protect(at, pages, how):
    if mprotect(base + at * PAGE, pages * PAGE, how):
        raise OSError(ctypes.get_errno(), "mprotect")
for at in range(1, COUNT, 2):
    protect(at, 1, 1)
print("mapped", flush=True)
while True:
    for at in range(1, COUNT, 2):
        protect(at, 1, 3)  # one mapping with both its neighbours
        protect(at, 1, 1)
"""


def test_the_mappings_of_a_process_that_changes_them_meanwhile_are_read():
    with subprocess.Popen([sys.executable, "-c", MOVER], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "mapped\n"
            for _ in range(400):
                read = address_space.mappings(child.pid)
                assert isinstance(read, Value), read
                ends = [(one.start, one.end) for one in read.value]
                assert all(before[1] <= after[0] for before, after in zip(ends, ends[1:]))
        finally:
            child.kill()


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data):
    try:
        parse_maps(data)
    except ValueError:
        return


@given(st.integers(0, 100), st.binary(min_size=1, max_size=3))
def test_a_damaged_line_is_parsed_or_refused(at, junk):
    data = LINE[:at] + junk + LINE[at + 1 :]
    try:
        found = parse_maps(data)
    except ValueError:
        return
    assert all(one.start < one.end for one in found)


def test_own_memory_is_read_back():
    buffer = ctypes.create_string_buffer(b"here I am", 64)
    space = own_space()
    assert space.read(ctypes.addressof(buffer), 9) == b"here I am"
    assert space.faults == 0


def test_one_bad_pointer_among_many_is_none_and_costs_no_other():
    buffers = [ctypes.create_string_buffer(b"%08d" % i, 8) for i in range(3000)]
    spans = [(ctypes.addressof(one), 8) for one in buffers]
    for place in (0, 7, 1023, 1024, 2999):
        spans[place] = (8, 8)
    spans[5] = (0, 8)
    spans[6] = (1 << 60, 8)
    spans[9] = (ctypes.addressof(buffers[9]), 0)
    space = own_space()
    answers = space.read_many(spans)
    bad = [i for i, answer in enumerate(answers) if answer is None]
    assert bad == [0, 5, 6, 7, 9, 1023, 1024, 2999]
    assert all(answers[i] == b"%08d" % i for i in range(3000) if i not in bad)
    assert space.faults == len(bad)


def test_a_hole_ends_a_prefix():
    area = mmap.mmap(-1, 2 * PAGE)
    start = address_of(area)
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(start + PAGE), PAGE, 0) == 0
    space = own_space()
    assert len(space.read_prefix(start, 2 * PAGE)) == PAGE
    assert space.read(start, 2 * PAGE) is None
    assert space.faults == 2


def test_only_pages_in_memory_are_listed():
    area = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = address_of(area)
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), 64 * PAGE, 15)  # MADV_NOHUGEPAGE
    for page in (3, 4, 20):
        area[page * PAGE] = 1
    space = own_space()
    mapping = next(one for one in space.maps if one.start <= start < one.end)
    runs = space.resident([mapping], time.monotonic() + 10).runs
    inside = [(max(low, start), min(high, start + 64 * PAGE)) for low, high in runs if high > start]
    pages = [((low - start) // PAGE, (high - start) // PAGE) for low, high in inside if low < high]
    assert pages == [(3, 5), (20, 21)]


def test_a_deadline_bounds_a_huge_address_space():
    """1 TiB reserved and never touched: with time it is searched and empty; without time it is a gap of that size."""
    script = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p\n"
        "at = libc.mmap(None, ctypes.c_size_t(1 << 40), 3, 0x4022, -1, 0)\n"  # NORESERVE | ANONYMOUS | PRIVATE
        "print(at is not None and at != ctypes.c_void_p(-1).value, flush=True)\n"
        "sys.stdin.read()\n"
    )
    target = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert target.stdout is not None
        if target.stdout.readline().strip() != "True":
            pytest.skip("this kernel lets nobody reserve 1 TiB")
        opened = open_address_space(target.pid)
        assert isinstance(opened, Value)
        chosen = [one for one in opened.value.maps if one.private_writable]
        began_s = time.monotonic()
        late = opened.value.resident(chosen, time.monotonic() - 1)
        assert late.unseen_bytes >= 1 << 40
        assert late.runs == ()
        some = opened.value.resident(chosen, time.monotonic() + 0.2)
        assert time.monotonic() - began_s < 20
        assert some.bytes < 1 << 30
    finally:
        target.kill()
        target.wait()
        for stream in (target.stdin, target.stdout):
            assert stream is not None
            stream.close()


def test_an_ended_process_is_gone():
    script = "print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
        assert target.stdout is not None
        assert target.stdout.readline() == b"1\n"  # it is past its exec
        opened = open_address_space(target.pid)
        target.kill()
    assert isinstance(opened, Value)
    with pytest.raises(ProcessLost) as lost:
        opened.value.read(opened.value.maps[0].start, 1)
    assert lost.value.missing.reason is Reason.GONE
    again = open_address_space(target.pid)
    assert isinstance(again, Missing)
    assert again.reason is Reason.GONE


def test_a_kernel_thread_has_no_address_space():
    stats = [procfs.stat(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()]
    threads = [one.value.pid for one in stats if isinstance(one, Value) and one.value.kernel_thread]
    if not threads:
        pytest.skip("no kernel thread is visible here")
    opened = open_address_space(threads[0])
    assert isinstance(opened, Missing)
    assert opened.reason is Reason.NO_DATA
