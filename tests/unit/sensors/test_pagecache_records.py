"""Records of the BPF programs, as bytes: what they say, and that hostile ones end in an error and nothing else."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.sensors import alloctrace, kernelowners, pagecache, pagescan
from osremed.sensors.bpf import perf, programs

PAGE = pagescan.PAGE_BYTES
REGULAR = 0o100644


def file_record(*, path=b"name\0directory\0", flags=0, mode=REGULAR, links=1, dev=254 << 20 | 3):
    head = struct.pack("=IIQQQQQIIIIII", 2, dev, 7, 9, 5, 20_000, 42, 1, links, mode, 0, flags, len(path))
    return head + path


def test_a_file_s_path_is_read_from_its_root_down():
    file = pagecache.parse_file(file_record(path=b"file\0inner\0outer\0"))
    assert (file.path, file.device, file.inode) == ("/outer/inner/file", "254:3", 42)
    assert (file.cached_bytes, file.size_bytes) == (5 * PAGE, 20_000)
    assert (file.path_is_whole, file.nameless, file.mapped) == (True, False, False)


@pytest.mark.parametrize(
    ("flags", "path", "field", "expected"),
    [
        (1, b"gone\0", "nameless", True),
        (2, b"deep\0", "path_is_whole", False),
        (4, b"", "path", ""),
        (8, b"library\0", "mapped", True),
        (16, b"memfd:x\0", "path", "memfd:x"),
    ],
)
def test_what_is_special_about_a_file_is_told(flags, path, field, expected):
    assert getattr(pagecache.parse_file(file_record(path=path, flags=flags)), field) == expected


def test_a_name_that_is_no_text_is_spelled_out():
    assert pagecache.parse_file(file_record(path=b"\xff\n\0")).path == "/\\xff\n"


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader_of_files(data):
    try:
        pagecache.parse_file(data)
    except struct.error:
        assert len(data) < 72


@given(st.lists(st.integers(0, 1000), min_size=40, max_size=40), st.integers(0, 20_000))
def test_at_most_as_many_files_as_asked_for_get_a_row(sizes, most):
    least = pagecache._least_pages(tuple(sizes), most)
    at_least = sum(count for size, count in enumerate(sizes) if 1 << size >= least)
    assert at_least <= most
    if least > 1:  # and a lower bound would be too many
        assert sum(count for size, count in enumerate(sizes) if 1 << size >= least // 2) > most


def owner(kind=3, pid=10, thing=1, inode=5, size=8192, uncounted=8192, family=0, type_=0, name=b""):
    return struct.pack("=IIQQQQII16s", kind, pid, thing, inode, size, uncounted, family, type_, name)


def test_a_thing_counts_once_with_all_who_have_it_open():
    rows = kernelowners.parse_owners(owner(pid=11) + owner(pid=10) + owner(pid=10, thing=2, size=4096, uncounted=0))
    assert [(row.kind, row.bytes, row.uncounted_bytes, row.pids) for row in rows] == [
        ("pipe", 8192, 8192, (10, 11)),
        ("pipe", 4096, 0, (10,)),
    ]


def test_sockets_and_buffers_say_what_they_are():
    rows = kernelowners.parse_owners(
        owner(kind=1, thing=1, family=2, type_=1)
        + owner(kind=1, thing=2, family=99, type_=9)
        + owner(kind=7, thing=3, name=b"system-heap\0")
    )
    assert sorted(row.detail for row in rows) == ["IPv4 stream", "family 99 type 9", "system-heap"]


def test_more_uncounted_than_there_is_is_cut():
    assert kernelowners.parse_owners(owner(size=100, uncounted=1 << 60))[0].uncounted_bytes == 100


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader_of_owners(data):
    with contextlib.suppress(struct.error, ValueError):
        kernelowners.parse_owners(data)


def test_memory_ranges_are_whole_pages_of_system_ram():
    iomem = (
        b"00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n  000a0000-000bffff : System RAM\n"
        b"100000000-13fffffff : System RAM\n"
    )
    assert pagescan.parse_ram(iomem) == [(1, 0x9F - 1), (0x100000, 0x40000)]


def test_hidden_addresses_are_no_memory_of_zero_bytes():
    with pytest.raises(ValueError, match="hidden"):
        pagescan.parse_ram(b"00000000-00000000 : System RAM\n")


def test_lists_of_cpus_are_read_and_refused():
    assert perf.parse_cpu_list(b"0-2,8\n") == [0, 1, 2, 8]
    for wrong in (b"", b"x", b"3-1", b"0-99999999", b"-1"):
        with pytest.raises(ValueError, match=r"counter|CPUs"):
            perf.parse_cpu_list(wrong)


def test_the_cost_of_a_program_is_read_from_its_descriptor():
    told = b"pos:\t0\nprog_type:\t17\nrun_time_ns:\t1200\nrun_cnt:\t3\nrecursion_misses:\t1\n"
    assert programs.parse_cost(told) == programs.Cost(1200, 3, 1)
    assert programs.parse_cost(told.replace(b"recursion_misses:\t1\n", b"")).missed_runs == 0
    with pytest.raises(ValueError, match="statistics"):
        programs.parse_cost(b"pos:\t0\n")


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        (["allocate_slab", "___slab_alloc", "kmem_cache_alloc"], "slab"),
        (["vm_area_alloc_pages", "__vmalloc_node_range_noprof"], "vmalloc"),
        (["pte_alloc_one", "__pte_alloc"], "page tables"),
        (["packet_set_ring", "packet_setsockopt"], ""),
    ],
)
def test_a_stack_says_in_which_counter_its_pages_are(functions, expected):
    assert alloctrace.counted_as(functions) == expected
