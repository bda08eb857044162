"""Control groups: v1 and v2 give the same words, the lowest limit counts, and nothing that is absent counts as zero."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Reason, Value
from osremed.sensors import cgroup

MIB = 1 << 20
HYBRID = (
    b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    b"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
    b"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
UNIFIED = b"41 31 0:38 / /sys/fs/my\\040cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def host(tmp_path: Path, mountinfo: bytes) -> dict[str, str]:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_bytes(mountinfo)
    return {"root": str(tmp_path / "proc"), "prefix": str(tmp_path)}


def test_on_a_hybrid_host_memory_is_where_the_controller_is(tmp_path: Path) -> None:
    found = cgroup.memory_hierarchy(**host(tmp_path, HYBRID))
    assert found == Value(cgroup.Hierarchy(1, f"{tmp_path}/sys/fs/cgroup/memory"))


def test_on_a_host_with_a_thousand_containers_memory_is_found_all_the_same(tmp_path: Path) -> None:
    layers = ":".join(f"/var/lib/containers/snapshots/{layer}/fs" for layer in range(16))
    line = "%d 41 0:99 / /run/containers/%064x/rootfs rw - overlay overlay rw,lowerdir=%s\n"
    many = "".join(line % (number, number, layers) for number in range(1500)).encode("ascii")
    assert len(many) > 1 << 20
    assert cgroup.memory_hierarchy(**host(tmp_path, many + HYBRID)).value.version == 1


def test_a_unified_mount_counts_only_with_the_memory_controller(tmp_path: Path) -> None:
    where = host(tmp_path, UNIFIED)
    mount = tmp_path / "sys/fs/my cgroup"
    mount.mkdir(parents=True)
    (mount / "cgroup.controllers").write_text("cpu io\n")
    assert cgroup.memory_hierarchy(**where).reason is Reason.UNSUPPORTED
    (mount / "cgroup.controllers").write_text("cpu io memory\n")
    assert cgroup.memory_hierarchy(**where) == Value(cgroup.Hierarchy(2, str(mount)))


def test_v1_takes_the_hierarchical_figures(v1) -> None:
    group = v1(limit=512 * MIB, usage=500 * MIB, rss=7, cache=9, active_file=100 * MIB, inactive_file=60 * MIB)
    stat = cgroup.stat(group).value
    assert (stat["anon"], stat["file"]) == (7, 9)
    memory = cgroup.memory(group).value
    assert (memory.limit_bytes, memory.usage_bytes) == (512 * MIB, 500 * MIB)
    assert memory.reclaimable_bytes == (160 - 16) * MIB
    assert memory.available_bytes == (12 + 144) * MIB
    assert memory.swap_room_bytes is None


def test_v2_takes_the_lowest_limit_of_the_line(v2) -> None:
    v2("/pods", limit=str(256 * MIB))
    v2("/pods/one", limit=str(300 * MIB))
    leaf = v2("/pods/one/main", usage=200 * MIB)
    assert cgroup.limit(leaf) == Value(256 * MIB)
    assert cgroup.memory(leaf).value.available_bytes == 56 * MIB
    v2("/pods", limit=str(400 * MIB))
    assert cgroup.limit(leaf) == Value(300 * MIB)


def test_without_a_limit_there_is_no_availability(v1, v2) -> None:
    assert cgroup.memory(v1("/a", limit=9223372036854771712)).reason is Reason.NO_DATA
    assert cgroup.memory(v2("/b")).reason is Reason.NO_DATA


def test_where_nothing_limits_a_group_the_line_at_which_it_is_throttled_does(v2) -> None:
    v2("/pods", high=str(300 * MIB))
    leaf = v2("/pods/one", high=str(400 * MIB), usage=200 * MIB)
    assert cgroup.memory(leaf).value.limit_bytes == 300 * MIB
    assert cgroup.limit(leaf).reason is Reason.NO_DATA
    limited = v2("/pods/two", limit=str(900 * MIB), high=str(100 * MIB))
    assert cgroup.memory(limited).value.limit_bytes == 900 * MIB, "a limit is a limit, and high only a brake before it"


def test_a_small_cache_is_reclaimable_by_half_only(v1) -> None:
    assert cgroup.memory(v1(limit=512 * MIB, inactive_file=20 * MIB)).value.reclaimable_bytes == 10 * MIB


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_availability_is_never_negative_nor_above_the_limit(limit: int, used: int, active: int, inactive: int) -> None:
    reclaimable = cgroup.reclaimable_bytes(active, inactive, limit)
    assert 0 <= reclaimable <= active + inactive
    assert 0 <= cgroup.GroupMemory(limit, used, reclaimable, None).available_bytes <= limit


def test_a_vanished_group_is_gone_and_a_damaged_one_malformed(v1) -> None:
    group = v1(limit=MIB)
    assert cgroup.memory(cgroup.group(group.hierarchy, "/none")).reason is Reason.GONE
    assert cgroup.pids(cgroup.group(group.hierarchy, "/none")).reason is Reason.GONE
    Path(group.directory, "memory.usage_in_bytes").write_text("-5\n")
    assert cgroup.memory(group).reason is Reason.MALFORMED
    Path(group.directory, "memory.stat").write_text("hierarchical_memory_limit 5\n")
    assert cgroup.memory(group).reason is Reason.MALFORMED


def test_pids_are_those_of_all_groups_below_and_never_zero(v1) -> None:
    group = v1("/app", pids="7\n0\n")
    v1("/app/child/grandchild", pids="9\n7\n")
    Path(group.directory, "child/cgroup.procs").write_text("8\n")
    v1("/other", pids="10\n")
    assert cgroup.pids(group) == Value((7, 8, 9))


@pytest.mark.parametrize("path", ["app", "/a/../b", "", "/a\0b"])
def test_a_path_that_could_leave_the_hierarchy_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="below the hierarchy"):
        cgroup.group(cgroup.Hierarchy(1, "/x"), path)


def test_swap_room_follows_the_limits_of_the_group(v2) -> None:
    group = v2(limit=str(100 * MIB))
    assert cgroup.memory(group).value.swap_room_bytes is None
    Path(group.directory, "memory.swap.max").write_text(f"{30 * MIB}\n")
    Path(group.directory, "memory.swap.current").write_text(f"{10 * MIB}\n")
    assert cgroup.memory(group).value.swap_room_bytes == 20 * MIB


@given(st.binary(max_size=200))
def test_parsers_raise_nothing_but_value_error_on_noise(data: bytes) -> None:
    cgroup.parse_mountinfo(data)
    for parse in (cgroup.parse_flat, cgroup.parse_limit, cgroup.parse_pids):
        try:
            parse(data)
        except ValueError as error:
            assert not isinstance(error, UnicodeError)
