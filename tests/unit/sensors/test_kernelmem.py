"""What the kernel holds, by owner: lines as kernels write them, and what they would never write."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import kernelmem, smaps

PAGE = os.sysconf("SC_PAGE_SIZE")
SLABINFO = b"""slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount>
nf_conntrack_1      0      0    256   16    1 : tunables    0    0    0 : slabdata      0      0      0
ext4_inode_cache 900 1000 1096 29 8 : tunables 0 0 0 : slabdata 40 40 0
dentry 4000 4200 192 21 1 : tunables 120 60 8 : slabdata 200 200 0
"""
VMALLOCINFO = b"""0x0000000024200603-0x00000000711a7ce7   20480 irq_init_percpu_irqstack+0xca/0x100 vmap
0x00000000711a7ce7-0x000000007f0cb601    8192 acpi_os_map_iomem+0x1bc/0x1e0 phys=0x00000000000a0000 ioremap
0x000000002d9cb058-0x000000007f87f998   20480 kernel_clone+0x94/0x3e0 pages=4 vmalloc N0=4
0x000000002d9cb058-0x000000007f87f998   20480 kernel_clone+0x94/0x3e0 pages=4 vmalloc N0=4
0x000000002d9cb058-0x000000007f87f998   20480 xfs_alloc+0x94/0x3e0 [xfs] pages=7 vmalloc vpages N0=4
0x000000002d9cb058-0x000000007f87f998   20480
"""
PARSERS = [
    kernelmem.parse_slabinfo, kernelmem.parse_vmallocinfo, kernelmem.parse_buddyinfo, kernelmem.parse_sysv,
    kernelmem.parse_sockstat, kernelmem.parse_mm_stat, kernelmem.parse_kstat, smaps.parse_rollup,
]  # fmt: skip


def test_slab_caches_come_by_the_pages_they_take():
    caches = kernelmem.parse_slabinfo(SLABINFO)
    assert [(cache.name, cache.bytes) for cache in caches] == [
        ("ext4_inode_cache", 40 * 8 * PAGE), ("dentry", 200 * PAGE), ("nf_conntrack_1", 0),
    ]  # fmt: skip
    assert caches[1].active_bytes == 4000 * 192


def test_a_cache_line_that_is_cut_makes_the_whole_malformed_rather_than_smaller():
    with pytest.raises(ValueError, match="slabinfo"):
        kernelmem.parse_slabinfo(SLABINFO[:-30] + b"\n")


def test_vmalloc_counts_areas_with_pages_by_caller_and_module():
    found = kernelmem.parse_vmallocinfo(VMALLOCINFO)
    assert found == {"kernel_clone": 8 * PAGE, "xfs_alloc [xfs]": 7 * PAGE}


def test_free_blocks_are_summed_over_zones_of_different_height():
    data = b"Node 0, zone      DMA      1      0      3 \nNode 0, zone   Normal      4      1      0      2 \n"
    assert kernelmem.parse_buddyinfo(data) == (5, 1, 3, 2)


def test_segments_are_read_by_the_header_of_their_table():
    data = (
        b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime  "
        b"dtime      ctime                   rss                  swap\n"
        b"        -1     32769  1600              1048576  4000  4001      0  1000  1000  1000  1000          0  "
        b"0 1700000000               524288                  4096\n"
    )
    (segment,) = kernelmem.parse_sysv(data)
    assert (segment.key, segment.segment_id, segment.attached, segment.uid) == (-1, 32769, 0, 1000)
    assert (segment.size_bytes, segment.resident_bytes, segment.swap_bytes) == (1 << 20, 1 << 19, 4096)
    assert not segment.huge_pages
    (huge,) = kernelmem.parse_sysv(data.replace(b" 524288 ", b" 536870912 "))
    assert (huge.resident_bytes, huge.huge_pages) == (1 << 20, True)


def test_socket_memory_is_pages_but_for_fragments():
    data = b"sockets: used 16\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 3\nRAW: inuse 0\nFRAG: inuse 0 memory 77\n"
    assert kernelmem.parse_sockstat(data) == {"TCP": 3 * PAGE, "FRAG": 77}


def test_a_rollup_gives_private_memory_as_the_sum_of_its_kinds():
    text = (
        "55-7f ---p 00000000 00:00 0 [rollup]\nRss: 40 kB\nPss: 30 kB\nPss_Anon: 20 kB\nPrivate_Clean: 1 kB\n"
        "Private_Dirty: 2 kB\nPrivate_Hugetlb: 4 kB\nSwapPss: 8 kB\n"
    )
    sizes = smaps.parse_rollup(text.encode())
    assert (sizes.pss_bytes, sizes.private_bytes, sizes.swap_pss_bytes) == (30 << 10, 7 << 10, 8 << 10)
    assert (sizes.pss_anon_bytes, sizes.pss_file_bytes) == (20 << 10, None)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@settings(deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.sampled_from([SLABINFO, VMALLOCINFO]).flatmap(
    lambda text: st.integers(0, len(text)).map(lambda cut: text[:cut]))))  # fmt: skip
def test_no_bytes_make_a_parser_raise_anything_but_value_error(parse, data):
    with contextlib.suppress(ValueError):
        parse(data)


def test_this_host_s_vmalloc_areas_sum_to_what_meminfo_says():
    callers = kernelmem.vmalloc_callers()
    if isinstance(callers, Missing):
        pytest.skip(f"{callers}")
    with open("/proc/meminfo", "rb") as file:
        told = next(int(line.split()[1]) << 10 for line in file if line.startswith(b"VmallocUsed:"))
    assert abs(sum(callers.value.values()) - told) < 0.25 * told + (4 << 20)


def test_zram_is_unsupported_without_a_device_and_summed_over_devices(tmp_path):
    (tmp_path / "block" / "sda").mkdir(parents=True)
    assert kernelmem.zram_bytes(str(tmp_path)).reason is Reason.UNSUPPORTED
    for name, used in (("zram0", 4096), ("zram1", 8192)):
        (tmp_path / "block" / name).mkdir()
        (tmp_path / "block" / name / "mm_stat").write_text(f"  100 50 {used} 0 9999 0 0 0 0\n")
    assert kernelmem.zram_bytes(str(tmp_path)) == Value(12288)


@pytest.mark.parametrize(("kind", "bits", "inside"), [("0x0005", "0010", True), ("0x0005", "0100", False),
                                                      ("0x0001", "0010", False)])  # fmt: skip
def test_a_balloon_counts_in_memtotal_only_with_deflate_on_oom(tmp_path, kind, bits, inside):
    device = tmp_path / "bus" / "virtio" / "devices" / "virtio0"
    device.mkdir(parents=True)
    (device / "device").write_text(f"{kind}\n")
    (device / "features").write_text(f"{bits}{'0' * 60}\n")
    assert kernelmem.balloon_is_inside_total(str(tmp_path)) is inside


@pytest.mark.parametrize("path", ["module/vmw_balloon/parameters", "class/dmi/id"])
def test_vmware_s_balloon_counts_in_memtotal(tmp_path, path):
    (tmp_path / path).mkdir(parents=True)
    (tmp_path / path / "sys_vendor").write_text("VMware, Inc.\n")
    assert kernelmem.balloon_is_inside_total(str(tmp_path))


def test_huge_page_pools_of_all_sizes_are_summed(tmp_path):
    for size_kb, count in ((2048, 3), (1048576, 1)):
        pool = tmp_path / "kernel" / "mm" / "hugepages" / f"hugepages-{size_kb}kB"
        pool.mkdir(parents=True)
        (pool / "nr_hugepages").write_text(f"{count}\n")
        (pool / "free_hugepages").write_text(f"{count}\n")
        (pool / "resv_hugepages").write_text("1\n")
    assert kernelmem.huge_pool_bytes(str(tmp_path)) == Value((3 * 2048 + 1048576) << 10)
    assert kernelmem.huge_idle_bytes(str(tmp_path)) == Value((2 * 2048) << 10)
