"""The balance closes by construction, and what a kernel does not tell is named, not counted as nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.balance import KernelFigures, group_balance, kernel_bytes_v2, node_balance
from osremed.panorama.model import BalanceLine, Part

FIELDS = [
    "MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "Shmem", "SReclaimable", "SUnreclaim", "KernelStack",
    "PageTables", "SecPageTables", "VmallocUsed", "Percpu", "Hugetlb", "Balloon", "Zswap",
]  # fmt: skip
sizes = st.integers(min_value=0, max_value=1 << 50)


def known(balance):
    return [line.bytes.value for line in balance.lines if isinstance(line.bytes, Value)]


def named(balance, name):
    return next(line for line in balance.lines if line.name == name)


@given(st.fixed_dictionaries({"MemTotal": sizes}, optional=dict.fromkeys(FIELDS, sizes)), sizes)
def test_parts_and_residual_sum_to_the_total_whatever_the_kernel_tells(fields, parked):
    balance = node_balance(Value(fields), Value(parked)).value
    assert sum(known(balance)) == balance.total_bytes == fields["MemTotal"]


@given(st.dictionaries(st.sampled_from(["anon", "file", "shmem", "sock", "kernel", "slab"]), sizes), sizes, sizes)
def test_parts_and_residual_of_a_group_sum_to_its_limit(stat, usage, left):
    free = BalanceLine("free below the limit", "free", Value(left), "limit - usage")
    balance = group_balance(free, usage, stat, kernel_bytes_v2(stat, "memory.stat"), "memory.stat")
    assert sum(known(balance)) == balance.total_bytes == usage + left


def test_the_residual_is_the_total_less_every_known_part():
    fields = {"MemTotal": 1000, "MemFree": 400, "Cached": 200, "Shmem": 50, "AnonPages": 100, "SReclaimable": 7}
    balance = node_balance(Value(fields), Value(30)).value
    assert balance.residual_bytes == 1000 - 400 - 200 - 100 - 7 - 30
    assert named(balance, "page cache of files").bytes == Value(150)
    assert named(balance, "shared memory and tmpfs").bytes == Value(50)


def test_a_field_that_the_kernel_lacks_is_missing_and_is_named_with_the_residual():
    balance = node_balance(Value({"MemTotal": 1000, "MemFree": 400}), Value(0)).value
    line = named(balance, "per-CPU data")
    assert isinstance(line.bytes, Missing)
    assert line.bytes.reason is Reason.UNSUPPORTED
    assert "Percpu" in line.bytes.detail
    assert "per-CPU data" in named(balance, "unaccounted").note


def test_unreadable_per_cpu_lists_are_missing_and_widen_the_residual():
    denied = Missing(Reason.DENIED, "/proc/zoneinfo")
    balance = node_balance(Value({"MemTotal": 1000, "MemFree": 400}), denied).value
    assert named(balance, "free, in per-CPU lists").bytes == denied
    assert balance.residual_bytes == 600


def test_kernel_stacks_are_counted_only_where_vmalloc_cannot_hold_them():
    inside = node_balance(Value({"MemTotal": 100, "KernelStack": 5, "VmallocUsed": 9}), Value(0)).value
    outside = node_balance(Value({"MemTotal": 100, "KernelStack": 9, "VmallocUsed": 5}), Value(0)).value
    assert "kernel stacks" not in [line.name for line in inside.lines]
    assert named(outside, "kernel stacks").bytes == Value(9)


def test_without_meminfo_there_is_no_balance():
    gone = Missing(Reason.DENIED, "/proc/meminfo")
    assert node_balance(gone, Value(1)) is gone


def test_kernel_memory_of_a_v2_group_is_one_figure_or_the_sum_of_its_parts():
    assert kernel_bytes_v2({"kernel": 70, "slab": 30}, "s") == Value(70)
    assert kernel_bytes_v2({"slab": 30, "kernel_stack": 5, "sock": 9}, "s") == Value(35)
    assert isinstance(kernel_bytes_v2({"anon": 1}, "s"), Missing)


HUGE = {
    "MemTotal": 1 << 40,
    "Hugepagesize": 2 << 20,
    "HugePages_Total": 100,
    "HugePages_Free": 60,
    "HugePages_Rsvd": 50,
}


def huge_parts(fields, figures):
    (line,) = [each for each in node_balance(Value(fields), Value(0), figures).value.lines if each.name == "huge pages"]
    return {part.name: part.bytes for part in line.parts}


def test_reserved_huge_pages_are_not_idle():
    parts = huge_parts({**HUGE, "Hugetlb": 200 << 20}, KernelFigures())
    assert parts == {"in use or reserved": 180 << 20, "idle": 20 << 20}


def test_with_huge_pages_of_two_sizes_what_is_idle_is_told_over_all_pools_or_not_at_all():
    fields = {**HUGE, "Hugetlb": (200 << 20) + (4 << 30)}
    assert huge_parts(fields, KernelFigures()) == {}
    parts = huge_parts(fields, KernelFigures(huge_idle_bytes=Value((20 << 20) + (1 << 30))))
    assert parts == {"in use or reserved": (180 << 20) + (3 << 30), "idle": (20 << 20) + (1 << 30)}


def test_parts_of_shared_memory_that_is_in_swap_are_never_more_than_the_line():
    tmpfs = Value((Part("tmpfs /a", 6000), Part("tmpfs /b", 3000)))
    balance = node_balance(
        Value({"MemTotal": 1 << 20, "Cached": 4000, "Shmem": 3000}), Value(0), KernelFigures(shmem=tmpfs)
    )
    (line,) = [each for each in balance.value.lines if each.kind == "shmem"]
    assert [part.bytes for part in line.parts] == [2000, 1000]
    assert "swap" in line.note
